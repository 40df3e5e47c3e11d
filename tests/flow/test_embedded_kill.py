"""SIGKILL in the middle of everything: processes on one queue file die, and no message with them.

The processes that are killed are this module, run as a program: a worker moves messages on from
queue to queue, a publisher says on its standard output what has been confirmed to it.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.broker import Delivery, Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.queues import Tier
from tests.deliveries import singly
from tests.servers.process import wait_until

TIERS = (Tier("5m", 300.0),)
MESSAGES = 3000
KILLS = 5
BODY = bytes(range(256)) * 20


def _broker(path: Path, name: str) -> EmbeddedBroker:
    return EmbeddedBroker(path, tiers=TIERS, name=name)


async def work(path: Path) -> None:
    """Take what comes into ``incoming`` and settle it into ``parsed``, many at a time."""
    broker = _broker(path, "worker")
    await broker.open()
    tasks: set[asyncio.Task[None]] = set()

    async def one(delivery: Delivery) -> None:
        onward = Send("parsed", delivery.body, delivery.message_id, delivery.headers)
        await broker.settle(delivery, onward)

    async for delivery in singly(broker.consume("incoming", 20)):
        task = asyncio.create_task(one(delivery))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def publish(path: Path) -> None:
    """Publish for ever, and print each number once it is confirmed."""
    broker = _broker(path, "publisher")
    await broker.open()

    async def series(start: int) -> None:
        number = start
        while True:
            await broker.publish(Send("incoming", BODY, str(number)))
            print(number, flush=True)
            number += 10

    await asyncio.gather(*map(series, range(10)))


@contextmanager
def running(role: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run this module as a program until the block ends, and then kill it."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, role, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def steward(path: Path) -> Iterator[EmbeddedSteward]:
    steward = EmbeddedSteward(path, TIERS)
    steward.declare()
    yield steward
    steward.close()


async def _fill(path: Path) -> None:
    broker = _broker(path, "test")
    await broker.open()
    await broker.publish(*(Send("incoming", BODY, str(n)) for n in range(MESSAGES)))
    await broker.close()


def _wait_for(steward: EmbeddedSteward, moved: int) -> None:
    wait_until(lambda: (steward.depths()["parsed"] or 0) >= moved, f"{moved} messages to move on")


def test_two_workers_one_of_them_killed_again_and_again(
    path: Path, steward: EmbeddedSteward
) -> None:
    asyncio.run(_fill(path))

    with running("work", path):
        for kill in range(1, KILLS + 1):
            with running("work", path) as victim:
                _wait_for(steward, MESSAGES * kill // (KILLS + 2))
                assert victim.poll() is None
        _wait_for(steward, MESSAGES)

    moved = Counter(stored.message_id for stored in steward.browse("parsed"))
    assert moved == Counter(map(str, range(MESSAGES)))
    assert {q: n for q, n in steward.depths().items() if n} == {"parsed": MESSAGES}
    assert all(stored.body == BODY for stored in steward.browse("parsed"))


def test_the_only_worker_killed_again_and_again(path: Path, steward: EmbeddedSteward) -> None:
    asyncio.run(_fill(path))

    for kill in range(1, KILLS + 1):
        with running("work", path):
            _wait_for(steward, MESSAGES * kill // (KILLS + 1))
    with running("work", path):
        _wait_for(steward, MESSAGES)

    moved = Counter(stored.message_id for stored in steward.browse("parsed"))
    assert moved == Counter(map(str, range(MESSAGES)))
    assert {q: n for q, n in steward.depths().items() if n} == {"parsed": MESSAGES}


def test_what_was_confirmed_to_a_killed_publisher_is_there(
    path: Path, steward: EmbeddedSteward
) -> None:
    confirmed: list[str] = []

    for kill in range(1, KILLS + 1):
        with running("publish", path) as publisher:
            assert publisher.stdout is not None
            for _ in range(200):
                confirmed.append(publisher.stdout.readline().strip())
            publisher.kill()
            # Whatever else it had managed to say; the last line may be cut off.
            rest = publisher.stdout.read().split("\n")[:-1]
        confirmed += [line for line in rest if line]
        assert len(confirmed) >= 200 * kill

    there = Counter(stored.message_id for stored in steward.browse("incoming"))
    assert Counter(confirmed) - there == Counter()


if __name__ == "__main__":
    asyncio.run({"work": work, "publish": publish}[sys.argv[1]](Path(sys.argv[2])))
