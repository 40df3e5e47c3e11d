from services.deliverer.breaker import Breaker
from tests.clock import ManualClock


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.permit().end("gone")


async def test_it_opens_after_failures_in_a_row_and_lets_one_probe_through() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, threshold=3, cooldown=10)
    fail(breaker, 2)
    breaker.permit().end(None)
    fail(breaker, 2)
    assert breaker.remaining() == 0
    fail(breaker)
    assert breaker.open
    assert breaker.remaining() == 10
    await clock.advance(4)
    assert breaker.remaining() == 6
    await clock.advance(6)
    assert breaker.remaining() == 0
    probe = breaker.permit()
    assert breaker.remaining() > 0
    probe.end(None)
    assert breaker.remaining() == 0
    fail(breaker, 2)
    assert breaker.remaining() == 0


async def test_the_cooldown_grows_with_each_failed_probe_up_to_a_limit_and_starts_anew() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, threshold=1, cooldown=10, longest=35)
    fail(breaker)
    waits = [breaker.remaining()]
    for _ in range(3):
        await clock.advance(breaker.remaining())
        fail(breaker)
        waits.append(breaker.remaining())
    assert waits == [10, 20, 35, 35]
    await clock.advance(35)
    breaker.permit().end(None)
    fail(breaker)
    assert breaker.remaining() == 10


async def test_failures_of_those_under_way_when_it_opened_do_not_prolong_it() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, threshold=1, cooldown=10)
    earlier = breaker.permit()
    fail(breaker)
    await clock.advance(5)
    earlier.end("gone")
    assert breaker.remaining() == 5


async def test_a_probe_that_found_out_nothing_makes_way_for_another() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, threshold=1, cooldown=10)
    fail(breaker)
    await clock.advance(10)
    breaker.permit().abandon()
    assert breaker.open
    assert breaker.remaining() == 0


async def test_it_says_what_the_last_failure_was() -> None:
    breaker = Breaker(ManualClock(), threshold=1, cooldown=10)
    breaker.permit().end("no reply")
    assert breaker.open
    assert breaker.why == "no reply"


async def test_failures_of_those_begun_before_a_success_leave_it_shut() -> None:
    breaker = Breaker(ManualClock(), threshold=2, cooldown=10)
    slow = [breaker.permit() for _ in range(5)]
    breaker.permit().end(None)
    for attempt in slow:
        attempt.end("no reply")
    assert not breaker.open
    fail(breaker, 2)
    assert breaker.open
