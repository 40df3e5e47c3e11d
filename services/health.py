"""What monitoring asks a process: ``/metrics``, ``/healthz`` and ``/readyz``, over HTTP.

Healthy means that this process works: its event loop turns, and no file of its own is damaged. To
start it anew because the broker is away would bring the broker back no sooner: it waits, and comes
back by itself. Ready means that it can take work: all is open, connected to a broker that takes
publishes, confirms them, has queues for them, and hands out what is in the inbox. Whether some
destination is up is none of its business here. It is served from the beginning, while what is away
is waited for, and from a thread of its own, so that a loop that hangs cannot answer for itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from shared.broker import Broker
from shared.clock import Clock
from shared.metrics import BLOCKED, BUILD, CONNECTED, UNCONFIRMED, UNSUBSCRIBED, Metrics
from shared.supervision import supervise

BEAT: Final = 1.0
STALLED: Final = 30.0
"""Seconds without a turn of the event loop after which the process counts as hung."""

UNCONFIRMED_FOR: Final = 30.0
"""Seconds after which a message that the broker does not confirm is told of."""

Answer = tuple[int, str, bytes]
TEXT: Final = "text/plain; charset=utf-8"
EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """What is known of this process's health.

    Attributes:
        clock: the time.
        started: whether all that it needs is open.
        waits: each tells what this process waits for before it takes work, if it does.
        damages: each tells what is damaged, and will not mend by itself, if that is so.
        warnings: each tells what somebody should look at; a process that is ready says it too.

    Args:
        broker: its connection, which need not be open yet.
        clock: the time.
        metrics: where its metrics are.
        version: of this program.
    """

    def __init__(self, broker: Broker, clock: Clock, metrics: Metrics, version: str) -> None:
        self.started = False
        self.waits: list[Callable[[], str | None]] = []
        self.damages: list[Callable[[], str | None]] = []
        self.warnings: list[Callable[[], Sequence[str]]] = []
        self._broker = broker
        self.clock = clock
        self._metrics = metrics
        self._beat = self.clock.monotonic()
        self._metrics.watch(CONNECTED, lambda: float(self._broker.connected))
        self._metrics.watch(BLOCKED, lambda: float(self._broker.blocked is not None))
        self._unconfirmed = 0.0
        self._metrics.watch(UNSUBSCRIBED, lambda: float(len(self._broker.unsubscribed)))
        self._metrics.watch(UNCONFIRMED, lambda: self._unconfirmed)
        self._metrics.watch(BUILD, lambda: 1.0, version)

    async def beat(self) -> None:
        """Note, every second, that the event loop turns, and what only the loop may look at."""
        while True:
            self._beat = self.clock.monotonic()
            self._unconfirmed = self._broker.unconfirmed
            await self.clock.sleep(BEAT)

    def damage(self) -> str | None:
        """Return what is damaged and will not mend by itself, None where nothing is."""
        return next(filter(None, (damage() for damage in self.damages)), None)

    def sick(self) -> str | None:
        """Return why this process does not work, None where it does."""
        if found := self.damage():
            return found
        silence = self.clock.monotonic() - self._beat
        return f"the event loop has been blocked for {silence:.0f} s" if silence > STALLED else None

    def unready(self) -> str | None:
        """Return why this process cannot take work, None where it can."""
        if (wrong := self.sick()) is not None:
            return wrong
        if not self._broker.connected:
            return "not connected to the broker"
        if (blocked := self._broker.blocked) is not None:
            return f"the broker is blocked: {blocked}"
        if (waits := next(filter(None, (wait() for wait in self.waits)), None)) is not None:
            return f"nothing is taken from the queues: {waits}"
        if queues := self._broker.unsubscribed:
            return f"the broker has not started consumers on {', '.join(queues)}"
        if queues := self._broker.unroutable:
            return f"nothing leads to {', '.join(queues)}; run: pop3-connector topology declare"
        if self._unconfirmed >= UNCONFIRMED_FOR:
            return f"the broker has not confirmed a message for {self._unconfirmed:.0f} s"
        return None if self.started else "still starting: not everything is open yet"

    def answer(self, path: str) -> Answer:
        """Return status, content type and body for a path."""
        if path == "/metrics":
            return 200, EXPOSITION, self._metrics.text()
        checks: dict[str, Callable[[], str | None]] = {
            "/healthz": self.sick,
            "/readyz": self.unready,
        }
        if path not in checks:
            return 404, TEXT, b"there are /metrics, /healthz and /readyz\n"
        if (wrong := checks[path]()) is not None:
            return 503, TEXT, f"{wrong}\n".encode()
        warned = [f"warning: {what}" for warn in self.warnings for what in warn()]
        return 200, TEXT, "".join(f"{line}\n" for line in ("ok", *warned)).encode()


@asynccontextmanager
async def serve_health(health: Health, listen: str | None) -> AsyncGenerator[None, None]:
    """Serve what is known of this process until the block ends.

    Args:
        health: of this process.
        listen: ``host:port``, None to serve nothing.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    if listen is None:
        yield
        return
    # Not at the top: without monitoring no process waits for it.
    from services.health_http import serving

    server = serving(listen, health.answer)
    thread = threading.Thread(target=server.serve_forever, name="monitor", daemon=True)
    thread.start()
    beating = supervise(health.beat, "notes that the event loop turns", health.clock)
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await asyncio.to_thread(server.shutdown)
        server.server_close()
