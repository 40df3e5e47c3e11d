"""What the fetcher needs of the world: ledger, schedule, publisher, spool, journal.

The wiring gives it real ones; the fetcher knows no database and no broker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.fetcher.large_listings import ListingTurns
from services.fetcher.pop3.listing import MAX_MESSAGES
from shared.clock import Clock
from shared.errors import SpoolUnavailable
from shared.ledger import AccountStanding, Known, LedgerEntry, MessageTrouble, Quirk
from shared.message import Envelope, Payload


class ListingLedger(Protocol):
    """What has been fetched before, to be compared with what a server lists."""

    async def known(self, account: str, *, after: str = "", most: int = ...) -> dict[str, Known]:
        """Return what has been fetched from an account, by UIDL: so many behind this one."""

    async def measure(self, account: str, sizes: Mapping[str, int]) -> None:
        """Record what LIST says of messages that are recorded, by UIDL."""

    async def forget(self, account: str, uidls: Sequence[str]) -> None:
        """Drop UIDLs that the server lists no longer; the identities stay."""


class Ledger(ListingLedger, Protocol):
    """What has been fetched before, and who is at which account. Durable when a call returns."""

    async def lease(self, name: str) -> bool:
        """Take a lease, or keep it; return whether it is ours."""

    async def release(self, name: str) -> None:
        """Give a lease up."""

    async def heads(self, account: str, uidls: Sequence[str]) -> Mapping[str, str]:
        """Return the hashes of the header blocks of what is recorded, where they are known."""

    async def alike(self, account: str, loose: Sequence[int], *, before: float) -> int:
        """Return how many of these looser fingerprints messages have that were seen before then."""

    async def hold_account(self, account: str, why: str) -> None:
        """Have an account not polled before the operator has chosen."""

    async def seen(self, ids: Sequence[str]) -> Mapping[str, float]:
        """Return which of these identities have been recorded, and since when."""

    async def record(self, account: str, entries: Sequence[LedgerEntry]) -> Sequence[LedgerEntry]:
        """Record messages as fetched; return those that cannot be recorded."""

    async def recall(self, account: str, server: str) -> AccountStanding:
        """Return how an account and its server stand."""

    async def record_troubles(self, account: str, troubles: Sequence[MessageTrouble]) -> None:
        """Record messages that could not be fetched, or not be deleted."""

    async def forget_troubles(self, account: str, keys: Sequence[str]) -> None:
        """Forget troubles with messages, by key."""

    async def learn(self, server: str, quirk: Quirk, account: str | None = None) -> None:
        """Record a quirk of a server, for all its accounts, or for the one that is given."""

    async def adopt(
        self, account: str, sizes: Mapping[str, int | None], *, choice: str | None
    ) -> None:
        """Record UIDLs as delivered, with their sizes; with it a choice of the operator is done."""

    async def skip(
        self, account: str, sizes: Mapping[str, int | None], *, choice: str | None
    ) -> None:
        """Record UIDLs as seen that stay at the server, with their sizes; likewise."""

    async def skip_if_new(self, account: str) -> bool:
        """Choose to skip what is there if nothing is recorded of an account; return whether."""

    async def look_at(self, account: str, heads: Mapping[str, str]) -> None:
        """Record the hashes of header blocks of imported messages, by UIDL."""

    async def count_as_delivered(self, ids: Sequence[str]) -> None:
        """Record identities as delivered."""

    async def fetch_again(self, account: str, choice: str, *, since: float | None) -> int:
        """Forget what was fetched, or what was since then and never delivered; return how many."""

    async def move_in(self, account: str, maildrop: str) -> Sequence[str]:
        """Record which maildrop an account polls; return other accounts that polled it."""


class Schedule(Protocol):
    """When each account is polled next."""

    async def record_poll(
        self,
        account: str,
        *,
        next_poll: float,
        error: str | None,
        progress: bool,
        undone: str | None,
        login_after: float,
        refused: str | None = None,
        retry_at: float = 0.0,
        busiest: int | None = None,
    ) -> object:
        """Record the end of a poll, and the time (since 1970, UTC) of the next one.

        Where something new had come (``progress``) before an error, it is the first one in a row.
        A password that was refused, by its hash, is not tried again before ``retry_at``.
        ``busiest`` are the messages that it brought, where it has fetched all there is.
        """

    async def put_off(self, account: str, *, until: float) -> None:
        """Let an account be due then; how it stands stays as it is."""

    async def claim_due(
        self, accounts: Sequence[str], *, hold: float, first: Mapping[str, float]
    ) -> Sequence[str]:
        """Return the accounts that are due, each to one caller only for ``hold`` seconds.

        One never seen before is due after its seconds in ``first``, or at once.
        """

    async def hold_queued(self, accounts: Sequence[str], *, hold: float) -> None:
        """Hold them for longer: their poll jobs are queued, and perhaps done already."""

    async def release_lost(self, accounts: Sequence[str], *, age: float) -> Sequence[str]:
        """Let accounts be due again that were queued so long ago and are not being polled.

        Their queue is empty. Return which.
        """

    async def give_back(self, accounts: Sequence[str]) -> None:
        """Undo ``claim_due``: they are due again at once."""


class EnvelopeSink(Protocol):
    """Makes envelopes durable in a queue."""

    async def put(self, *envelopes: Envelope[Payload]) -> None:
        """Return once all of them are confirmed."""


class BlobSink(Protocol):
    """A message on its way into the spool."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""

    async def commit(self, key: str) -> None:
        """Make it durable under this key."""

    async def abort(self) -> None:
        """Forget it."""


class SpoolWriter(Protocol):
    """Where large messages lie."""

    async def create(self) -> BlobSink:
        """Begin a blob."""

    async def discard_drafts(self, older_than: float) -> None:
        """Delete what dead processes have begun, and what nobody wrote to for so long."""


class MailEvents(Protocol):
    """Told of every mail event."""

    def fetched(self, id_: str, account: str, uidl: str, size: int) -> None:
        """A message is durable in our queue."""

    def suppressed(self, id_: str, account: str, why: str) -> None:
        """A message has been here before."""

    def removed(self, id_: str, account: str, uidl: str) -> None:
        """A message was deleted at the server."""

    def polled(self, account: str, found: int, fetched: int, seconds: float) -> None:
        """An account was polled to the end."""

    def left_undone(self, account: str, what: str) -> None:
        """A poll has left something undone, told in a sentence."""

    def account_failed(
        self, account: str, reason: str, again_in: float, *, ours: bool = False
    ) -> None:
        """An account could not be polled; ``ours`` where no server is at fault."""

    def account_held(self, account: str, why: str) -> None:
        """An account was not polled, as the operator has to choose first."""

    def crashed(self, id_: str, account: str, error: BaseException) -> None:
        """Something was raised that must not be."""

    def dialogue(self, **about: object) -> Callable[[str], None] | None:
        """Return what takes the lines of a dialogue with a server; None where nobody listens."""

    def spool_failed(self, error: SpoolUnavailable, account: str) -> None:
        """A large message stays on the server: the spool does not take it."""

    def note(self, what: str, /, **about: object) -> None:
        """Something was done."""

    def trouble(self, what: str, /, **about: object) -> None:
        """Something else is wrong."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How much is done at once.

    Attributes:
        chunk_messages: messages that are published and recorded together, at the most.
        chunk_bytes: bytes of inline messages in a chunk, at about which it is closed.
        chunks_underway: chunks that wait for their confirms while more is retrieved.
        session_messages: messages after which a session that deletes quits, so that its deletions
            count; the next session goes on.
        session_seconds: the same as a time.
        place_seconds: seconds after which any session quits, so that others have its slot; where
            the next one could not go on, as messages have no UIDLs, it does not.
        max_messages: messages of a maildrop that are looked at.
    """

    chunk_messages: int = 128
    chunk_bytes: int = 1024 * 1024
    chunks_underway: int = 4
    session_messages: int = 2_000
    session_seconds: float = 120.0
    place_seconds: float = 900.0
    max_messages: int = MAX_MESSAGES


@dataclass(frozen=True, slots=True)
class FetcherContext:
    """All that a fetcher works with.

    Attributes:
        inline_limit: bytes up to which a message travels in its envelope.
        lacking: tells why there is no room for so many bytes more, if that is so.
        turns: of very large listings.
        remembers: seconds for which the ledger of deliveries goes back.
        note_held: told that an account has come to be held.
        limits: how much one session does before it quits, and at once.
    """

    ledger: Ledger
    schedule: Schedule
    publisher: EnvelopeSink
    spool: SpoolWriter
    inline_limit: int
    journal: MailEvents
    clock: Clock
    lacking: Callable[[int], str | None] = lambda _: None
    turns: ListingTurns = field(default_factory=ListingTurns)
    remembers: float = math.inf
    limits: SessionLimits = SessionLimits()
    note_held: Callable[[], None] = lambda: None
