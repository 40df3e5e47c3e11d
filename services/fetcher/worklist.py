"""What one session has to do, in plain data; see ``compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Listed(NamedTuple):
    """A message in a maildrop.

    Attributes:
        number: in this session.
        uidl: None where it is not usable.
        size: what LIST says, None where it does not.
    """

    number: int
    uidl: str | None
    size: int | None = None

    @property
    def key(self) -> str:
        """What tells it from the others in another session, as far as anything does."""
        # No UIDL begins with a blank.
        return f" {self.number} {self.size}" if self.uidl is None else self.uidl


class Safe(NamedTuple):
    """A message that is safe with us and may be deleted at the server.

    Attributes:
        head: the hash of its header block, None where it is not known.
    """

    number: int
    uidl: str | None
    id: str
    size: int | None = None
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Worklist:
    """What to do in one session.

    Attributes:
        found: how many messages the server has.
        fetch: messages that the ledger does not know.
        changed: the identities of those among them whose UIDL it knows with another size, by UIDL.
        due: messages that it knows, and whose time on the server is over.
        unnamed: how many messages have no usable UIDL.
        more: whether there is more to be fetched than a session does.
    """

    found: int
    fetch: tuple[Listed, ...]
    changed: Mapping[str, str]
    due: tuple[Safe, ...]
    unnamed: int
    more: bool = False


def age(since: float, now: float) -> float:
    """Return for how many seconds a message has been here.

    Not negative: after a clock was set back, what is not to be kept is not kept for that long.
    """
    return max(0.0, now - since)
