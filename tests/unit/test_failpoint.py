"""Fault points: nothing at all unless armed, and then death at that step and no other."""

import asyncio
import os
import signal
from contextvars import copy_context

import pytest

from shared import failpoint
from shared.failpoint import arm, reach


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return what was killed, with which signal; nothing dies."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


ME = (os.getpid(), signal.SIGKILL)


def armed(fault: str, *reached: tuple[str, str]) -> None:
    """Reach steps in a context of its own in which this is armed."""

    def act() -> None:
        assert arm({failpoint.VARIABLE: fault}) == fault
        for where, step in reached:
            reach(where, step)

    copy_context().run(act)


def test_nothing_happens_where_nothing_is_armed(killed: list[tuple[int, int]]) -> None:
    assert arm({}) is None
    reach("fetcher", "before-ledger")
    assert killed == []


def test_the_process_dies_at_the_step_that_is_named_and_at_no_other(
    killed: list[tuple[int, int]],
) -> None:
    armed("fetcher.before-ledger", ("fetcher", "after-ledger"), ("parser", "before-ledger"))
    assert killed == []
    armed("fetcher.before-ledger", ("fetcher", "before-ledger"))
    assert killed == [ME]


def test_it_dies_when_it_gets_there_so_many_times(killed: list[tuple[int, int]]) -> None:
    armed("parser.before-publish#3", *[("parser", "before-publish")] * 2)
    assert killed == []
    armed("parser.before-publish#3", *[("parser", "before-publish")] * 3)
    assert killed == [ME]


async def test_tasks_inherit_what_is_armed_and_others_do_not(
    killed: list[tuple[int, int]],
) -> None:
    async def act() -> None:
        reach("fetcher", "before-ledger")

    async def process() -> None:
        arm({failpoint.VARIABLE: "fetcher.before-ledger"})
        await asyncio.create_task(act())

    await asyncio.create_task(process())
    assert killed == [ME]
    await act()
    assert killed == [ME]
