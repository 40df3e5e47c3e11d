"""Poll jobs that are lost with their queue, over each broker: their accounts are due in minutes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.fetcher.schedule import HOLD, MISSED_AFTER, Scheduler
from shared import wire
from shared.broker import Broker
from shared.log import MailLog
from shared.message import Poll
from shared.queue_publisher import QueuePublisher
from shared.queues import POLL
from shared.state import State, new_owner
from tests.clock import ManualClock
from tests.contract.conftest import Bench
from tests.contract.messages import eventually

NAMES = ("lost", "polled", "waits")


@pytest.fixture
async def states(tmp_path: Path, clock: ManualClock) -> AsyncIterator[tuple[State, State]]:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    one = await State.open(url, owner=new_owner(), clock=clock)
    two = await State.open(url, owner=new_owner(), clock=clock)
    yield one, two
    await one.close()
    await two.close()


def scheduler(broker: Broker, state: State, clock: ManualClock) -> Scheduler:
    async def waiting() -> int:
        return (await broker.depths([POLL]))[POLL]

    outbox, log = QueuePublisher(broker, POLL), MailLog("fetcher")
    return Scheduler(NAMES, state, outbox, waiting, log, clock, blocked=lambda: None, first={})


async def test_accounts_are_due_whose_jobs_are_in_no_queue_and_which_nobody_polls(
    bench: Bench, states: tuple[State, State], clock: ManualClock
) -> None:
    here, elsewhere = states
    broker = await bench.broker()
    schedule = scheduler(broker, here, clock)

    async def all_wait() -> bool:
        return (await broker.depths([POLL]))[POLL] == len(NAMES)

    def jobs() -> list[str]:
        return sorted(wire.decode(m.body, Poll).account for m in bench.steward.browse(POLL))

    await schedule.queue_due()
    await eventually(all_wait, "the jobs")
    assert await elsewhere.lease("account:polled")
    await clock.advance(MISSED_AFTER + 1)
    assert await elsewhere.lease("account:polled")  # it is alive, and goes on polling
    await schedule.release_lost()  # they wait
    await schedule.queue_due()
    assert jobs() == sorted(NAMES)

    found = [m.message_id for m in bench.steward.browse(POLL)]
    assert len(bench.steward.drop(POLL, found, lambda m: m.message_id)) == len(NAMES)
    await schedule.release_lost()
    await schedule.queue_due()
    assert jobs() == ["lost", "waits"]
    assert MISSED_AFTER < HOLD / 10

    found = [m.message_id for m in bench.steward.browse(POLL)]
    bench.steward.drop(POLL, found, lambda m: m.message_id)
    await schedule.release_lost()  # they were queued a moment ago
    await schedule.queue_due()
    assert jobs() == []
