"""What was delivered while the ledger could not be written: it comes once, whoever goes on."""

import asyncio
from pathlib import Path

import pytest

from services.deliverer.batch import CLAIMED_ELSEWHERE
from services.deliverer.deliver import KEPT_BACK, Deliverer
from services.deliverer.unrecorded import SIZE, Unrecorded
from shared.ledger import DeliveryKey, Finished
from shared.outcome import Done, Outcome, Retry
from shared.spool import Spool
from shared.state import State
from tests.clock import ManualClock
from tests.servers.disk import memory_disk
from tests.unit.deliverer.content import ANNA, BERT
from tests.unit.deliverer.stories import Away, Told, envelope

SUPPRESSED = Done("had been delivered before", event="suppressed")


@pytest.fixture
async def dying(tmp_path: Path, clock: ManualClock, other: State) -> State:
    """The ledger as a process sees it that will end before the test does."""
    assert other
    return await State.open(f"sqlite:///{tmp_path}/state.db", owner="dying", clock=clock)


@pytest.fixture
async def unrecorded(tmp_path: Path) -> Unrecorded:
    file = Unrecorded(tmp_path / "unrecorded")
    await file.make()
    return file


async def handled(deliverer: Deliverer, *recipients: str, to: str = "local") -> Outcome:
    found: list[Outcome | Exception] = []
    mail = envelope(*recipients, to=to)
    await deliverer.handle([mail], lambda _, answer: found.append(answer))
    (outcome,) = found
    assert not isinstance(outcome, Exception)
    return outcome


async def delivered_and_not_recorded(deliverer: Deliverer, courier: Told) -> asyncio.Task[Outcome]:
    """Have a message delivered that the ledger does not take; return who waits for that."""
    delivering = asyncio.create_task(handled(deliverer, ANNA))
    async with asyncio.timeout(10):
        while not courier.taken:
            await asyncio.sleep(0.001)
    return delivering


async def written(unrecorded: Unrecorded) -> None:
    async with asyncio.timeout(10):
        while not await unrecorded.read():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_process_that_ends_before_it_could_record_leaves_it_to_the_next(
    end: str,
    dying: State,
    other: State,
    spool: Spool,
    clock: ManualClock,
    unrecorded: Unrecorded,
) -> None:
    away, courier = Away(dying), Told()
    first = Deliverer({"local": courier}, away, spool, clock, unrecorded=unrecorded)
    away.out = {"finish", "unclaim"}
    delivering = await delivered_and_not_recorded(first, courier)
    await written(unrecorded)
    if end == "stopped":
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    await dying.close()  # by which its claims expire
    await clock.advance(60)
    next_one = Deliverer({"local": courier}, other, spool, clock, unrecorded=unrecorded)
    assert await handled(next_one, ANNA) == SUPPRESSED
    assert len(courier.taken) == 1
    assert await unrecorded.read() == []
    delivering.cancel()


@pytest.mark.parametrize("told", [False, True])
async def test_what_is_cancelled_while_it_is_recorded_is_written_down(
    told: bool,
    dying: State,
    other: State,
    spool: Spool,
    clock: ManualClock,
    unrecorded: Unrecorded,
) -> None:
    """Whether the deliverer had been told of it when it was cancelled first, or not yet."""
    recording = asyncio.Event()

    class Slow(Away):
        async def finish(self, finished: object) -> None:
            recording.set()
            await asyncio.Event().wait()

    courier = Told()
    deliverer = Deliverer({"local": courier}, Slow(dying), spool, clock, unrecorded=unrecorded)
    if told:
        delivering = await delivered_and_not_recorded(deliverer, courier)
    else:
        delivering = asyncio.create_task(handled(deliverer, ANNA))
        while not courier.taken:
            await asyncio.sleep(0)
        delivering.cancel()
    await recording.wait()
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    await dying.close()
    await clock.advance(60)
    next_one = Deliverer({"local": courier}, other, spool, clock, unrecorded=unrecorded)
    assert await handled(next_one, ANNA) == SUPPRESSED


async def test_while_nothing_can_be_recorded_nothing_more_is_delivered(
    ledger: State, spool: Spool, clock: ManualClock, unrecorded: Unrecorded
) -> None:
    away, courier, waiting = Away(ledger), Told(), Told()
    waiting.gate = asyncio.Event()
    couriers = {"local": courier, "archive": waiting}
    deliverer = Deliverer(couriers, away, spool, clock, unrecorded=unrecorded)
    claimed = asyncio.create_task(handled(deliverer, ANNA, to="archive"))
    await waiting.started.wait()
    away.out = {"finish"}
    delivering = await delivered_and_not_recorded(deliverer, courier)
    await written(unrecorded)
    waiting.gate.set()
    assert await claimed == Retry(KEPT_BACK, CLAIMED_ELSEWHERE)
    assert waiting.taken == []

    away.out = set()
    async with asyncio.timeout(10):
        while not delivering.done():
            await clock.advance(5)
            await asyncio.sleep(0.001)
    assert await delivering == Done("250 2.0.0 taken")
    assert await handled(deliverer, ANNA, to="archive") == Done("250 2.0.0 taken")
    assert await unrecorded.read() == []


async def test_nothing_is_delivered_before_what_is_written_down_is_recorded(
    ledger: State, spool: Spool, clock: ManualClock, unrecorded: Unrecorded
) -> None:
    await unrecorded.write([Finished(DeliveryKey("3f9a", "local"), {ANNA: "250 taken"})])
    away, courier = Away(ledger), Told()
    deliverer = Deliverer({"local": courier}, away, spool, clock, unrecorded=unrecorded)
    away.out = {"finish"}
    assert isinstance(await handled(deliverer, ANNA, BERT), Retry)
    assert courier.taken == []
    away.out = set()
    await handled(deliverer, ANNA, BERT)
    assert [recipients for *_, recipients in courier.taken] == [[BERT]]


def several(count: int, start: int = 0) -> list[Finished]:
    """Return deliveries to one recipient each, the reply as long as any that is kept."""
    ids = [f"{number:064x}" for number in range(start, start + count)]
    return [Finished(DeliveryKey(id_, "local"), {ANNA: "250 " + "ü" * 400}) for id_ in ids]


async def test_it_is_written_on_a_disk_on_which_nothing_is_free(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "2m") as disk:
        unrecorded = Unrecorded(disk.root / "unrecorded")
        await unrecorded.make()
        disk.fill()
        assert await unrecorded.write(several(300))
        assert await unrecorded.read() == several(300)
        await unrecorded.strike(several(100))
        assert await unrecorded.read() == several(200, 100)
        await unrecorded.strike(several(300))
        assert await unrecorded.read() == []


async def test_what_cannot_be_written_down_is_said_to_be_so(tmp_path: Path) -> None:
    assert not await Unrecorded(tmp_path / "nowhere").write(several(1))
    assert not await Unrecorded(None).write(several(1))
    assert await Unrecorded(None).read() == []


async def test_a_line_that_was_torn_costs_no_other(tmp_path: Path, unrecorded: Unrecorded) -> None:
    assert await unrecorded.write(several(2))
    file = tmp_path / "unrecorded"
    whole = file.read_bytes()
    end = whole.index(b"\0")
    file.write_bytes(whole[: end - 9].ljust(SIZE, b"\0"))  # as a power cut would
    assert await unrecorded.write(several(1, 2))
    assert await unrecorded.read() == [*several(1), *several(1, 2)]
    await unrecorded.strike([*several(1), *several(1, 2)])
    assert await unrecorded.read() == []
    assert file.stat().st_size == SIZE
    assert file.stat().st_mode & 0o777 == 0o600
