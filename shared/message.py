"""What travels: the envelope, and one payload type for each queue.

Everything here is frozen; a change is a replacement. The raw message is bytes, as the POP3 server
sent it (CRLF line ends, dot-stuffing undone), and nobody ever parses and writes it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

HEADER_LIMIT = 1024 * 1024
"""Bytes of a header block, blank line included, that any stage is ready to hold."""


@dataclass(frozen=True, slots=True)
class Inline:
    """A raw message that travels inside its envelope."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """The length of the raw message in bytes."""
        return len(self.data)

    @property
    def head(self) -> bytes:
        """At least the header block, at most ``HEADER_LIMIT`` bytes."""
        return self.data[:HEADER_LIMIT]


@dataclass(frozen=True, slots=True)
class Spooled:
    """A raw message that lies in the spool, with its header block at hand (claim check)."""

    key: str
    size: int
    head: bytes = field(repr=False)


Raw: TypeAlias = Inline | Spooled


class Summary(NamedTuple):
    """What a person recognises a message by: decoded, without control characters, cut to a line.

    A named tuple, as Hop is: it is made quickly, and goes over the wire as it is.
    """

    from_: str = ""
    subject: str = ""
    message_id: str = ""
    date: str = ""


NO_SUMMARY: Final = Summary()


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll job: the account of the envelope is due."""

    reason: str = "due"


def poll_id(account: str) -> str:
    """Return the id of the poll jobs of an account."""
    return f"poll-{account}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message as the fetcher took it from a maildrop (queue ``incoming``).

    Attributes:
        released: an operator has said that it is to be delivered, whatever it looks like.
    """

    raw: Raw
    uidl: str
    server: str
    summary: Summary = NO_SUMMARY
    released: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """A message of which the header block has been read (queue ``parsed``).

    Attributes:
        return_path: the address in the first Return-Path line, "" for the null sender,
            None where there is no such line.
        delivered_to: whom it was delivered to by this program before, by its own lines.
        received: how many Received lines there are.
        passed: the accounts named in X-POP3-Connector-Account lines: it was here before.
        above: bytes of lines above the header, none of which is a header field; None where there
            is no header at all, and the whole message is body.
    """

    raw: Raw
    uidl: str
    server: str
    summary: Summary
    return_path: str | None
    delivered_to: tuple[str, ...]
    received: int
    passed: tuple[str, ...]
    above: int | None = 0


@dataclass(frozen=True, slots=True)
class Addressed:
    """A message directed to local mailboxes (queue ``pickup``).

    Attributes:
        sender: the envelope sender, "" for the null sender.
        recipients: the envelope recipients.
        destination: the name of the destination that takes them.
        prefix: header lines to put before the raw message, each ended by CRLF; but the last may
            stop at the name of a field, which the first line of the raw message then completes.
        skip: bytes that the raw message is delivered without: lines above its header, which the
            prefix tells of.
    """

    raw: Raw
    uidl: str
    server: str
    summary: Summary
    sender: str
    recipients: tuple[str, ...]
    destination: str
    prefix: bytes = field(repr=False)
    skip: int = 0


Mail: TypeAlias = Fetched | Parsed | Addressed
Payload: TypeAlias = Poll | Fetched | Parsed | Addressed
P = TypeVar("P", Poll, Fetched, Parsed, Addressed)
P_co = TypeVar("P_co", bound=Payload, covariant=True)


class Hop(NamedTuple):
    """One stage that an envelope has passed: which one, and when (seconds since 1970, UTC)."""

    stage: str
    at: float


class Failure(NamedTuple):
    """How a message was given up, before an operator had it tried again.

    Attributes:
        stage: which stage gave it up, and ``reason``, what it said.
        attempts: how many times it had been tried.
        first: when the first of these tries failed, and ``last``, when the last one did, in seconds
            since 1970 (UTC).
    """

    stage: str
    reason: str
    attempts: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Requeue:
    """What an operator has said of a message that was given up, and how that had come.

    Attributes:
        recipients: those that it is to go to, in place of the account's; () for the account's.
        destination: where it is to go, "" for the account's destination.
        undelivered: the recipients that it did not get to; the others have it. () where it was
            not directed to any yet.
        failures: why it was given up, each time; oldest first.
    """

    recipients: tuple[str, ...] = ()
    destination: str = ""
    undelivered: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Envelope(Generic[P_co]):
    """One message on its way, or one poll job.

    Attributes:
        id: the identity of the message: a hash of account and content (see the fetcher).
        account: the name of the account it came from.
        first_seen: when it was fetched, in seconds since 1970 (UTC).
        attempt: how many times the stage of this queue has tried it already.
        first_failure: when the first of these tries failed, None before that.
        trail: the stages passed so far, oldest first.
        requeue: what an operator has said of it, None where it was never given up.
    """

    id: str
    account: str
    payload: P_co
    first_seen: float
    attempt: int = 0
    first_failure: float | None = None
    trail: tuple[Hop, ...] = ()
    requeue: Requeue | None = None
