"""What a mail server can take at best: prepared messages by LMTP, and nothing else.

No POP3, nothing made durable on the way, no message looked at: as fast as anything that delivers
there can be. MAIL, RCPT and DATA go out together (RFC 2920), each connection has its own thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from scripts.benchmarks.arrivals import last_arrival
from scripts.benchmarks.measure import Sample
from scripts.benchmarks.place import Lmtp, Load, Place

_ENVELOPE: Final = b"MAIL FROM:<ann@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\n"


def raw_lmtp(place: Place, load: Load, *, connections: int = 8) -> Sample:
    """Send the mail of one maildrop to its user, over so many connections."""
    place.empty(load)
    envelope = _ENVELOPE % load.drops[0].user.encode()
    server, arrivals = place.lmtp, place.lmtp.arrivals()
    shares = [load.mail[first::connections] for first in range(connections)]
    with ThreadPoolExecutor(connections) as threads:
        cpu, started = time.process_time(), time.perf_counter()
        sending = [threads.submit(_send, server, envelope, share) for share in shares]
        for each in sending:
            each.result()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    last_arrival(arrivals, len(load.mail), 10)
    return Sample(len(load.mail), wall, cpu)


def _send(server: Lmtp, envelope: bytes, messages: Sequence[bytes]) -> None:
    with socket.create_connection((server.host, server.port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with line.makefile("rb") as said:
            _read(said.readline, b"220")
            line.sendall(b"LHLO localhost\r\n")
            _read(said.readline, b"250")
            for message in messages:
                line.sendall(envelope)
                for code in (b"250", b"250", b"354"):
                    _read(said.readline, code)
                line.sendall(message + b".\r\n")
                _read(said.readline, b"250")


def _read(read_line: Callable[[], bytes], code: bytes) -> None:
    """Read a reply, of one line or of several.

    Raises:
        RuntimeError: it is another one.
    """
    reply = read_line()
    while reply.startswith(code + b"-"):
        reply = read_line()
    if not reply.startswith(code):
        raise RuntimeError(f"the server said {reply!r}, and not {code!r}")
