"""``account test``: logs in, lists, and tells what the next poll would fetch and delete.

It asks for UIDLs, sizes and some header blocks (UIDL, STAT, LIST, TOP), and then quits: no RETR, no
DELE, and nothing is written down. What is compared is what a poll compares; whether a message that
is new by its UIDL was here before under another one, only its content tells, which is not read.
While a poll has the maildrop open, most servers refuse this login, and while this has it open, the
poll's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from services.account_findings import Findings, Named
from services.check_connections import PATIENCE, trouble_with
from services.fetcher.account import Account
from services.fetcher.internal_data import LARGEST, is_internal_data
from services.fetcher.inventory import take_inventory
from services.fetcher.large_listings import ListingTurns
from services.fetcher.ledger_pages import LedgerPages
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.quirk_tracker import remembered_quirks
from services.fetcher.troubles import Troubles
from services.fetcher.wiring import account as account_of
from services.fetcher.worklist import ListedMessage
from services.postmaster.opening import missing_database, open_state
from services.trial_tokens import TrialTokens
from shared.clock import SystemClock
from shared.errors import ConfigError, MaildropBusy, PromiseBroken, ServerFault
from shared.ledger import AccountStanding, Known
from shared.log import MailLog, printable
from shared.settings.account import AccountSettings
from shared.settings.model import Settings
from shared.settings.written_secrets import secrets_in

if TYPE_CHECKING:
    from shared.state import State

NAMED: Final = 10
"""Messages of which the header block is looked at, from each end of what is new."""

_WITHOUT: Final = 4
"""Sessions that may break at something that the server does not keep."""

_FIELD: Final = re.compile(
    rb"^(From|Subject|Date):[ \t]*([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.I | re.M
)


class _UnchangedLedger:
    """What is recorded, of which nothing is changed; nothing where there is no database."""

    def __init__(self, state: State | None) -> None:
        self._state = state

    async def known(self, account: str, *, after: str = "", most: int = 2**31) -> dict[str, Known]:
        """Return what has been fetched from an account, by UIDL."""
        if self._state is None:
            return {}
        return await self._state.known(account, after=after, most=most)

    async def measure(self, account: str, sizes: Mapping[str, int]) -> None:
        """Record no size."""

    async def forget(self, account: str, uidls: Sequence[str]) -> None:
        """Forget nothing."""


def find(table: AccountSettings, settings: Settings, log: MailLog) -> Findings:
    """Return what the next poll of an account would do.

    Args:
        table: the account.
        settings: the configuration that it stands in.
        log: where the dialogue is told, if it is for debugging.

    Raises:
        StateUnavailable: the state database does not answer.
    """
    return asyncio.run(_find(table, settings, log))


async def _find(table: AccountSettings, settings: Settings, log: MailLog) -> Findings:
    known = secrets_in(settings)
    tokens = TrialTokens(settings, known)
    try:
        account = account_of(table, settings.limits, known, tokens=await tokens.of_account(table))
        if missing_database(settings) is not None:
            return await _try(account, None, AccountStanding(), settings, log)
        async with open_state(settings.state_address()) as state:
            standing = await state.recall(account.name, account.server)
            return await _try(account, state, standing, settings, log)
    finally:
        await tokens.close()


async def _try(
    account: Account,
    state: State | None,
    standing: AccountStanding,
    settings: Settings,
    log: MailLog,
) -> Findings:
    findings = Findings(account.name, account.server, account.login.tls)
    findings.note_standing(standing, skips=account.intake.skip_existing)
    wait = standing.login_after - SystemClock().now()
    try:
        if wait > 0:
            said = f"the server wants {wait:.0f} seconds more before the next login (LOGIN-DELAY)"
            raise MaildropBusy(account.server, said)
        await _look(account, state, standing, settings.limits.max_messages, log, findings)
    except (ServerFault, ConfigError) as error:
        findings.failed = trouble_with(error)
    return findings


async def _look(
    account: Account,
    state: State | None,
    standing: AccountStanding,
    most: int,
    log: MailLog,
    findings: Findings,
) -> None:
    """Look once; without what the server does not keep, where it breaks at that."""
    quirks = remembered_quirks(standing)
    login = replace(account.login, timeout=min(account.login.timeout, PATIENCE))
    for left in reversed(range(_WITHOUT)):
        session = await Pop3Session.open(
            login, quirks, log.dialogue(account=account.name), max_messages=most
        )
        try:
            await _take_stock(session, account, state, standing, findings)
        except PromiseBroken as broken:
            if not left or session.quirks.has(broken.quirk):
                raise
            quirks = session.quirks.having(broken.quirk)
        else:
            with suppress(ServerFault):  # all is told
                await session.quit()
            return
        finally:
            await session.abort()


async def _take_stock(
    session: Pop3Session,
    account: Account,
    state: State | None,
    standing: AccountStanding,
    findings: Findings,
) -> None:
    findings.note_login(session.mechanism, session.capabilities)
    now = SystemClock().now()
    ledger = _UnchangedLedger(state)
    known = LedgerPages(ledger, account.name, asyncio.Lock())
    try:
        async with ListingTurns().turn() as turn:
            inventory = await take_inventory(
                session,
                ledger,
                now,
                account,
                known,
                sizes_vary=False,
                large=standing.large,
                troubled=standing.troubles.keys(),
                turn=turn,
            )
    finally:
        await known.close()
    work, troubles = inventory.work, Troubles(standing.troubles, now)
    findings.note_listing(work, inventory.notes)
    for listed in work.fetch:
        if (listed.size or 0) > account.max_size:
            findings.too_large.append(_named(listed))
        elif troubles.left_alone(listed.key):
            findings.left_alone.append(_named(listed))
        elif listed.uidl is not None and listed.uidl in work.adopted:
            findings.adopted += 1
        else:
            findings.fetch.append(_named(listed))
    for safe in work.due:
        if not troubles.left_alone(safe.key, deletes=True):
            findings.delete.append(_named(safe.listed))
    try:
        await _look_at_heads(session, findings)
    except ServerFault as error:  # nothing depends on it
        findings.notes.append(f"header blocks cannot be looked at: {error}")
    if account.keep == 0:
        findings.delete += findings.fetch


async def _look_at_heads(session: Pop3Session, findings: Findings) -> None:
    """Tell some of what is new by its header block, and what is no mail."""
    offered = session.capabilities
    if session.quirks.no_top or (offered and "TOP" not in offered):
        return
    ends = {named.number: named for named in findings.fetch[:NAMED] + findings.fetch[-NAMED:]}
    async with aclosing(session.tops(sorted(ends))) as tops:
        async for number, top in tops:
            named = ends[number]
            small = named.size is None or named.size <= LARGEST
            if top is not None and small and is_internal_data(top):
                findings.internal.append(named)
                findings.fetch.remove(named)
            elif top is not None:
                named.about = _about(top)


def _named(listed: ListedMessage) -> Named:
    return Named(listed.number, listed.uidl, listed.size)


def _about(head: bytes) -> dict[str, str]:
    """Return what a header block says of its message, fit to be shown."""
    end = re.search(rb"\r?\n\r?\n", head)
    found = _FIELD.findall(head[: end.start() + 1] if end else head)
    texts = ((name.decode().lower(), b" ".join(value.split())) for name, value in reversed(found))
    return {name: printable(value.decode("utf-8", "replace"), 200) for name, value in texts}
