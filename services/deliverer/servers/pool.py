"""Connections to one server, kept to be used again, closed when idle for long; callers bound them.

A kept connection may have died without a sign. A caller that finds one dead closes all others that
are idle as well, for what killed one has killed them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Generic

from services.deliverer.servers.protocol import MailProtocol, S
from shared.clock import Clock
from shared.supervision import supervise

IDLE_SECONDS: Final = 60.0
"""How long a connection is kept for the next message; servers close theirs after 5 minutes."""

LEAVE_SECONDS: Final = 2.0
"""How long a server may take to end TLS with us when we leave."""


class Pool(Generic[S]):
    """Sessions with one server.

    Args:
        protocol: how to talk to it.
        clock: the time.
    """

    def __init__(self, protocol: MailProtocol[S], clock: Clock) -> None:
        self._protocol = protocol
        self._clock = clock
        self._idle: deque[tuple[float, S]] = deque()  # the longest idle first
        self._sweeper: asyncio.Task[None] | None = None

    def take_idle(self) -> S | None:
        """Return a kept session, or None; it is no longer the pool's until it is taken back."""
        while self._idle:
            _, session = self._idle.pop()  # the last used: the rest can time out
            if session.connection.idle:
                return session
            session.connection.abort()
        return None

    async def open(self) -> S:
        """Return a new session.

        Raises:
            Unreachable: the server cannot be reached, or does not let us in.
            Throttled: it takes no more for now.
        """
        return await self._protocol.open()

    def take_back(self, session: S) -> None:
        """Keep a session for the next message, unless its connection is gone or out of step."""
        if session.connection.idle:
            self._keep(session)
        else:
            session.connection.abort()

    async def close(self) -> None:
        """Say QUIT on every idle connection, and close it."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        leaving = [session.connection for _, session in self._idle]
        self.close_idle()
        await asyncio.gather(*(connection.wait_closed(LEAVE_SECONDS) for connection in leaving))

    def _keep(self, session: S) -> None:
        self._idle.append((self._clock.monotonic(), session))
        if self._sweeper is None or self._sweeper.done():
            what = f"closes idle connections to {self._protocol.server}"
            self._sweeper = supervise(self._sweep, what, self._clock)

    async def _sweep(self) -> None:
        while self._idle:
            since, _ = self._idle[0]
            await self._clock.sleep(since + IDLE_SECONDS - self._clock.monotonic())
            self.close_idle(IDLE_SECONDS)

    def close_idle(self, seconds: float = 0.0) -> None:
        """Close the connections that have been idle for so long, all of them if for no time."""
        limit = self._clock.monotonic() - seconds
        while self._idle and self._idle[0][0] <= limit:
            self._idle.popleft()[1].quit()
