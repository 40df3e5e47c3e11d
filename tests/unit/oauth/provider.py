"""An authorization server in memory, for what no clock of a real one could show in a test.

Refresh tokens are given once each, as at the strictest of servers.
"""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from shared.errors import TokenRefused, TokenUnavailable
from shared.oauth.token_answer import TokenAnswer


@dataclass
class Provider:
    """Gives tokens ``access-1``, ``access-2``, ... and ``refresh-1``, ...

    Attributes:
        answer: what it gives, but for the tokens themselves.
        away: whether it does not answer.
        rotates: whether each renewal gives another refresh token.
        good: the refresh token that it takes.
        asked: how often.
        gate: is waited for before it answers.
        received: set when it has been asked.
    """

    answer: TokenAnswer = field(default_factory=lambda: TokenAnswer("", 3600.0))
    away: bool = False
    rotates: bool = True
    good: str = "refresh-0"
    asked: int = 0
    gate: asyncio.Event | None = None
    received: asyncio.Event = field(default_factory=asyncio.Event)
    server: str = "login.example:443"
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def ask_as_ourselves(self) -> TokenAnswer:
        await self._be_asked()
        return replace(self.answer, access_token=f"access-{next(self._numbers)}")

    async def refresh(self, refresh_token: str) -> TokenAnswer:
        if refresh_token != self.good:
            self.asked += 1
            raise TokenRefused(self.server, "invalid_grant")
        number = next(self._numbers)
        if self.rotates and not self.away:
            self.good = f"refresh-{number}"
        await self._be_asked()
        refresh = self.good if self.rotates else None
        return replace(self.answer, access_token=f"access-{number}", refresh_token=refresh)

    async def _be_asked(self) -> None:
        self.asked += 1
        self.received.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise TokenUnavailable(self.server, "it answered 503")
