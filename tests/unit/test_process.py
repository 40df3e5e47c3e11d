"""A process of stages that runs until it is told to stop, or one of them ends by itself."""

import asyncio
from pathlib import Path

import pytest

from services.process import run_until
from services.wiring import Assembly
from shared.queues import PARSED
from tests.unit.test_drain import Plant, opened


async def ran(plant: Plant, stop: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await run_until(stop, plant.resources, [Assembly(stage) for stage in plant.stages()[1:]])


async def test_a_process_that_is_told_to_stop_ends_well(tmp_path: Path) -> None:
    async with opened(tmp_path) as plant:
        stop = asyncio.Event()
        running = asyncio.create_task(ran(plant, stop))
        await plant.put("x")
        while not plant.arrived:
            await asyncio.sleep(0.01)
        stop.set()
        await running


@pytest.mark.parametrize(
    ("error", "said"), [(TypeError("a defect"), "a defect"), (None, "ended unexpectedly")]
)
async def test_a_stage_that_ends_by_itself_ends_the_process(
    tmp_path: Path, error: Exception | None, said: str
) -> None:
    async with opened(tmp_path) as plant:
        plant.broker.breaks = {PARSED: error}
        with pytest.raises(type(error or RuntimeError()), match=said):
            await ran(plant, asyncio.Event())


async def test_a_settlement_that_raises_what_it_should_not_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as plant:

        async def raises(*_: object) -> list[Exception | None]:
            raise TypeError("a defect")

        monkeypatch.setattr(plant.broker, "settle_all", raises)
        await plant.put("x", queue=PARSED)
        with pytest.raises(TypeError, match="a defect"):
            await ran(plant, asyncio.Event())
    assert plant.left() == {PARSED: ["x"]}
