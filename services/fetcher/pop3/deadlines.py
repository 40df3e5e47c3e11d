"""How fast a server is: for how long it may be waited for, and for how long it was.

A server that says nothing is given up after the account's ``timeout``. One that says a little, and
a little more, is given up by what is here: too few bytes in a while, or too long for what it is
about. Only what is waited for counts: time that passes on our side is no server's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

LEAST_WINDOW: Final = 10.0
"""Seconds over which bytes are counted where the account's ``timeout`` is shorter."""

BRISK: Final = 32 * 1024
"""Bytes a second of which nobody says that they were waited for."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a server may take, in seconds.

    Attributes:
        connect: for its name, an address that answers, and TLS.
        login: from the connection to the answer to PASS.
        session: from the login to QUIT.
        slowest: bytes a second that any answer comes with, over each ``timeout`` of the account, or
            each ``LEAST_WINDOW`` if that is longer.
    """

    connect: float = 120.0
    login: float = 180.0
    session: float = 6 * 3_600.0
    slowest: int = 100


class WaitMeter:
    """For how long a poll has waited for its server, less what the bytes that came make up for.

    Attributes:
        worst: how far it was behind at the most, in seconds.
    """

    __slots__ = ("_behind", "_loop", "_since", "worst")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._behind = 0.0
        self.worst = 0.0

    def behind(self) -> float:
        """Return by how many seconds it is behind now."""
        since = self._since
        return self._behind if since is None else self._behind + self._loop.time() - since

    def begin(self) -> None:
        """The server is waited for from now on."""
        self._since = self._loop.time()

    def end(self, came: int = 0) -> None:
        """The wait is over.

        Args:
            came: how many bytes have come since this was told last.
        """
        behind = self.behind()
        self._since = None
        self.worst = max(self.worst, behind)
        self._behind = max(0.0, behind - came / BRISK)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the server in this block."""
        self.begin()
        try:
            yield
        finally:
            self.end()
