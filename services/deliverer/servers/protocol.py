"""The seam between the courier for mail servers and the ways to talk to one: SMTP, LMTP, IMAP.

A protocol opens sessions and sends mail objects over them; when, over which, and what to do where
it fails, is the courier's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from services.deliverer.courier import CourierResult, MailObject
from services.deliverer.servers.connection import Connection
from shared.errors import Unreachable

Following: TypeAlias = Callable[[Callable[[MailObject], bool]], MailObject | None]
"""Returns the mail object that goes over the same connection next, if one waits that this is true
of. From then on it is bound to this connection."""


def nothing_follows(_: Callable[[MailObject], bool]) -> None:
    """Bind no mail object to a connection."""


class PipelineBroken(Unreachable):
    """What was sent together was not answered as it should be; nothing has been delivered.

    It is worth one more try over a fresh connection, which then does without pipelining.
    """


class SendSingly(Exception):
    """Mail objects that went in one command were refused together, or not all of them came.

    The session can be used again; sent one by one, those that are not to blame may pass.
    """


class MailSession(Protocol):
    """An open session with a mail server.

    Attributes:
        served: how many mail objects, or what went together, the server has heard of over it.
    """

    served: int

    @property
    def connection(self) -> Connection[Any]:
        """What carries it."""

    def quit(self) -> None:
        """Take leave and close; the answer is not waited for."""


S = TypeVar("S", bound=MailSession)


class MailProtocol(Protocol[S]):
    """How to talk to one server."""

    @property
    def server(self) -> str:
        """What logs and errors call it."""

    async def open(self) -> S:
        """Connect and return a session in which mail can be sent.

        Raises:
            Unreachable: the server cannot be reached, or does not let us in.
            Throttled: it takes no more for now.
        """

    def no_answer(self, seconds: float) -> Unreachable:
        """Return the error for a server that has let nobody in, and said nothing, for so long."""

    def together(self, session: S, first: MailObject, count: int, other: MailObject) -> bool:
        """Return whether a mail object may go in one command with these.

        Args:
            session: over which they go.
            first: the first of them.
            count: how many they are.
            other: the one that is asked about.
        """

    async def send(
        self, session: S, mail_objects: Sequence[MailObject], following: Following
    ) -> Sequence[CourierResult]:
        """Send mail objects that go together, and return what became of each.

        Args:
            session: an open session; unless this raises, it can be used again.
            mail_objects: one, or those that go ``together``; to recipients that can be named.
            following: is asked for the mail object that goes over this session next, where that is
                of use.

        Raises:
            Throttled: a limit of the server; nothing was delivered to anybody.
            Unreachable: the connection broke, or the server does not let us in. Nobody is known to
                have any of them.
            SendSingly: they are to be sent one by one.
            SpoolMissing: as ``MailContent.chunks`` does.
            SpoolUnavailable: as ``MailContent.chunks`` does.
            ClaimLost: as ``MailContent.check`` does.
        """
