"""What a mail server was seen to keep of what it offers, and what not.

Known limit: it is known to this process alone.
"""

from __future__ import annotations

from typing import Final

from services.deliverer.servers.promise import DAY, HOUR, WEEK, Promise
from shared.clock import Clock, SystemClock

_SENDERS: Final = 1_000


class Promises:
    """What is known of one server.

    Attributes:
        refused: senders that it refused, with what it said, where it hung up at that. Some servers
            do so after a few that they do not like; such a sender is not tried again. All are
            forgotten when they become many.
        pipelining: that it takes MAIL, RCPT and DATA in one write (RFC 2920).
        options: that it takes MAIL with the parameters of extensions that it offers.
        following: that it takes those of the next message with the end of the one before.
        ehlo: that it answers EHLO, be it with a refusal. Without, there is no TLS, so that is not
            held against a server for as long.
        starttls: that TLS begins after STARTTLS, likewise.
        covert_login: that it takes the password by a mechanism that does not show it.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.refused: dict[str, str] = {}
        self.pipelining = Promise(clock, WEEK)
        self.options = Promise(clock, WEEK)
        self.following = Promise(clock, WEEK)
        self.ehlo = Promise(clock, DAY)
        self.starttls = Promise(clock, HOUR)
        self.covert_login = Promise(clock, WEEK)

    def note_refused(self, sender: str, said: str) -> None:
        """Note a sender that is not to be tried again."""
        if len(self.refused) >= _SENDERS:
            self.refused.clear()
        self.refused[sender] = said
