"""What monitoring is answered, and at nobody else's expense."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from services.health import TEXT, Health
from services.health_http import MOST, MonitorServer, serving
from shared.broker.embedded.broker import EmbeddedBroker
from shared.clock import SystemClock
from shared.log import MailLog
from tests.health import get
from tests.servers.process import free_port, wait_until


@pytest.fixture
def port() -> int:
    return free_port()


def test_a_process_with_a_damaged_file_is_not_healthy(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "queue.db", tiers=(), name="test")
    vitals = Health(broker, SystemClock(), MailLog("test").metrics, "1.0")
    damage: list[str] = []
    vitals.damages.append(lambda: damage[0] if damage else None)
    assert vitals.answer("/healthz")[0] == 200
    damage.append("queue.db is damaged")
    assert vitals.answer("/healthz") == (503, TEXT, b"queue.db is damaged\n")


@contextmanager
def served(port: int, seconds: float) -> Iterator[MonitorServer]:
    server = serving(f"127.0.0.1:{port}", lambda path: (200, "text/plain", path.encode()))
    server.seconds = seconds
    server.socket.listen(4 * MOST)  # or the kernel lets some wait for seconds, and try again
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answering() -> int:
    """Return how many threads answer somebody."""
    return len([t for t in threading.enumerate() if "process_request" in t.name])


def test_a_health_check_is_answered_whoever_holds_connections_open(port: int) -> None:
    with served(port, 600.0), ExitStack() as stack:
        held = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), 30)))
            for _ in range(4 * MOST)
        ]
        assert get(f"http://127.0.0.1:{port}/healthz") == (200, "/healthz")
        for connection in held[: 3 * MOST]:  # the oldest are closed, so threads stay few
            assert connection.recv(1) == b""
        wait_until(lambda: answering() <= MOST + 1, "threads of closed connections to end")


def test_a_request_that_comes_for_ever_is_ended(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(port, 0.2), closing(socket.create_connection(("127.0.0.1", port), 30)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\nX-Header: ")
        assert slow.recv(1) == b""
    assert capfd.readouterr() == ("", "")
