import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.group_commit import GroupCommit


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Doubling:
    """Doubles numbers; refuses odd ones; remembers its batches; can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.entered.set()
        self.gate.wait(30)
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        return [ValueError(f"{i} is odd") if i % 2 else i * 2 for i in items]


async def test_what_is_asked_for_at_once_is_one_batch(executor: ThreadPoolExecutor) -> None:
    run = Doubling()
    double = GroupCommit(run, executor)
    assert await asyncio.gather(*(double(i) for i in (0, 2, 4))) == [0, 4, 8]
    assert run.batches == [[0, 2, 4]]
    assert run.threads.isdisjoint({threading.get_ident()})


async def test_what_comes_while_a_batch_runs_is_the_next_batch(
    executor: ThreadPoolExecutor,
) -> None:
    run = Doubling()
    run.gate.clear()
    double = GroupCommit(run, executor, limit=2)
    first = asyncio.ensure_future(double(0))
    await asyncio.to_thread(run.entered.wait, 30)
    later = [asyncio.ensure_future(double(i)) for i in (2, 4, 6)]
    await asyncio.sleep(0)
    run.gate.set()
    assert await asyncio.gather(first, *later) == [0, 4, 8, 12]
    assert run.batches == [[0], [2, 4], [6]]


async def test_where_a_few_wait_more_are_waited_for(executor: ThreadPoolExecutor) -> None:
    run = Doubling()
    run.gate.clear()
    double = GroupCommit(run, executor)
    first = asyncio.ensure_future(double(0))
    await asyncio.to_thread(run.entered.wait, 30)
    second = asyncio.ensure_future(double(2))
    await asyncio.sleep(0)
    run.gate.set()
    await first
    assert list(await asyncio.gather(second, double(4))) == [4, 8]
    assert run.batches == [[0], [2, 4]]


async def test_an_answered_exception_fails_its_item_alone(executor: ThreadPoolExecutor) -> None:
    double = GroupCommit(Doubling(), executor)
    got = await asyncio.gather(double(2), double(3), double(4), return_exceptions=True)
    assert got[0] == 4
    assert got[2] == 8
    assert isinstance(got[1], ValueError)
    assert str(got[1]) == "3 is odd"


async def test_a_raised_exception_fails_the_batch_and_not_the_next(
    executor: ThreadPoolExecutor,
) -> None:
    def run(items: Sequence[int]) -> list[int | Exception]:
        if 0 in items:
            raise OSError("disk on fire")
        return list(items)

    same = GroupCommit(run, executor)
    got = await asyncio.gather(same(0), same(1), return_exceptions=True)
    assert [str(e) for e in got] == ["disk on fire", "disk on fire"]
    assert await same(1) == 1


async def test_too_few_answers_fail_the_batch(executor: ThreadPoolExecutor) -> None:
    none: GroupCommit[int, int] = GroupCommit(lambda items: [], executor)
    with pytest.raises(RuntimeError, match="0 answers for a batch of 1"):
        await none(1)


async def test_a_cancelled_caller_disturbs_nobody(executor: ThreadPoolExecutor) -> None:
    run = Doubling()
    run.gate.clear()
    double = GroupCommit(run, executor)
    given_up, kept = asyncio.ensure_future(double(2)), asyncio.ensure_future(double(4))
    await asyncio.to_thread(run.entered.wait, 30)
    given_up.cancel()
    run.gate.set()
    assert await kept == 8
    assert given_up.cancelled()
    assert run.batches == [[2, 4]]


async def test_a_closed_executor_is_told_to_every_caller() -> None:
    pool = ThreadPoolExecutor(1)
    double = GroupCommit(Doubling(), pool)
    pool.shutdown()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await double(2)


async def test_one_who_asks_for_many_gets_all_answers_from_one_batch(
    executor: ThreadPoolExecutor,
) -> None:
    run = Doubling()
    double = GroupCommit(run, executor, limit=4)
    first, second, third = await asyncio.gather(
        double.all([0, 1, 2]), double.all([4, 6]), double.all([8])
    )
    assert (first[0], str(first[1]), first[2]) == (0, "1 is odd", 4)
    assert [*second, *third] == [8, 12, 16]
    assert run.batches == [[0, 1, 2], [4, 6, 8]]


async def test_no_batch_has_more_than_the_limit_whoever_asks(executor: ThreadPoolExecutor) -> None:
    run = Doubling()
    double = GroupCommit(run, executor, limit=2)
    answers = await asyncio.gather(double.all([0, 2, 4, 8, 10]), double.all([6]))
    assert [list(answer) for answer in answers] == [[0, 4, 8, 16, 20], [12]]
    assert run.batches[0] == [0, 2]
    assert max(map(len, run.batches)) == 2
