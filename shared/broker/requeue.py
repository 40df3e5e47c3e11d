"""What the operator's side of any broker knows about the envelopes that it moves and shows.

A message that was given up starts anew at the parser, with what the operator says of it and how it
came to be given up: so it is directed as the configuration is now. It trusts nothing in a queue:
what does not decode is moved as it is, and described by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypeVar

from shared import wire
from shared.broker import Header, Send, Stored
from shared.envelope_check import require_ours
from shared.errors import NewerSchema, Undecodable
from shared.log import printable
from shared.message import (
    Addressed,
    Envelope,
    Failure,
    Fetched,
    Hop,
    Mail,
    P,
    Parsed,
    Payload,
    Poll,
    Requeue,
)
from shared.queues import INCOMING, POLL, RETRIED, STAGES, failed_queue

MailEnvelope: TypeAlias = Envelope[Mail]
T = TypeVar("T")

FAILURE_HEADERS: Final = frozenset({"reason", "attempts", "first-failure", "failed-at", "copies"})
"""Headers that tell of a failure; they are left behind when the message is moved on."""

FAILURES_KEPT: Final = 10
HOPS_KEPT: Final = 60
"""How much of the past a message that is requeued again and again takes along: the very first, and
the latest."""

_INBOXES: Final = frozenset(STAGES.values())
_ORIGINS: Final = {failed_queue(inbox): inbox for inbox in RETRIED}


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator says of messages that are to be tried again.

    Attributes:
        word: what it is called in the trail: ``requeue`` or ``release``.
        at: now, in seconds since 1970 (UTC).
        recipients: where they are to go, in place of the account's mailbox; () for that.
        destination: the destination that is to take them, "" for the account's.
    """

    word: str
    at: float
    recipients: tuple[str, ...] = ()
    destination: str = ""


def mail_in(body: bytes) -> MailEnvelope | None:
    """Return the message in these bytes, whatever stage it was meant for, None if there is none."""
    return _decoded(body, Addressed) or _decoded(body, Parsed) or _decoded(body, Fetched)


def hindrance(stored: Stored, order: Order) -> str | None:
    """Return why a message that was given up cannot be sent round again, None where it can."""
    if mail_in(stored.body) is not None:
        return None
    if order.recipients or order.destination:
        return "no message that this version can read, and so none to be directed elsewhere"
    if _origin(stored) is None:
        return "no envelope that this version can read, and nothing tells whose queue it is from"
    return None


def again(stored: Stored, order: Order) -> Send | None:
    """Return as what a message that was given up is sent round again, and where to.

    What it is decides, and not where it lay: a message goes to the parser, a poll job to the
    fetcher, whoever moved them. Only what cannot be read goes by its headers, or by its queue.

    Returns:
        None for one of which ``hindrance`` says why not.
    """
    headers = {k: v for k, v in stored.headers.items() if k not in FAILURE_HEADERS}
    found = mail_in(stored.body)
    if found is not None:
        body = wire.encode(_anew(found, stored.headers, order))
        return Send(INCOMING, body, stored.message_id, headers)
    origin = _origin(stored)
    if origin is None or order.recipients or order.destination:
        return None
    return Send(origin, stored.body, stored.message_id, headers)


def id_in(body: bytes) -> str | None:
    """Return the id in an envelope, None where these bytes are none, or it is no id of ours."""
    found = _any_in(body)
    try:
        if found is not None:
            require_ours(found)
    except Undecodable:
        return None
    return None if found is None else found.id


def directed_alike(one: bytes, other: bytes) -> bool:
    """Return whether two envelopes for ``incoming`` go to the same recipients, as far as is known.

    It is not so where an operator has sent parts of one message round again.
    """
    return _direction(one) == _direction(other)


def described(body: bytes) -> dict[str, Header]:
    """Return what an envelope says of its message, as the headers that an operator reads.

    Args:
        body: an encoded envelope, whatever stage it was meant for, or bytes that are none.

    Returns:
        Account, from, subject and message-id, as far as they can be read; and how often it was
        tried, if it was.
    """
    envelope = _any_in(body)
    if envelope is None:
        return {}
    headers: dict[str, Header] = {"account": printable(envelope.account)}
    if not isinstance(envelope.payload, Poll):
        summary = envelope.payload.summary
        headers["from"] = printable(summary.from_)
        headers["subject"] = printable(summary.subject)
        headers["message-id"] = printable(summary.message_id)
    if envelope.first_failure is not None:
        first = datetime.fromtimestamp(envelope.first_failure, UTC)
        headers["attempts"] = envelope.attempt
        headers["first-failure"] = first.isoformat(timespec="seconds")
    return headers


def _any_in(body: bytes) -> Envelope[Payload] | None:
    return mail_in(body) or _decoded(body, Poll)


def _decoded(body: bytes, kind: type[P]) -> Envelope[P] | None:
    try:
        return wire.decode(body, kind)
    except (Undecodable, NewerSchema):
        return None


def _anew(found: MailEnvelope, headers: Mapping[str, Header], order: Order) -> Envelope[Fetched]:
    """Return a message as the fetcher would have sent it, with the operator's word on it."""
    mail = found.payload
    before = found.requeue or Requeue()
    named = order.recipients or before.recipients
    undelivered = mail.recipients if isinstance(mail, Addressed) else before.undelivered
    return Envelope(
        found.id,
        found.account,
        Fetched(mail.raw, mail.uidl, mail.server, mail.summary, released=True),
        found.first_seen,
        trail=(*_cut(found.trail, HOPS_KEPT), Hop(order.word, order.at)),
        requeue=Requeue(
            named,
            order.destination or before.destination,
            () if order.recipients else undelivered,
            (*_cut(before.failures, FAILURES_KEPT), _failure(found, headers, order.at)),
        ),
    )


def _failure(found: MailEnvelope, headers: Mapping[str, Header], now: float) -> Failure:
    last = _moment(headers.get("failed-at"), found.first_failure or now)
    return Failure(
        printable(str(headers.get("stage", "")), 40),
        printable(str(headers.get("reason", "")), 300),
        found.attempt,
        last if found.first_failure is None else found.first_failure,
        last,
    )


def _cut(past: tuple[T, ...], kept: int) -> tuple[T, ...]:
    """Return a past without its middle, where it is longer than what is kept, less one."""
    return past if len(past) < kept else (past[0], *past[2 - kept :])


def _moment(written: Header | None, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(str(written)).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _origin(stored: Stored) -> str | None:
    if _decoded(stored.body, Poll) is not None:
        return POLL
    named = stored.headers.get("inbox")
    return named if isinstance(named, str) and named in _INBOXES else _ORIGINS.get(stored.queue)


def _direction(body: bytes) -> Requeue | None:
    """Return what an operator has said of where a message goes; of its past there is nothing."""
    found = _decoded(body, Fetched)
    if found is None or found.requeue is None:
        return None
    return replace(found.requeue, failures=())
