"""Background tasks: a defect ends none of them for good, and none in silence."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from services.deliverer.servers.pool import IDLE_SECONDS, Pool
from services.deliverer.smtp.protocol import SmtpProtocol
from services.deliverer.smtp.session import SmtpSession
from services.deliverer.smtp.target import Target
from services.disk_watch import LOOK_EVERY, watch_disks
from shared.broker.embedded.broker import EmbeddedBroker
from shared.disk.space import USUAL, Room
from shared.errors import BrokerUnavailable
from shared.log import MailLog
from shared.settings.model import Settings
from shared.supervision import DEFECT, FIRST, LONGEST, report_failures, supervise
from tests.clock import ManualClock
from tests.servers.smtp import smtp_server
from tests.unit.deliverer.content import until
from tests.unit.embedded.conftest import TIERS, send


class Once:
    """Raises what must not happen the first time, then does what it stands for."""

    def __init__(self, then: Callable[..., object] = lambda *_: None) -> None:
        self.calls = 0
        self._then = then

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.calls == 1:
            raise KeyError("a defect")
        return self._then(*arguments, **named)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def report(said: list[str]) -> Callable[..., None]:
    return lambda what, /, **about: said.append(f"{what} {about}")


async def test_what_fails_is_said_and_begun_anew(
    said: list[str], report: Callable[..., None]
) -> None:
    clock, runs = ManualClock(), list[float]()

    async def work() -> None:
        runs.append(clock.monotonic())
        if len(runs) < 9:
            raise KeyError("a defect")

    with report_failures(report):
        task = supervise(work, "counts sheep", clock)
        await clock.advance(0.0)
        await clock.advance(300.0)
    await task
    assert [b - a for a, b in pairwise(runs)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert len(said) == 8
    assert said[0].startswith(DEFECT)
    assert "the task that counts sheep failed, and is restarted" in said[0]
    assert "KeyError: 'a defect'" in said[0]
    assert "test_supervision.py:" in said[0]


async def test_after_a_long_life_it_is_begun_anew_at_once() -> None:
    clock, runs = ManualClock(), list[float]()

    async def work() -> None:
        runs.append(clock.monotonic())
        await clock.sleep(2 * LONGEST if len(runs) == 3 else 0.0)
        raise KeyError("a defect")

    with report_failures(lambda *_, **__: None):
        task = supervise(work, "dreams", clock)
        await clock.advance(0.0)
        await clock.advance(FIRST + 2 * FIRST + 2 * LONGEST + FIRST)
        task.cancel()
        await asyncio.wait([task])
    assert [b - a for a, b in pairwise(runs)][:3] == [1, 2, 61]


async def test_what_is_cancelled_ends(said: list[str], report: Callable[..., None]) -> None:
    with report_failures(report):
        task = supervise(asyncio.Event().wait, "waits", ManualClock())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert not said


async def test_a_callback_that_fails_is_said(said: list[str], report: Callable[..., None]) -> None:
    with report_failures(report):
        asyncio.get_running_loop().call_soon(Once())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert "KeyError" in said[0]


async def test_the_disks_are_looked_at_again_after_a_defect(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = Settings.model_validate({"data_dir": str(tmp_path)})
    looks = 0

    def stuck() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyError("a defect")
        return False

    with report_failures(lambda *_, **__: None):
        async with watch_disks(settings, Room([tmp_path], USUAL), stuck, MailLog("test"), clock):
            async with asyncio.timeout(30):
                while looks < 4:
                    await clock.advance(LOOK_EVERY)
                    await asyncio.sleep(0.005)


async def test_idle_connections_are_closed_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with smtp_server() as server:
        target = Target(f"127.0.0.1:{server.port}", "127.0.0.1", server.port, tls="none")
        pool = Pool(SmtpProtocol(target), clock)
        leave = Once(SmtpSession.quit)
        monkeypatch.setattr(SmtpSession, "quit", lambda session: leave(session))
        with report_failures(lambda *_, **__: None):
            pool.take_back(await pool.open())
            pool.take_back(await pool.open())
            await clock.advance(2 * IDLE_SECONDS)
            await until(lambda: "QUIT" in server.commands)
        await pool.close()


async def test_the_thread_of_the_embedded_broker_outlives_a_defect(tmp_path: Path) -> None:
    defect = Once()

    def scarce() -> bool:
        return bool(defect())

    broker = EmbeddedBroker(tmp_path / "queue.db", tiers=TIERS, name="test", scarce=scarce)
    await broker.open()
    with pytest.raises(BrokerUnavailable, match="a defect"):
        async with asyncio.timeout(30):
            await broker.publish(send(1))
    async with asyncio.timeout(30):
        await broker.publish(send(2))
    assert (await broker.depths(["incoming"]))["incoming"] == 1
    await broker.close()
