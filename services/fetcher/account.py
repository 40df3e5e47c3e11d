"""An account: where its maildrop is, how often it is polled, and what stays on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.fetcher.login import Login

FIRST_BACKOFF: Final = 60.0
LONGEST_BACKOFF: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Account:
    """A POP3 mailbox that is polled.

    Attributes:
        name: how the configuration calls it.
        login: where it is and how to log on.
        poll_every: seconds from one poll to the next.
        keep: seconds that a message stays on the server once it is safe with us; 0 deletes it at
            once, infinity never.
    """

    name: str
    login: Login
    poll_every: float
    keep: float

    @property
    def server(self) -> str:
        """The server as ``host:port``."""
        return f"{self.login.host}:{self.login.port}"


def backoff(poll_every: float, failures: int, *, busy: bool) -> float:
    """Return seconds until an account that failed is polled again.

    The wait doubles up to an hour, so that a wrong password does not lock the account and a dead
    host costs little; it is never shorter than the account's own interval, unless somebody else
    merely held the maildrop.

    Args:
        poll_every: the account's own interval in seconds.
        failures: how many polls in a row had failed before this one.
        busy: the maildrop was held by another session.
    """
    if busy:
        return min(FIRST_BACKOFF, poll_every)
    doubled: float = FIRST_BACKOFF * 2.0 ** min(failures, 10)
    return max(poll_every, min(doubled, LONGEST_BACKOFF))
