"""The device flow (RFC 8628): the person decides on another device, and we ask whether they have.

We ask no more often than the server wants: its interval, five seconds more after each
``slow_down``, and twice as long after a time-out (section 3.5), until the code has ended.
"""

from __future__ import annotations

from typing import Final, Protocol

from shared.clock import Clock
from shared.errors import TokenRefused, TokenUnavailable
from shared.oauth.token_answer import TokenAnswer
from shared.oauth.token_server import AskedTooEarly, DeviceCode

SLOWER: Final = 5.0
"""Seconds by which we ask less often after a ``slow_down``."""

_LONGEST: Final = 60.0


class DeviceServer(Protocol):
    """An authorization server."""

    @property
    def server(self) -> str:
        """Which one."""

    async def ask_for_device(self, code: DeviceCode) -> TokenAnswer:
        """See ``TokenServer``."""


async def wait_for_person(server: DeviceServer, code: DeviceCode, clock: Clock) -> TokenAnswer:
    """Return the tokens once the person has agreed.

    Args:
        server: which is asked.
        code: that the person was told.
        clock: for the waits.

    Raises:
        TokenRefused: the person refuses, or the code has ended.
        ConfigError: our secret or certificate cannot be had.
    """
    end, wait = clock.monotonic() + code.lasts, code.interval
    while clock.monotonic() < end:
        await clock.sleep(wait)
        try:
            return await server.ask_for_device(code)
        except AskedTooEarly as early:
            wait += SLOWER if early.slower else 0.0
        except TokenUnavailable:
            wait = min(wait * 2, max(wait, _LONGEST))
    raise TokenRefused(server.server, "the code has ended, and nobody has used it")
