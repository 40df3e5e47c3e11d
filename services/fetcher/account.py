"""An account: where its maildrop is, how often it is polled, and what stays on the server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from services.fetcher.pop3.login import Login
from shared.network.same_host import same_host
from shared.timetable import Timetable

FIRST_BACKOFF: Final = 60.0
LONGEST_BACKOFF: Final = 3_600.0

LONGEST_LOGIN_DELAY: Final = 3_600.0
"""Seconds between two logins that a server may ask for (LOGIN-DELAY, RFC 2449 section 6.5). Those
that limit logins ask for minutes; mail is to come no later than from a server that fails."""

HANDFUL: Final = 20
"""Accounts up to which all are polled at once; more are spread over their interval."""

FIRST_ROUND: Final = 300.0
"""Seconds over which the first polls of many accounts are spread, at the most."""

NUDGE: Final = 0.1
"""The part of its interval by which a poll comes earlier or later, to keep many apart."""

MAX_SIZE: Final = 256 * 1024 * 1024
"""Bytes of a message, unless the account says otherwise: more than any large provider takes in."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What of a maildrop is taken, and in which order.

    Attributes:
        skip_existing: what is there at the first poll counts as seen, and stays.
        newest_first: from the end of the listing, where servers list what came last.
        max_per_session: messages after which a session quits, and another one goes on; None for
            as many as it takes.
        flood_limit: new messages in one poll beyond which the account is held; None for what its
            history makes of ``flood_least``.
        flood_least: see above; ten times its busiest poll, if that is more.
        notice_to: the mailbox that is told of messages that are too large; None for nobody.
    """

    skip_existing: bool = False
    newest_first: bool = False
    max_per_session: int | None = None
    flood_limit: int | None = None
    flood_least: int = 2_000
    notice_to: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A POP3 mailbox that is polled.

    Attributes:
        name: how the configuration calls it.
        login: where it is and how to log in.
        timetable: when it is polled.
        keep: seconds that a message stays on the server once it is safe with us; 0 deletes it at
            once, infinity never.
        max_size: bytes; a message that is larger stays on the server.
        soonest: seconds after which it is polled again while mail is coming; None for no sooner.
        floor: seconds from one poll to the next that its provider asks for, at the least.
        intake: what is taken, and in which order.
    """

    name: str
    login: Login
    timetable: Timetable
    keep: float
    max_size: int = MAX_SIZE
    soonest: float | None = None
    floor: float = 0.0
    intake: Intake = Intake()

    @property
    def server(self) -> str:
        """The server as ``host:port``."""
        return self.login.server

    @property
    def maildrop(self) -> str:
        """Which maildrop it is, whatever the account is called."""
        return f"{self.login.username}@{same_host(self.login.host)}"


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


def first_polls(accounts: Iterable[Account]) -> dict[str, float]:
    """Return seconds after which each account is polled for the first time, if not at once."""
    listed = list(accounts)
    if len(listed) <= HANDFUL:
        return {}
    return {a.name: _phase(a.name) * min(a.timetable.shortest, FIRST_ROUND) for a in listed}


def spread(account: Account, now: float) -> float:
    """Return seconds until the next poll of one of many accounts: its interval, or about that.

    Each account has a moment of its own in its interval, by its name, and is led there a little at
    each poll: so those that came together (after a standstill, say) part again. Those that waited
    for the same hour of their timetable come one after the other from then on.

    Args:
        account: which.
        now: seconds since 1970 (UTC).
    """
    due = account.timetable.next_after(now)
    every = account.timetable.every(due)
    if due - now > every:
        return after_opening(account, due) - now
    off = (_phase(account.name) - now / every) % 1.0
    nearest = off - 1.0 if off > 1.0 - off else off
    return max(account.floor, every * (1.0 + max(-NUDGE, min(nearest, NUDGE))))


def after_opening(account: Account, due: float) -> float:
    """Return when an account is polled that has waited with others until its hours begin."""
    return due + _phase(account.name) * account.timetable.every(due)


def _phase(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32
