"""A locked file, a full disk, messages that cannot be: what fails, and what goes on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from shared.broker import Delivery, Send
from shared.broker.embedded import schema
from shared.broker.embedded.broker import EmbeddedBroker
from shared.errors import BrokerUnavailable, Refused
from tests.deliveries import singly
from tests.unit.embedded.conftest import (
    PATIENCE,
    TIERS,
    Open,
    eventually,
    files_up_to,
    has_depth,
    locked,
    send,
    take,
)


async def test_open_waits_for_a_file_that_is_locked(path: Path, opened: Open) -> None:
    schema.connect(path, 1).close()
    broker = EmbeddedBroker(path, tiers=TIERS, name="test", patience=0.01)
    with locked(path):
        opening = asyncio.create_task(broker.open())
        given_up = EmbeddedBroker(path, tiers=TIERS, name="test", patience=0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(given_up.open(), 0.05)
        assert not opening.done()

    async with asyncio.timeout(PATIENCE):
        await opening
    await broker.publish(send(1))
    await broker.close()


async def test_a_locked_file_fails_the_operation_and_no_more(path: Path, opened: Open) -> None:
    broker = await opened(patience=0.01)
    waiting = asyncio.create_task(take(broker, queue="parsed"))
    await broker.publish(send(1))
    (delivery,) = await take(broker)

    with locked(path):
        with pytest.raises(BrokerUnavailable, match="locked"):
            await broker.settle(delivery, send(1, "parsed"))
        assert not broker.connected
        assert "locked" in str(broker.blocked)

    async def recovered() -> bool:
        return broker.connected and broker.blocked is None

    await eventually(recovered, "the broker to recover")
    await broker.settle(delivery, send(1, "parsed"))
    (arrived,) = await waiting
    assert arrived.message_id == "id-1"


async def test_a_full_disk_fails_the_operation_and_no_more(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    (delivery,) = await take(broker)

    with files_up_to(1 << 20):
        with pytest.raises(BrokerUnavailable, match=r"the disk"):
            await broker.settle(delivery, send(1, "parsed", bytes(3 << 20)))
        assert broker.blocked is not None

    await broker.settle(delivery, send(1, "parsed", bytes(3 << 20)))
    assert len((await take(broker, queue="parsed"))[0].body) == 3 << 20
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 0}


async def test_on_a_full_disk_what_fits_does_not_fail_with_what_does_not(opened: Open) -> None:
    broker = await opened()
    await broker.publish(*map(send, range(3)))
    small, large, last = await take(broker, 3)

    with files_up_to(1 << 20):
        answers = await asyncio.gather(
            broker.settle(small, send(0, "parsed")),
            broker.settle(large, send(1, "parsed", bytes(3 << 20))),
            broker.settle(last),
            return_exceptions=True,
        )

    assert [type(answer) for answer in answers] == [type(None), BrokerUnavailable, type(None)]
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 1}
    await broker.settle(large, send(1, "parsed"))


async def test_where_room_is_scarce_messages_go_on_and_none_come_in(path: Path) -> None:
    scarce = False
    broker = EmbeddedBroker(path, tiers=TIERS, name="test", scarce=lambda: scarce)
    await broker.open()
    await broker.publish(send(1))
    (delivery,) = await take(broker)

    scarce = True
    answers = await asyncio.gather(
        broker.publish(send(2)),
        broker.settle(delivery, send(1, "parsed")),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [BrokerUnavailable, type(None)]
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 1}
    scarce = False
    await broker.publish(send(2))
    await broker.close()


async def test_what_was_handed_over_in_a_failed_commit_takes_up_no_room(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    (delivery,) = await take(broker)
    waiting = asyncio.create_task(take(broker, 1, "parsed"))  # and has no room for a second one
    await has_depth(broker, "incoming", 0)

    with files_up_to(1 << 20), pytest.raises(BrokerUnavailable, match=r"the disk"):
        await broker.settle(delivery, send(1, "parsed", bytes(1_500_000)))

    await broker.settle(delivery, send(2, "parsed"))
    async with asyncio.timeout(PATIENCE):
        (arrived,) = await waiting
    assert arrived.message_id == "id-2"


async def test_a_broker_that_is_not_open_says_so(opened: Open, path: Path) -> None:
    closed = await opened()
    await closed.close()
    for broker in (closed, EmbeddedBroker(path, tiers=TIERS, name="test")):
        assert not broker.connected
        with pytest.raises(BrokerUnavailable, match="not open"):
            await broker.publish(send(1))
        with pytest.raises(BrokerUnavailable, match="not open"):
            await anext(singly(broker.consume("incoming", 1)))


async def test_a_broker_can_be_opened_again(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    await broker.close()

    await broker.open()

    assert (await take(broker))[0].message_id == "id-1"


async def test_closing_ends_the_consumers(opened: Open) -> None:
    broker = await opened()

    async def consume() -> list[Delivery]:
        return [delivery async for delivery in singly(broker.consume("incoming", 5))]

    consuming = asyncio.create_task(consume())
    await broker.publish(send(1))
    await has_depth(broker, "incoming", 0)

    await broker.close()

    assert [d.message_id for d in await consuming] == ["id-1"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (send(1, "parsed", bytes(16 * 1024 * 1024 + 1)), "over the limit"),
        (Send("parsed", b"", "\udc80", {}), "not text"),
        (send(1, "no-such-queue"), "no queue"),
    ],
)
async def test_what_is_refused_takes_its_whole_publish_along_and_nobody_else(
    opened: Open, bad: Send, why: str
) -> None:
    broker = await opened()

    bad_one, good_one = await asyncio.gather(
        broker.publish(send(1), bad), broker.publish(send(2)), return_exceptions=True
    )

    assert isinstance(bad_one, Refused)
    assert why in str(bad_one)
    assert good_one is None
    assert [d.message_id for d in await take(broker)] == ["id-2"]
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 0}


async def test_a_file_that_is_damaged_meanwhile_is_told_from_one_that_is_away(
    path: Path, opened: Open
) -> None:
    broker = await opened()
    await broker.publish(send(1, body=bytes(8 << 20)))  # more than is kept in memory
    assert broker.damage is None
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"?" * (6 << 20))
    waiting = asyncio.create_task(take(broker))

    async def told() -> bool:
        return "state rebuild" in (broker.damage or "")

    await eventually(told, "a word about it")
    waiting.cancel()
