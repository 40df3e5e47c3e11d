"""The HTTP server of monitoring: one request a connection, few connections, none for long.

Anybody who reaches the port may ask, and gets an answer at nobody else's expense. A
connection has some seconds for all of it, whatever comes and however slowly. Of more connections
than a few the oldest is closed, not the newest: a health check is answered while somebody holds
connections open. What goes wrong with one is its own affair, and nothing is said of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from typing import Any, Final

from shared.errors import ConfigError

MOST: Final = 16
"""Connections at a time."""

SECONDS: Final = 10.0
"""Seconds that a connection may take from its beginning to its end."""


class MonitorServer(ThreadingHTTPServer):
    """Serves a few connections at a time, each in a thread of its own.

    Attributes:
        seconds: how long one may take.
    """

    seconds = SECONDS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._begun: dict[socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to serve a connection; end the oldest, where there are too many."""
        with self._lock:
            if len(self._begun) >= MOST:
                oldest = next(iter(self._begun))
                del self._begun[oldest]  # at once: the next one that comes ends another
                _end(oldest)
            self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End what has taken too long; called twice a second."""
        before = time.monotonic() - self.seconds
        with self._lock:
            for connection, begun in self._begun.items():
                if begun < before:
                    _end(connection)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, after its answer or when it has ended."""
        with self._lock:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away; what it is told, health says elsewhere."""


def _end(connection: socket) -> None:
    """Make whoever reads from a connection, or writes to it, find it ended."""
    with suppress(OSError):
        connection.shutdown(SHUT_RDWR)


def serving(listen: str, answer: Callable[[str], tuple[int, str, bytes]]) -> MonitorServer:
    """Return a server that listens, and is not started.

    Args:
        listen: ``host:port``.
        answer: returns status, content type and body for a path.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            status, kind, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: health checks come every few seconds."""

    try:
        return MonitorServer((host.strip("[]"), int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError("monitor.listen", f"cannot listen on {listen!r}: {error}") from error
