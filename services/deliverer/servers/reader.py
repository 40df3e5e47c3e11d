"""What a connection needs of a protocol: a reader that makes replies of bytes. It does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Malformed(ValueError):
    """What a server sent is nothing that its protocol knows, or too much."""


class WireReply(Protocol):
    """What a server says at a time: an SMTP reply, an IMAP response."""

    @property
    def bad(self) -> bool:
        """Whether whoever waits for several is to hear of it at once."""


R_co = TypeVar("R_co", bound=WireReply, covariant=True)


class Reader(Protocol[R_co]):
    """Turns bytes from a server into replies.

    Attributes:
        quotes: whether to tell what a server says that is none.
    """

    quotes: bool

    @property
    def clean(self) -> bool:
        """Whether it holds nothing of a reply that has only begun."""

    def feed(self, data: bytes) -> Sequence[R_co]:
        """Take bytes in; return the replies completed by them.

        Raises:
            Malformed: the bytes are none, or one is too long.
        """
