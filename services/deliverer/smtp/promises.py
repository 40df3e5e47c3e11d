"""What a mail server was seen to keep of what it offers, and what not.

Slow is not broken: where something fails, it is done once more without, and only if that goes well
is it left out from then on. It is not remembered for ever: servers change.

Known limit: it is known to this process alone.
"""

from __future__ import annotations

from typing import Final

from shared.clock import Clock, SystemClock

WEEK: Final = 7 * 86_400.0
DAY: Final = 86_400.0
HOUR: Final = 3_600.0

_SENDERS: Final = 1_000


class Promise:
    """Something that a server offers.

    Args:
        clock: the time.
        seconds: for how long to do without what failed.

    Attributes:
        kept: the server was seen to keep it; then what goes wrong has other reasons.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.kept = False
        self._clock = clock
        self._seconds = seconds
        self._suspected = False
        self._again_at = 0.0  # when it may be tried again

    @property
    def trusted(self) -> bool:
        """Whether to make use of it."""
        return self.kept or not (self._suspected or self._clock.monotonic() < self._again_at)

    def note_kept(self) -> None:
        """Note that the server kept it."""
        self.kept, self._suspected = True, False

    def doubt(self) -> None:
        """Note that it may not be kept after all."""
        self.kept = False

    def suspect(self) -> None:
        """Do without it until it is known whether that is better."""
        self.kept, self._suspected = False, True

    def note_without(self, *, well: bool) -> None:
        """Note how it went without.

        Args:
            well: whether what had failed was done.
        """
        if self._suspected and well:
            self._again_at = self._clock.monotonic() + self._seconds
        self._suspected = False


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
