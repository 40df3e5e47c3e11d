"""Directs a message to its local mailbox: whose it is, where it goes, and the trace it bears.

The raw message is not touched; all that is new stands in front of it, so its DKIM signatures hold.
A message that goes round in a loop is for the operator. One whose account is not configured here
waits: another process may have been told of a new account before this one was. The routes are
trusted; what came with the message is not. Nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.rewriter.leading_lines import leading_lines
from services.rewriter.trace import Trace
from shared.log import printable
from shared.message import Addressed, Envelope, Parsed, Requeue
from shared.outcome import DeadLetter, Forward, Outcome, Retry

RECEIVED_LIMIT: Final = 50
"""More Received lines than this are a loop (RFC 5321 section 6.3), as with most mail servers."""

_MAILBOX: Final = re.compile(r"[^\s<>]+@[^\s<>@]+")
_MAILBOX_LIMIT: Final = 320

DEFAULT: Final = "default"
"""The destination of what an operator has directed, where its account is not configured."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the messages of an account go.

    Attributes:
        recipients: addresses of local mailboxes, at least one.
        destination: the name of the destination that takes them.

    Raises:
        ValueError: there is no recipient: a message to nobody would be lost.
    """

    recipients: tuple[str, ...]
    destination: str

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("a route needs at least one recipient")


class Rewriter:
    """The rewriting stage.

    Args:
        routes: the route of each account, by its name.
        hostname: of this machine, for the Received line.
        version: of this program, likewise.
    """

    def __init__(self, routes: Mapping[str, Route], hostname: str, version: str) -> None:
        self._routes = dict(routes)
        self._hostname = hostname
        self._version = version
        self._traces = {account: self._trace(account, route) for account, route in routes.items()}

    def handle(self, envelope: Envelope[Parsed]) -> Outcome:
        """Return Forward of the message as ``Addressed``, or why it does not go on."""
        route, trace = self._direct(envelope)
        if route is None or trace is None:
            return Retry(_no_route(envelope.account))
        parsed = envelope.payload
        loop = _loop(envelope, route)
        if loop is not None:
            return DeadLetter(loop)
        leading = leading_lines(parsed.raw.head, parsed.above)
        return Forward.to(
            Addressed(
                parsed.raw,
                parsed.uidl,
                parsed.server,
                parsed.summary,
                _sender(parsed.return_path),
                route.recipients,
                route.destination,
                trace.lines(envelope) + leading.lines,
                leading.skip,
            )
        )

    def _direct(self, envelope: Envelope[Parsed]) -> tuple[Route | None, Trace | None]:
        """Return where a message goes, and the trace of what goes there; None if nobody says."""
        account, requeue = envelope.account, envelope.requeue
        usual = self._routes.get(account)
        route = usual if requeue is None else _redirected(usual, requeue)
        if route is None or route == usual:
            return usual, self._traces.get(account)
        return route, self._trace(account, route)

    def _trace(self, account: str, route: Route) -> Trace:
        return Trace(account, route.recipients, self._hostname, self._version)


def _redirected(route: Route | None, requeue: Requeue) -> Route | None:
    """Return where a message goes that an operator has had tried again.

    Args:
        route: of its account, None where that is not configured.
        requeue: what the operator has said of it.

    Returns:
        None where nobody says to whom it goes.
    """
    recipients = requeue.recipients or (() if route is None else route.recipients)
    if not recipients:
        return None
    destination = requeue.destination or (DEFAULT if route is None else route.destination)
    # It may have got to some of its recipients. Those that it did not get to are the ones that it
    # is for, if they are recipients still. If not, the configuration has changed, and who has it
    # already is for the ledger of deliveries to say.
    undelivered = tuple(r for r in recipients if r in requeue.undelivered)
    complete = len(undelivered) == len(set(requeue.undelivered))
    return Route(undelivered if undelivered and complete else recipients, destination)


def _sender(return_path: str | None) -> str:
    """Return the envelope sender: nobody can be told of failures if the Return-Path is no use."""
    return return_path if return_path and is_mailbox(return_path) else ""


def is_mailbox(text: str) -> bool:
    """Return whether text has the shape of a mailbox: local part, "@" and domain.

    Read loosely (RFC 5321 section 4.1.2, RFC 6531): what is deliverable is for the next server to
    say. But white space, control characters and angle brackets, with which SMTP commands are
    forged, are never let through.
    """
    return (
        len(text) <= _MAILBOX_LIMIT and text.isprintable() and _MAILBOX.fullmatch(text) is not None
    )


def _no_route(account: str) -> str:
    return (
        f"The account {printable(account, 100)} is not configured here: configure it, and restart"
        " the rewriter; the message is tried again until then."
    )


def _loop(envelope: Envelope[Parsed], route: Route) -> str | None:
    """Return why the message is taken to go round in a loop, or None."""
    account, parsed = envelope.account, envelope.payload
    if parsed.received > RECEIVED_LIMIT:
        return (
            f"The message goes round in a loop: it has {parsed.received} Received lines, more than"
            f" {RECEIVED_LIMIT}."
        )
    # Both are in lines of our own alone; what others write in theirs is no proof of anything. Nor
    # are they after an operator's word: if it goes round again, it comes back as another message.
    if account not in parsed.passed or envelope.requeue is not None:
        return None
    before = {address.lower() for address in parsed.delivered_to}
    again = next((r for r in route.recipients if r.lower() in before), None)
    if again is None:
        return None
    return (
        f"The message goes round in a loop: it was delivered to {printable(again, 100)} through"
        f" account {account} before; see what forwards that mailbox to this account."
    )
