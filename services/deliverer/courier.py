"""The seam between the story of a delivery and the ways to deliver: SMTP, LMTP, Maildir, PickUp.

Plain data and one Protocol. A courier knows one destination and answers for each recipient by
itself; it decides between temporary and permanent, for it alone saw what the far end said.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

from shared.errors import Unreachable

ResultKind: TypeAlias = Literal["delivered", "temporary", "permanent"]


class ClaimLost(Exception):
    """The claim on a message ran out before it was delivered: another process may have it now."""


class Throttled(Unreachable):
    """The server takes no more of us for now: a limit that it states, and nobody's fault.

    Nothing was delivered to anybody.
    """


class Spent(Throttled):
    """The same over a connection that has carried mail: it may be a limit of that one alone."""


class Crowded(Throttled):
    """The same, said before mail was sent: it has too many connections, perhaps this one alone."""


class PutAside(Exception):
    """A mail object was not tried: there is no room for it in the waiting line just now.

    Args:
        why: a sentence for the operator who looks at what waits.
        after: seconds of work, or of waiting, that are before it; 0 if nobody knows.
    """

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class MailContent(NamedTuple):
    """One message as a courier gets it.

    Attributes:
        id: the identity of the message; deterministic names are made of it.
        prefix: header lines that go before the message, each ended by CRLF.
        size: the length of prefix and message in bytes.
        chunks: opens the message, less the prefix, from its beginning; it may be called again for
            each copy. What it yields is complete once it ends without an exception.
        data: the message itself where it is at hand, None where it has to be read by ``chunks``.
        replay: there was a try before, and it may have delivered the message: that of a process
            that died, or one that nobody knows the end of.
        held: tells whether it is still ours to deliver. A process that stood still for long (a
            virtual machine that was suspended) does not notice that it counts as dead. It raises
            ClaimLost where there is another reason not to.
    """

    id: str
    prefix: bytes
    size: int
    chunks: Callable[[], AsyncGenerator[bytes, None]]
    data: bytes | None
    replay: bool = False
    held: Callable[[], bool] = lambda: True

    def __repr__(self) -> str:  # without the message
        return f"MailContent(id={self.id!r}, size={self.size}, replay={self.replay})"

    def check(self) -> None:
        """Make sure, as the last thing before what cannot be undone, that it is still ours.

        Raises:
            ClaimLost: it is not.
        """
        if not self.held():
            raise ClaimLost("the claim on this message has run out: another process may have it")


class Result(NamedTuple):
    """What became of a mail object for one recipient.

    Attributes:
        verdict: ``temporary`` is worth another try, ``permanent`` is not.
        reply: what the far end said or what went wrong, as text that is safe to show.
        lost: the connection broke or went silent after the message had been sent and before the
            reply came: it may have been delivered (the window of RFC 1047).
    """

    verdict: ResultKind
    reply: str
    lost: bool = False


class MailObject(NamedTuple):
    """A message and its envelope (RFC 5321 section 2.3.1).

    Attributes:
        sender: the envelope sender, "" for the null sender.
        recipients: the envelope recipients, none of them twice.
    """

    content: MailContent
    sender: str
    recipients: Sequence[str]


CourierResult: TypeAlias = Mapping[str, Result] | Exception
"""What became of a mail object: a result for each recipient; or why nothing was delivered.

Unreachable: the destination is down, or refuses this program as such. Throttled: it wants less
mail, or more slowly. PutAside: it was not tried. SpoolMissing: the message is not in the spool.
SpoolUnavailable: it could not be read. ClaimLost: it is no longer ours.
"""


class DeliveryRequest(NamedTuple):
    """A mail object that is to be delivered.

    Attributes:
        tell: takes what became of it; to be called once, as soon as that is known.
    """

    mail_object: MailObject
    tell: Callable[[CourierResult], None]


class Courier(Protocol):
    """Delivers mail objects to one destination. Many deliveries may be under way at once."""

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        """Deliver mail objects, and tell what became of each as soon as it is known; then return.

        One that fails disturbs no other. Where this is cancelled, nothing of it is under way
        any more when it ends, and what was not told is not known to have been delivered.
        """

    async def probe(self, recipients: Sequence[str]) -> None:
        """Come as near to a delivery as one can without delivering anything.

        Args:
            recipients: for whom there will be mail.

        Raises:
            Unreachable: a delivery would fail, for the reason that it gives.
        """

    async def close(self) -> None:
        """Let go of connections and threads; no delivery is under way any more."""


def same_for_all(recipients: Iterable[str], result: Result) -> dict[str, Result]:
    """Return one result as that of every recipient."""
    return dict.fromkeys(recipients, result)
