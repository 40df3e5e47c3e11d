"""Lanes: hung servers beside good ones, who waits for whom, and polls that let go of their jobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from services.fetcher.account import Account
from services.fetcher.detached_polls import JOB_KEPT, DetachedPolls
from services.fetcher.fetch import CONCURRENCY, GOING_ON, ONCE, Fetcher
from services.fetcher.interfaces import FetcherContext
from services.fetcher.poll_slots import BRISK, HUNG, MAIN, SLOW, PollSlot, PollSlots, SlotPool
from services.fetcher.pop3.login import Login
from services.fetcher.server_slots import ServerSlots
from shared.message import Envelope, Poll
from shared.outcome import Done, Outcome
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING
from shared.timetable import Timetable
from tests.clock import ManualClock
from tests.servers.pop3 import Say
from tests.unit.fetcher.desk import Desk, some, turns_until
from tests.unit.fetcher.pop3_session import MAIL, everything_runs, login

Forward = Callable[[float], None]


def test_no_server_has_more_than_its_share_of_a_lane() -> None:
    lane = SlotPool(3, 2)
    assert [lane.take(server) for server in "aaabb"] == [True, True, False, True, False]
    lane.give_back("a")
    assert lane.take("b")


async def test_whoever_waits_is_served_in_turn_but_for_those_whose_server_has_its_share() -> None:
    lane = SlotPool(2, 1)
    came: list[str] = []

    async def wait(server: str) -> None:
        await lane.wait(server)
        came.append(server)

    await wait("a")
    await wait("b")
    tasks = [asyncio.create_task(wait(server)) for server in "acde"]
    await everything_runs()
    tasks[2].cancel()
    lane.give_back("b")
    await everything_runs()
    assert came == ["a", "b", "c"]
    lane.give_back("c")
    await everything_runs()
    assert came[3:] == ["e"]
    lane.give_back("a")
    await everything_runs()
    assert came[4:] == ["a"]


async def test_a_place_that_nobody_takes_any_more_goes_to_the_next_one() -> None:
    lane = SlotPool(1, 1)
    await lane.wait("a")
    gone = asyncio.create_task(lane.wait("b"))
    await everything_runs()
    lane.give_back("a")  # to b
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert lane.take("c")


async def test_a_poll_that_waits_for_its_server_leaves_the_main_lane(forward: Forward) -> None:
    lanes, left = PollSlots(ManualClock()), list[str]()
    seats = [
        await lanes.enter(f"{n}", f"{n}", lambda: left.append(""), insist=True) for n in range(MAIN)
    ]
    assert all(isinstance(slot, PollSlot) for slot in seats)
    waiting = asyncio.create_task(lanes.enter("good", "good", left.clear, insist=True))
    await everything_runs()
    assert not waiting.done()
    for slot in seats[1:]:
        assert isinstance(slot, PollSlot)
        slot.pace.begin()
    forward(BRISK)
    await turns_until(waiting.done)
    assert len(left) == MAIN - 1  # all but the one that does not wait


async def test_who_was_slow_begins_in_a_small_lane_until_it_is_brisk(forward: Forward) -> None:
    clock = ManualClock()
    lanes = PollSlots(clock)

    async def poll(account: str, seconds: float) -> bool:
        slot = await lanes.enter(account, account, lambda: None, insist=False)
        assert isinstance(slot, PollSlot)
        with slot.pace.waiting():
            forward(seconds)
        return lanes.leave(account, slot)

    names = [f"{n}" for n in range(SLOW + 1)]
    assert [await poll(name, HUNG) for name in names] == [True] * len(names)
    assert not await poll("x", HUNG / 2)
    seats = [await lanes.enter(name, name, lambda: None, insist=False) for name in names]
    assert [isinstance(slot, PollSlot) for slot in seats] == [True] * SLOW + [False]
    assert seats[-1] == pytest.approx(20.0 / SLOW)  # it comes again then
    for name, slot in zip(names[:-1], seats, strict=False):
        assert isinstance(slot, PollSlot)
        assert not lanes.leave(name, slot)
    assert not lanes.was_slow(names[0])


async def test_what_a_slow_server_sends_quickly_afterwards_is_no_credit(forward: Forward) -> None:
    slot = await PollSlots(ManualClock()).enter("a", "a", lambda: None, insist=True)
    assert isinstance(slot, PollSlot)
    slot.pace.begin()
    slot.pace.end(1_000_000_000)
    slot.pace.begin()
    forward(HUNG)
    assert slot.hung


def test_slow_accounts_have_half_of_the_places_of_their_server() -> None:
    places = ServerSlots(4, ManualClock())
    assert [places.take("a", slow=True) for _ in range(3)] == [True, True, False]
    assert places.take("a")
    places.give_back("a", 1.0, slow=True)
    assert places.take("a", slow=True)


@asynccontextmanager
async def holes(count: int) -> AsyncIterator[list[int]]:
    """Serve at so many ports and say nothing; yield the ports."""

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    servers = [await asyncio.start_server(nothing, "127.0.0.1", 0) for _ in range(count)]
    try:
        yield [server.sockets[0].getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()


def fetcher(desk: Desk, accounts: dict[str, Account]) -> Fetcher:
    outbox = QueuePublisher(desk.broker, INCOMING)
    context = FetcherContext(
        desk.state, desk.state, outbox, desk.spool, 2_000, desk.log, desk.clock
    )
    return Fetcher(accounts, context)


@pytest.mark.parametrize("reason", ["due", ONCE])
@pytest.mark.parametrize("ports", [200, 1])
async def test_200_black_holes_hold_up_no_good_account_from_the_first_poll_on(
    desk: Desk, forward: Forward, ports: int, reason: str
) -> None:
    """No more jobs are in hand than a broker hands out, and the good account is the last one."""
    async with holes(ports) as at, some(1).serving() as server:
        often = Timetable.always(300.0)
        accounts = {
            f"hole{n}": Account(
                f"hole{n}", Login("127.0.0.1", at[n % ports], "none", "x", lambda: "y"), often, 0.0
            )
            for n in range(200)
        }
        accounts["good"] = Account("good", login(server), Timetable.always(300.0), 0.0)
        polls, handed_out = fetcher(desk, accounts), asyncio.Semaphore(CONCURRENCY)

        async def poll(name: str) -> None:
            async with handed_out if reason != ONCE else contextlib.nullcontext():
                job = Envelope(f"poll-{name}", name, Poll(reason), 0.0)
                await polls.handle([job], lambda *_: None)

        jobs = [asyncio.create_task(poll(name)) for name in accounts]
        for _ in range(10):  # moments, in which no hole is given up
            if server.deleted:
                break
            await everything_runs()
            await asyncio.sleep(0.05)
            forward(BRISK)
        await turns_until(lambda: server.deleted == {1} and "good" not in polls._underway)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await polls.close()
        assert (await desk.state.accounts())["good"].last_ok
    assert desk.raws() == MAIL[:1]


async def test_a_poll_that_lets_go_of_its_job_goes_on_and_its_account_is_not_due(
    desk: Desk, forward: Forward
) -> None:
    hang = {"RETR 1": Say(b"+OK\r\nSubject", "hang")}
    await desk.state.claim_due(["sales"], hold=1_800)
    async with some(2, says=hang, capabilities=("UIDL", "TOP")).serving() as server:
        account = Account("sales", login(server), Timetable.always(300.0), 0.0)
        polls, outcomes = fetcher(desk, {"sales": account}), list[Outcome | Exception]()
        job = Envelope("poll-sales", "sales", Poll(), 0.0)
        handling = asyncio.create_task(polls.handle([job], lambda _, o: outcomes.append(o)))
        await turns_until(lambda: server.hanging)
        forward(BRISK)
        await handling
        assert outcomes == [Done("this fetcher is polling account sales", "polled")]
        # Its account is not due for as long as that lasts; and if it were, the answer is the same.
        for _ in range(20):
            await desk.clock.advance(GOING_ON / 2)
            assert await desk.state.claim_due(["sales"], hold=1_800) == []
        await polls.handle([job], lambda _, o: outcomes.append(o))
        assert outcomes[1:] == outcomes[:1]
        assert await desk.state.claim_due(["sales"], hold=1_800) == []
        assert server.connections == 1
        forward(60.0)
        await turns_until(lambda: server.deleted == {2})
        await turns_until(lambda: not polls._underway)
    assert desk.raws() == MAIL[1:2]
    state = (await desk.state.accounts())["sales"]
    assert (state.queued_until, state.last_error) == (0.0, None)


async def test_no_poll_keeps_its_job_for_as_long_as_a_broker_waits(forward: Forward) -> None:
    held, ended = list[str](), asyncio.Event()

    async def hold(accounts: Sequence[str]) -> None:
        held.extend(accounts)

    going_on = DetachedPolls(hold, ManualClock(), lambda _: None)

    async def poll() -> Outcome:
        await ended.wait()
        return Done("x", "polled")

    let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    job = asyncio.create_task(going_on.until("a", poll(), let_go))
    await everything_runs()
    forward(JOB_KEPT + 1)
    assert await job is None
    assert held == ["a"]
    assert JOB_KEPT < 1_800 / 2
    await going_on.close()


async def test_an_account_whose_poll_went_on_in_a_process_that_died_is_due_soon(
    desk: Desk, forward: Forward
) -> None:
    hang = {"RETR 1": Say(b"+OK\r\nSubject", "hang")}
    await desk.state.claim_due(["sales"], hold=1_800)
    async with some(2, says=hang, capabilities=("UIDL", "TOP")).serving() as server:
        account = Account("sales", login(server), Timetable.always(300.0), 0.0)
        polls = fetcher(desk, {"sales": account})
        job = Envelope("poll-sales", "sales", Poll(), 0.0)
        handling = asyncio.create_task(polls.handle([job], lambda *_: None))
        await turns_until(lambda: server.hanging)
        forward(BRISK)
        await handling
        await polls.close()
    await desk.clock.advance(GOING_ON)
    assert await desk.state.claim_due(["sales"], hold=1_800) == ["sales"]
