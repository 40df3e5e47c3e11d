"""A real ledger and a real spool for the story of a delivery."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.deliverer.deliver import Deliverer
from shared.spool import Spool
from shared.state import State
from tests.clock import ManualClock
from tests.unit.deliverer.stories import Told


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[State]:
    state = await State.open(f"sqlite:///{tmp_path}/state.db", owner="one", clock=clock)
    yield state
    await state.close()


@pytest.fixture
async def other(tmp_path: Path, clock: ManualClock, ledger: State) -> AsyncIterator[State]:
    """The ledger as another process sees it."""
    state = await State.open(f"sqlite:///{tmp_path}/state.db", owner="two", clock=clock)
    yield state
    await state.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "spool"))


@pytest.fixture
def courier() -> Told:
    return Told()


@pytest.fixture
def deliverer(courier: Told, ledger: State, spool: Spool, clock: ManualClock) -> Deliverer:
    return Deliverer({"local": courier}, ledger, spool, clock, threshold=2)
