"""Takes stock of a maildrop: asks the server what there is, and no more of that than is needed.

UIDL and STAT always. Sizes of everything where that is little; else of what is new, and of all only
where STAT differs from the sum of what the ledger knows: reading 100,000 lines at every poll would
double what it costs. It trusts sizes to be the same for the same message, until the server has been
seen to change them (``SIZES_VARY``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from services.fetcher.ports import Ledger
from services.fetcher.session import Session, Survey
from services.fetcher.worklist import Listed, Worklist, compare, usable
from shared.claims import Known

FEW: Final = 1_000
"""Messages up to which a whole listing of sizes costs no more than asking what to list."""

SIZES_VARY: Final = "sizes_vary"
"""The quirk of a server that says another size of the same message from one day to the next."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What a session found.

    Attributes:
        listed: the keys of all messages that there are (``Listed.key``).
        quirk: what the server offered and did not keep.
        notes: what cannot be done as it should be, in words for the user.
    """

    work: Worklist
    listed: frozenset[str]
    quirk: str | None
    notes: tuple[str, ...]


_SIZE: Final[Callable[[Known], int]] = attrgetter("size")


async def take_stock(
    session: Session,
    ledger: Ledger,
    account: str,
    known: asyncio.Task[Mapping[str, Known]],
    *,
    keep: float,
    now: float,
    sizes_vary: bool,
    large: bool,
) -> Stock:
    """Compare what the server lists with what the ledger knows.

    Args:
        session: logged on.
        ledger: told of sizes that it did not know.
        account: its name.
        known: what the ledger knows, on its way since before the login.
        keep: seconds for which messages stay on the server.
        now: seconds since 1970 (UTC).
        sizes_vary: whether other sizes mean nothing at this server.
        large: whether much is recorded of this maildrop: then not all sizes are asked for, and what
            is recorded is read while the server lists.
    """
    if not large:
        await known
    survey = await session.survey(sizes=not large)
    ledgered = await known
    uidls = usable(survey.uidls, survey.count)
    sizes: Mapping[int, int] | None = survey.sizes
    work = compare(uidls, survey.count, ledgered, keep, now, _believed(sizes, sizes_vary))
    if sizes is None:
        sizes = await _asked(session, survey, work, ledgered, sizes_vary)
        if len(sizes) > len(work.fetch):
            believed = _believed(sizes, sizes_vary)
            work = compare(uidls, survey.count, ledgered, keep, now, believed)
    missing = {
        uidl: sizes[n]
        for n, uidl in (uidls.items() if len(sizes) >= len(uidls) else ())
        if n in sizes and uidl in ledgered and ledgered[uidl].size is None
    }
    if missing:
        await ledger.measure(account, missing)
    fetch = [Listed(n, uidl, sizes.get(n)) for n, uidl, _ in work.fetch]
    measured = replace(work, fetch=tuple(fetch))
    listed = frozenset(uidls.values()).union(m.key for m in measured.fetch if m.uidl is None)
    return Stock(measured, listed, survey.quirk, _notes(survey, work, sizes, keep))


def _believed(sizes: Mapping[int, int] | None, vary: bool) -> Mapping[int, int]:
    return {} if sizes is None or vary else sizes


async def _asked(
    session: Session,
    survey: Survey,
    work: Worklist,
    known: Mapping[str, Known],
    vary: bool,
) -> Mapping[int, int]:
    """Return the sizes of what is new, or of everything where that tells more."""
    new = [message.number for message in work.fetch]
    # One by one they are a round trip, or, without pipelining, one each; a line is 15 bytes.
    few = survey.count // 10 if "PIPELINING" in session.capabilities else survey.count // 1_000
    if len(new) > max(1, min(few, FEW)):
        return await session.sizes()
    sizes = await session.sizes(new) if new else {}
    if vary or _adds_up(survey.octets, sizes, known, work):
        return sizes
    return await session.sizes()


def _adds_up(
    octets: int | None,
    sizes: Mapping[int, int],
    known: Mapping[str, Known],
    work: Worklist,
) -> bool:
    """Return whether STAT says what it would if every known UIDL stood for the message it did."""
    if octets is None or len(sizes) < len(work.fetch):
        return False
    try:
        before = sum(map(_SIZE, known.values())) - sum(_SIZE(known[uidl]) for uidl in work.gone)
        return octets == sum(sizes.values()) + before
    except TypeError:  # of one of them the size is not known
        return False


def _notes(
    survey: Survey, work: Worklist, sizes: Mapping[int, int], keep: float
) -> tuple[str, ...]:
    notes: Sequence[str | None] = (
        _unnamed(survey, work, keep),
        "LIST says no sizes: a message that comes too short is not noticed"
        if work.fetch and not sizes
        else None,
    )
    return tuple(note for note in notes if note is not None)


def _unnamed(survey: Survey, work: Worklist, keep: float) -> str | None:
    if not work.unnamed:
        return None
    if work.unnamed == work.found:
        # One message with the UIDL 1 is no reason yet to think ill of the server.
        if keep == 0 or (survey.uidls is not None and work.found == 1):
            return None
        return "the server has no UIDLs to go by: every message is read anew at each poll"
    named = work.found - work.unnamed
    what = f"the server lists {named} UIDLs of {work.found} messages"
    return what if keep == 0 else f"{what}: the others are read anew at each poll"
