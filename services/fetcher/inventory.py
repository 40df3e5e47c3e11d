"""Takes stock of a maildrop: asks the server what there is, and no more of that than is needed.

UIDL and STAT always. Sizes of everything where that is little; else of what is new, and of all only
where STAT differs from the sum of what the ledger knows: reading 100,000 lines at every poll would
double what it costs. It trusts sizes to be the same for the same message, until the server has been
seen to change them (``SIZES_VARY``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.fetcher.account import Account
from services.fetcher.compare import Comparison, usable
from services.fetcher.interfaces import ListingLedger
from services.fetcher.large_listings import ListingTurn
from services.fetcher.ledger_pages import LedgerPages
from services.fetcher.pop3.listing import UidlListing
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.pop3.survey import Survey
from services.fetcher.worklist import Worklist

FEW: Final = 1_000
"""Messages up to which a whole listing of sizes costs no more than asking what to list."""

SIZES_VARY: Final = "sizes_vary"
"""The quirk of a server that says another size of the same message from one day to the next."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a session found.

    Attributes:
        listed: which of the keys that were asked about a message has (``ListedMessage.key``).
        quirk: what the server offered and did not keep.
        notes: what cannot be done as it should be, in words for the user.
    """

    work: Worklist
    listed: Collection[str]
    quirk: str | None
    notes: tuple[str, ...]


async def take_inventory(
    session: Pop3Session,
    ledger: ListingLedger,
    now: float,
    account: Account,
    known: LedgerPages,
    *,
    sizes_vary: bool,
    large: bool,
    troubled: Collection[str],
    turn: ListingTurn,
    most: int | None = None,
) -> Inventory:
    """Compare what the server lists with what the ledger knows; forget what is listed no longer.

    Args:
        session: logged in.
        ledger: is told of what is gone, and of sizes that it did not know.
        now: seconds since 1970 (UTC).
        account: whose maildrop it is.
        known: what the ledger knows, on its way since before the login.
        sizes_vary: whether other sizes mean nothing at this server.
        large: whether much is recorded of this maildrop: then not all sizes are asked for, and what
            is recorded is read while the server lists.
        troubled: the keys of messages with which there was trouble before.
        turn: is taken where the listing is very large, until the caller is done with it.
        most: messages that are fetched at once; None for as many as usual.
    """
    if not large:
        await known.ready()
    survey = await session.surveyor.survey(sizes=not large, take_turn=turn.take)
    listing = survey.uidls or UidlListing()
    uidls = usable(listing.numbers, survey.count, listing.highest)
    name, keep = account.name, account.keep

    async def compare_with(sizes: Mapping[int, int]) -> tuple[Worklist, Comparison]:
        comparison = Comparison(
            uidls,
            survey.count,
            keep,
            now,
            sizes,
            vary=sizes_vary,
            newest_first=account.intake.newest_first,
            most=most,
        )
        async for page in known.read():
            gone, unknown = comparison.take(page)
            if gone:
                await ledger.forget(name, gone)
            if unknown:
                await ledger.measure(name, unknown)
            await asyncio.sleep(0)
        for work in comparison.worklist():
            if work is not None:
                return work, comparison
            await asyncio.sleep(0)
        raise AssertionError("a comparison comes to a worklist")

    sizes: Mapping[int, int] | None = survey.sizes
    work, comparison = await compare_with(sizes or {})
    if sizes is None:
        sizes = await _ask_sizes(session, survey, work, comparison, sizes_vary)
        if len(sizes) > len(work.fetch):
            work, _ = await compare_with(sizes)
        else:
            work = replace(work, fetch=work.fetch.with_sizes(sizes))
    named = {key for key in troubled if key in uidls}
    listed = named | work.fetch.indexes(set(troubled) - named).keys()
    return Inventory(work, listed, survey.quirk, _notes(survey, work, sizes, keep))


async def _ask_sizes(
    session: Pop3Session, survey: Survey, work: Worklist, comparison: Comparison, vary: bool
) -> Mapping[int, int]:
    """Return the sizes of what is new, or of everything where that tells more."""
    # One by one they are a round trip, or, without pipelining, one each; a line is 15 bytes.
    few = survey.count // 10 if "PIPELINING" in session.capabilities else survey.count // 1_000
    if comparison.fresh > max(1, min(few, FEW)):
        return await session.surveyor.sizes()
    sizes = await session.surveyor.sizes(work.fetch.numbers) if work.fetch else {}
    if vary or _adds_up(survey.octets, sizes, work, comparison):
        return sizes
    return await session.surveyor.sizes()


def _adds_up(
    octets: int | None, sizes: Mapping[int, int], work: Worklist, comparison: Comparison
) -> bool:
    """Return whether STAT says what it would if every known UIDL stood for the message it did."""
    if octets is None or comparison.octets is None or len(sizes) < len(work.fetch):
        return False
    return octets == sum(sizes.values()) + comparison.octets


def _notes(
    survey: Survey, work: Worklist, sizes: Mapping[int, int], keep: float
) -> tuple[str, ...]:
    first = f"the first {survey.count} of its messages are looked at ([limits] max_messages)"
    notes: Sequence[str | None] = (
        f"the maildrop is too large: {first}" if survey.beyond else None,
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
