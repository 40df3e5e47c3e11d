"""The state: leases, UID ledger, schedule and finished deliveries, in SQLite or PostgreSQL.

What a call writes is durable when it returns. One worker thread holds one connection; calls that
wait at the same moment share a transaction (group commit). When the database cannot be reached, is
locked or full, calls raise StateUnavailable and the next one may succeed. A value that it does not
take fails the call that brought it, with Unstorable, and nobody else's. All processes that use a
database trust each other, and their clocks to agree within a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Final

from shared.clock import Clock, SystemClock
from shared.errors import StateUnavailable, Unstorable
from shared.ledger import (
    AccountStanding,
    Claim,
    Known,
    LedgerEntry,
    MessageTrouble,
    Quirk,
)
from shared.log import Report, silent
from shared.mark import Mark
from shared.state import (
    choices,
    imports,
    installation,
    pauses,
    pruning,
    schedule,
    standing,
    uid_ledger,
    undelivered,
)
from shared.state.database import Database
from shared.state.held_leases import HeldLeases
from shared.state.installation import InstallationRecord, Question
from shared.state.lease_owner import new_owner
from shared.state.pruning import PruneCursor
from shared.state.schedule import AccountState
from shared.state.stored_tokens import StoredTokens
from shared.state.transactions import Transactions
from shared.state.uid_ledger import EVERYTHING
from shared.state.undelivered import Undelivered

__all__ = ["AccountState", "Claim", "Known", "LedgerEntry", "State", "new_owner"]

UNKNOWN: Final = (
    "fetched but cannot be recorded: it stays at the server, and each poll fetches it again"
)
ENROL_EVERY: Final = 3_600.0
"""Seconds after which it is made sure again that all accounts have a row: it may have been deleted,
or lost in a failover or by a backup that was put back."""

_SYSTEM_CLOCK: Final = SystemClock()
_AT_ONCE: Final[Mapping[str, float]] = MappingProxyType({})


class State:
    """The state as one process sees it; made by ``open``, used in one event loop.

    Attributes:
        lease, release: take and give back a lease, see ``HeldLeases``.
        claim, holds, finish, unclaim, let_expire: the same of deliveries, with what was delivered.
        claim, holds, finish, unclaim: the same of deliveries, with what was delivered.
        tokens: access tokens and refresh tokens, encrypted.
    """

    def __init__(
        self,
        database: Database,
        worker: ThreadPoolExecutor,
        owner: str,
        clock: Clock,
        report: Report,
    ) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._report = report
        transactions = Transactions(database, worker, owner, clock)
        self._ask, self._ask_all = transactions.ask, transactions.ask_all
        self._leases = held = HeldLeases(transactions, clock, report)
        self.lease, self.release = held.lease, held.release
        self.claim, self.holds = held.claim, held.holds
        self.finish, self.unclaim = held.finish, held.unclaim
        self.let_expire = held.let_expire
        self.tokens = StoredTokens(transactions)
        self._enrolled: set[str] = set()
        self._enrol_at = 0.0
        self._by_name = False
        self._renewing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str | Path,
        *,
        owner: str,
        clock: Clock = _SYSTEM_CLOCK,
        patience: float = 5.0,
        report: Report = silent,
    ) -> State:
        """Connect to the database; create or migrate its tables.

        Args:
            url: ``sqlite:///file`` or ``postgresql+psycopg://user:password@host/name``, or a file.
            owner: whose leases these are, from ``new_owner``.
            clock: wall clock for what is written, sleep for the renewal of leases.
            patience: seconds to wait for a lock or a new connection before giving up.
            report: told of what is wrong, and no call says.

        Raises:
            ConfigError: URL, password or file are wrong, or the schema is newer than this program.
            StateUnavailable: the database cannot be reached, or is locked; try again later.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="state")
        loop = asyncio.get_running_loop()
        try:
            database = Database(url, patience)
            await loop.run_in_executor(worker, database.open)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        state = cls(database, worker, owner, clock, report)
        state._renewing = loop.create_task(state._leases.renew(), name="state: renew leases")
        return state

    @property
    def damage(self) -> str | None:
        """Why the database will not answer again by itself: its file is damaged."""
        return self._database.damage

    async def close(self) -> None:
        """Let our leases expire, and disconnect. Whoever takes over a claim is told of a replay."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        with contextlib.suppress(StateUnavailable):  # then they expire by themselves
            await self._leases.expire()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._database.close)
        self._worker.shutdown(wait=False)

    async def known(
        self, account: str, *, after: str = "", most: int = EVERYTHING
    ) -> dict[str, Known]:
        """Return the UIDLs of an account that have been recorded, in an order of their own.

        Args:
            account: whose.
            after: those that come after this one.
            most: so many at the most.
        """
        return await self._ask(uid_ledger.KNOWN, account, after, most)

    async def seen(self, ids: Sequence[str]) -> dict[str, float]:
        """Return those of these identities that have been recorded, and since when."""
        return await self._ask(uid_ledger.SEEN, ids)

    async def heads(self, account: str, uidls: Sequence[str]) -> dict[str, str]:
        """Return the hashes of the header blocks of what is recorded, where they are known."""
        return await self._ask(uid_ledger.HEADS, account, uidls)

    async def alike(self, account: str, loose: Sequence[int], *, before: float) -> int:
        """Return how many of these looser fingerprints are those of messages seen earlier.

        Args:
            account: whose messages.
            loose: the fingerprints.
            before: seconds since 1970.
        """
        return await self._ask(uid_ledger.ALIKE, account, loose, before)

    async def measure(self, account: str, sizes: Mapping[str, int]) -> None:
        """Record what LIST says of messages that are recorded, by UIDL."""
        await self._ask(uid_ledger.MEASURE, account, sizes)

    async def record(self, account: str, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
        """Record messages as taken over; what is recorded already keeps its ``first_seen``.

        Returns:
            What the database does not take, each reported: nothing is known of it.
        """
        try:
            await self._ask(uid_ledger.RECORD, uid_ledger.RecordMessages(account, entries))
        except Unstorable:
            return await self._record_singly(account, entries)
        return []

    async def _record_singly(
        self, account: str, entries: Sequence[LedgerEntry]
    ) -> list[LedgerEntry]:
        answers = await self._ask_all(
            uid_ledger.RECORD, [uid_ledger.RecordMessages(account, [entry]) for entry in entries]
        )
        pairs = zip(entries, answers, strict=True)
        bad = [(entry, why) for entry, why in pairs if isinstance(why, Unstorable)]
        for entry, why in bad:
            self._report(UNKNOWN, account=account, id=entry.id, uidl=entry.uidl or "", why=why)
        return [entry for entry, _ in bad]

    async def forget(self, account: str, uidls: Sequence[str]) -> None:
        """Forget UIDLs that the server no longer lists; the identities of the messages stay."""
        await self._ask(uid_ledger.FORGET, account, uidls)

    async def recall(self, account: str, server: str) -> AccountStanding:
        """Return how an account and its server stand, at the beginning of a poll."""
        return await self._ask(standing.RECALL, account, server)

    async def record_troubles(self, account: str, troubles: Sequence[MessageTrouble]) -> None:
        """Record messages that could not be fetched, or not be deleted."""
        await self._ask(standing.TROUBLED, account, troubles)

    async def forget_troubles(self, account: str, keys: Sequence[str]) -> None:
        """Forget troubles with messages, by key."""
        await self._ask(standing.SETTLED, account, keys)

    async def learn(self, server: str, quirk: Quirk, account: str | None = None) -> None:
        """Record a quirk of a server, for all its accounts, or for the one that is given."""
        await self._ask(standing.LEARN, server, quirk, account)

    async def move_in(self, account: str, maildrop: str) -> list[str]:
        """Record which maildrop an account polls; return other accounts that polled it."""
        return await self._ask(standing.MOVE_IN, account, maildrop)

    async def put_off(self, account: str, *, until: float) -> None:
        """Let an account be due at a moment, and no poll job be queued; how it stands stays."""
        await self._ask(schedule.PUT_OFF, account, until)

    async def claim_due(
        self, accounts: Collection[str], *, hold: float, first: Mapping[str, float] = _AT_ONCE
    ) -> list[str]:
        """Return the accounts that are due, and count them as queued.

        Args:
            accounts: the names of all accounts served; one never seen before is due at once.
            hold: seconds after which one that was not polled is due again.
            first: seconds after which one never seen before is due, where not at once.
        """
        names, now = frozenset(accounts), self._clock.monotonic()
        if now >= self._enrol_at:
            self._enrolled.clear()
            self._enrol_at, self._by_name = now + ENROL_EVERY, False
        new = {name: first.get(name, 0.0) for name in names - self._enrolled}
        due, strangers = await self._ask(schedule.CLAIM_DUE, names, new, hold, self._by_name)
        self._enrolled |= names
        self._by_name = self._by_name or strangers > len(names)
        return due

    async def release_lost(self, accounts: Collection[str], *, age: float) -> list[str]:
        """Let accounts be due again whose poll jobs are in no queue, and which nobody polls.

        Args:
            accounts: the names of all accounts served, whose queue is empty.
            age: seconds since they were queued, at the least.

        Returns:
            Their names.
        """
        return await self._ask(schedule.RELEASE, frozenset(accounts), age)

    async def record_poll(
        self,
        account: str,
        *,
        next_poll: float,
        error: str | None,
        progress: bool = False,
        undone: str | None = None,
        login_after: float = 0.0,
        refused: str | None = None,
        retry_at: float = 0.0,
        busiest: int | None = None,
    ) -> int:
        """Record the end of a poll, and that none is queued any more.

        Args:
            account: its name.
            next_poll: when it is due again, in seconds since 1970.
            error: why the poll failed, None if it did not.
            progress: whether something new had come before it failed; then its failures are
                counted from the beginning.
            undone: what it left undone; of a poll that failed it says nothing.
            login_after: when the server wants the next login at the earliest.
            refused: a hash of the password that was refused.
            retry_at: until when that is not tried again.
            busiest: messages that it brought; None where there is more to come, or nobody knows.

        Returns:
            How many polls have failed one after the other; 0 where this one did not.
        """
        end = schedule.PollEnd(
            account, next_poll, error, progress, undone, login_after, refused, retry_at, busiest
        )
        try:
            return await self._ask(schedule.POLLED, end)
        except Unstorable as bad:  # the schedule has to go on, whatever was said
            why = None if error is None else f"it cannot be recorded what was wrong: {bad}"
            return await self._ask(
                schedule.POLLED, schedule.PollEnd(account, next_poll, why, progress)
            )

    async def hold_queued(self, accounts: Sequence[str], *, hold: float) -> None:
        """Hold accounts for longer than ``claim_due`` did: their poll jobs are queued.

        Args:
            accounts: those that it returned; one that has been polled since then is left alone.
            hold: seconds from now after which one that was not polled is due again.
        """
        await self._ask(schedule.HOLD, accounts, hold)

    async def give_back(self, accounts: Sequence[str]) -> None:
        """Undo ``claim_due`` for accounts whose poll jobs could not be queued."""
        await self._ask(schedule.UNQUEUE, accounts)

    async def accounts(self) -> Mapping[str, AccountState]:
        """Return how every account stands, for the operator."""
        return await self._ask(schedule.ACCOUNTS)

    async def installation(self) -> InstallationRecord:
        """Return which database this is, how far it has got, and whether it knows of any mail."""
        return await self._ask(installation.STANDING)

    async def question(self) -> Question | None:
        """Return what tells whether the queues are ours; None where this process may not look."""
        return await self._ask(installation.QUESTION)

    async def advance(self, *, beyond: int = 0) -> Mark:
        """Get on by one, beyond a number; return how far that is. Nothing is asked any more."""
        return await self._ask(installation.ADVANCE, beyond)

    async def record_asked(self, marks: str) -> None:
        """Record the marks that the operator is asked about."""
        await self._ask(installation.ASK, marks)

    async def record_marked(self, places: str) -> None:
        """Record the places that took the last mark."""
        await self._ask(installation.MARKED, places)

    async def hold(self, accounts: Sequence[str], why: str) -> None:
        """Have no account polled before the operator has chosen, also of those not known yet.

        Args:
            accounts: those that are configured.
            why: as the operator is told.
        """
        await self._ask(choices.HOLD_BACK, accounts, why)

    async def hold_account(self, account: str, why: str) -> None:
        """Have one account not polled before the operator has chosen."""
        await self._ask(choices.HOLD_ONE, account, why)

    async def enrol(self, accounts: Sequence[str]) -> None:
        """Add accounts that are not known yet; they are held where the database was doubted."""
        await self._ask(schedule.ENROL, accounts)

    async def count_held(self, accounts: Sequence[str]) -> int:
        """Return how many of these are held, for which nothing was chosen yet."""
        return await self._ask(installation.COUNT_HELD, accounts)

    async def choose(self, accounts: Sequence[str], choice: str, *, ends: bool = False) -> None:
        """Record what the operator has chosen for accounts; they are due at once.

        Args:
            accounts: which.
            choice: ``ADOPT``, ...
            ends: whether accounts that are not known yet are not held any more.
        """
        await self._ask(choices.CHOOSE, accounts, choice, ends)

    async def fetch_now(self, accounts: Sequence[str]) -> None:
        """Let accounts be due at once, also those that were backed off."""
        await self._ask(pauses.FETCH_NOW, accounts)

    async def pause(self, accounts: Sequence[str], *, until: float | None) -> None:
        """Let accounts not be polled until a moment; with None let them be due at once."""
        await self._ask(pauses.PAUSE, accounts, until)

    async def adopt(
        self, account: str, sizes: Mapping[str, int | None], *, choice: str | None
    ) -> None:
        """Record messages as delivered that nobody has looked into.

        Args:
            account: whose.
            sizes: what LIST says of them, by UIDL.
            choice: what is done with this; None where more is to come.
        """
        texts = {uidl: "" if size is None else str(size) for uidl, size in sizes.items()}
        try:
            await self._ask(choices.ADOPTION, account, texts, choice)
        except Unstorable as bad:  # these will be fetched
            self._report("UIDLs that cannot be recorded", account=account, why=bad)
            await self._ask(choices.ADOPTION, account, {}, choice)

    async def import_uidls(self, account: str, since: Mapping[str, float]) -> None:
        """Record UIDLs that another program has fetched; what is known already stays as it is.

        Args:
            account: whose.
            since: when that was, by UIDL, in seconds since 1970.

        Raises:
            Unstorable: the database does not take one of them; the others may be recorded.
        """
        texts = {uidl: repr(float(at)) for uidl, at in since.items()}
        await self._ask(imports.IMPORT, account, texts)

    async def look_at(self, account: str, heads: Mapping[str, str]) -> None:
        """Record the hashes of header blocks of imported messages, by UIDL."""
        await self._ask(imports.LOOK_AT, account, heads)

    async def skip(
        self, account: str, sizes: Mapping[str, int | None], *, choice: str | None
    ) -> None:
        """Record messages as seen that stay at the server, as ``adopt`` does."""
        texts = {uidl: "" if size is None else str(size) for uidl, size in sizes.items()}
        try:
            await self._ask(choices.SKIPPING, account, texts, choice)
        except Unstorable as bad:  # these will be fetched
            self._report("UIDLs that cannot be recorded", account=account, why=bad)
            await self._ask(choices.SKIPPING, account, {}, choice)

    async def skip_if_new(self, account: str) -> bool:
        """Choose to skip what lies at the server of an account of which nothing is recorded.

        Returns:
            Whether that is so.
        """
        return await self._ask(choices.SKIP_IF_NEW, account)

    async def count_as_delivered(self, ids: Sequence[str]) -> None:
        """Record identities as delivered, to nobody that we know of."""
        await self._ask(choices.COUNT_AS_DELIVERED, ids)

    async def fetch_again(self, account: str, choice: str, *, since: float | None) -> int:
        """Forget what was fetched from an account, and how it was delivered; return how many.

        Args:
            account: whose.
            choice: what is done with this.
            since: only what was fetched later, in seconds since 1970, and never delivered to
                anybody; None for all.
        """
        return await self._ask(choices.AGAIN, account, choice, since)

    async def delivered_to_nobody(self, since: float) -> Sequence[Undelivered]:
        """Return what was taken over after a moment (since 1970), and delivered to nobody."""
        return await self._ask(undelivered.DELIVERED_TO_NOBODY, since)

    async def forget_lost(self, lost: Sequence[Undelivered]) -> None:
        """Forget messages with their identities: they come again, if they are still there."""
        await self._ask(undelivered.FORGET_LOST, lost)

    async def prune_accounts(self, accounts: Collection[str], *, age: float) -> int:
        """Forget how accounts stand that nobody has queued or polled for so many seconds.

        Their UIDLs and identities stay: should one come back, its mail is not delivered again.

        Args:
            accounts: the names of those that are served, which stay.
            age: seconds; one that somebody else serves all the same is enrolled anew by that one.

        Returns:
            How many.
        """
        return await self._ask(schedule.PRUNE_ACCOUNTS, frozenset(accounts), age)

    async def prune(self, older_than: float) -> int:
        """Delete finished deliveries, and identities that no maildrop holds any more.

        Args:
            older_than: seconds; longer than a message may be retried, or it is delivered twice.

        Returns:
            How many rows are gone.
        """
        before = self._clock.now() - older_than
        await self._ask(pruning.PRUNE_LEASES, before)
        await self._ask(standing.PRUNE_STANDING, before)
        total = 0
        while deleted := await self._ask(pruning.PRUNE_DELIVERIES, before):
            total += deleted
        cursor: PruneCursor | None = pruning.START
        while cursor is not None:
            deleted, cursor = await self._ask(pruning.PRUNE_IDENTITIES, before, cursor)
            total += deleted
        return total
