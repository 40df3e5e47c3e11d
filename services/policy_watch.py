"""Whether a policy at RabbitMQ could lose mail: asked at the start, and again now and then.

It trusts the management API; without it nothing is known, as AMQP says nothing of policies. A
policy is somebody else's business, and may be meant: it is said, and stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from shared.clock import Clock
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import MailLog

AGAIN: Final = 300.0
"""Seconds from one look to the next."""


class PolicyWatch:
    """Says in the log, once each, what policies could do to mail.

    Attributes:
        found: what they could do now.

    Args:
        ask: returns what they could do, a sentence each; it may block.
        log: where it is said.
        clock: times the looks.
    """

    def __init__(self, ask: Callable[[], Sequence[str]], log: MailLog, clock: Clock) -> None:
        self.found: Sequence[str] = ()
        self._ask = ask
        self._log = log
        self._clock = clock
        self._blind: str | None = None

    async def watch(self) -> None:
        """Look, now and then, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(AGAIN)

    async def look(self) -> None:
        """Look once."""
        try:
            found = await asyncio.to_thread(self._ask)
        except (ConfigError, BrokerUnavailable) as error:
            if str(error) != self._blind:
                self._log.trouble("policies cannot be read", why=error)
            self._blind = str(error)
            return
        self._blind = None
        for danger in found:
            if danger not in self.found:
                self._log.trouble("a policy could lose mail", what=danger)
        if self.found and not found:
            self._log.note("no policy endangers mail any more")
        self.found = found
