"""What the ledgers say: of messages fetched, and of messages delivered.

Plain data between the fetcher and the deliverer, which decide by it, and the state database, which
keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

KEPT: Final = 90 * 86_400.0
"""Seconds that the ledgers go back at the least. Within this time a provider may restore a mailbox
from a backup, and the mail in it is not delivered a second time."""


class DeliveryKey(NamedTuple):
    """One message on its way to one destination: what a claim is made on."""

    id: str
    destination: str


class Claim(NamedTuple):
    """The right of one process to deliver one message to one destination, for now.

    Attributes:
        delivered: the recipients of which the ledger says that they have it already.
        replay: a process that is dead by now had claimed it and left no record: the message may
            have been delivered, wholly or in part.
    """

    delivered: frozenset[str]
    replay: bool


ADOPTED: Final = "adopted"
"""In place of an identity: the message counts as delivered, and nobody has looked into it yet."""

IMPORTED: Final = "imported"
"""In place of an identity: another program has fetched the message, as its records say, and nobody
here has looked at it. Once its header block was looked at, the hash of that stands behind it."""


def imported(head: str) -> str:
    """Return what stands in place of the identity of a message that another program has fetched.

    Args:
        head: the hash of its header block.
    """
    return f"{IMPORTED}:{head}"


def is_imported(id_: str) -> bool:
    """Return whether this stands in place of the identity of an imported message."""
    return id_ == IMPORTED or imported_head(id_) is not None


def imported_head(id_: str) -> str | None:
    """Return the hash in what stands in place of an identity; None where there is none in it."""
    return id_.removeprefix(f"{IMPORTED}:") if id_.startswith(f"{IMPORTED}:") else None


ADOPT: Final = "adopt"
FETCH_AGAIN: Final = "fetch again"
UNDELIVERED: Final = "fetch the undelivered again"
SKIP: Final = "skip what is there"
RELEASE: Final = "release"
"""What the operator may choose for an account: what lies at the server counts as delivered, as not
delivered, or as delivered where the ledger of deliveries says so; or it stays there unread; or,
however much is new, it is fetched."""

FLOOD: Final = "mail seems to come all over again: "
"""How the reason begins why an account is held whose new mail is not plausible."""

SKIPPED: Final = "skipped"
"""In place of an identity: the message was there before the account was polled, and stays there. It
counts as seen, and is never retrieved nor deleted."""


class Known(NamedTuple):
    """A line of the UID ledger: what has been fetched under a UIDL.

    Attributes:
        id: of the message, ``ADOPTED``, ``SKIPPED``, or ``IMPORTED`` and perhaps a hash.
        first_seen: when that was first fetched, in seconds since 1970 (UTC).
        size: what LIST said then, None where it did not.
    """

    id: str
    first_seen: float
    size: int | None = None


class LedgerEntry(NamedTuple):
    """A message to record as fetched.

    Attributes:
        uidl: None where it has no usable one.
        id: its identity.
        size: what LIST says, None where it does not.
        head: a hash of its header block, by which TOP tells whether it is still this message.
        loose: a looser fingerprint, None where it has none.
    """

    uidl: str | None
    id: str
    size: int | None = None
    head: str | None = None
    loose: int | None = None


class MessageTrouble(NamedTuple):
    """A message that could not be fetched, or not be deleted.

    Attributes:
        key: its UIDL; where it has none, a word made of its number and size.
        number: in the last session that tried.
        tries: polls that tried in vain, one after the other.
        until: until when it is left alone, in seconds since 1970.
        reason: what happened the last time.
        id: the identity of what came in its place, None where nothing whole did.
        deletes: it is here and safe; what failed is its deletion at the server.
    """

    key: str
    number: int
    tries: int
    until: float
    reason: str
    id: str | None = None
    deletes: bool = False


class Quirk(NamedTuple):
    """Something learnt of a server or a maildrop, such as a promise that it does not keep.

    Attributes:
        name: what it is.
        value: a number that goes with it, 1 where none does, 0 where it is on trial.
        until: when to try anew, in seconds since 1970.
    """

    name: str
    value: int
    until: float


class AccountStanding(NamedTuple):
    """What is known of an account when its poll begins.

    Attributes:
        failures: polls that failed, one after the other.
        maildrop: which one it was when it was polled last, None if it never was.
        login_after: when the server wants the next login at the earliest, 0 for at any time.
        refused: a hash of the password that was refused last; None where none was.
        retry_at: until when that password is not tried again.
        troubles: messages that could not be fetched or deleted, by key.
        quirks: what has been learnt of its server and still holds, by name.
        own: likewise, of its maildrop there alone; the value of what is on trial is 0.
        large: whether more than a thousand messages of its maildrop are recorded.
        held: why it is not polled before the operator has chosen; None where it is.
        choice: what the operator has chosen (``ADOPT``, ...) and is not done yet.
        paused_until: the moment before which the operator wants no poll, 0 for none.
        polled: whether a poll of it has ever come to its end.
        busiest: messages that a poll brought at the most, None before one has fetched all there is.
        due: since when it is to be polled, in seconds since 1970; 0 for at once.
    """

    failures: int = 0
    maildrop: str | None = None
    login_after: float = 0.0
    refused: str | None = None
    retry_at: float = 0.0
    troubles: Mapping[str, MessageTrouble] = MappingProxyType({})
    quirks: Mapping[str, Quirk] = MappingProxyType({})
    large: bool = False
    own: Mapping[str, Quirk] = MappingProxyType({})
    held: str | None = None
    choice: str | None = None
    paused_until: float = 0.0
    polled: bool = False
    busiest: int | None = None
    due: float = 0.0


class Finished(NamedTuple):
    """What has been delivered, and by recipient what the far end said."""

    delivery: DeliveryKey
    receipts: Mapping[str, str]


def safe_age(give_up_after: float) -> float:
    """Return how many seconds the ledgers have to go back.

    A message that is on its way must find what is recorded of it: while it is retried, which is
    ``give_up_after``, and when it is requeued from Failed Mail and retried for as long again. How
    long it lies in Failed Mail does not matter much: it is there for those recipients alone who
    never had it, of whom nothing is recorded.

    Args:
        give_up_after: seconds for which a message is retried.
    """
    return max(KEPT, 3 * give_up_after)
