"""Blocking work that may hang: in a thread that nobody has to wait for, and only for so long.

A file system or a server that is away may never answer. The thread is a daemon, so that a process
ends without it. Limit: each call that hangs keeps its thread, so whoever calls again and again
leaves one alone that is still at it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from shared.clock import Clock

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], name: str) -> T:
    """Do blocking work in a thread of its own, and return what it returns.

    Args:
        work: what to do.
        name: of the thread.

    Raises:
        Exception: whatever it raises.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            tell = partial(_settle, answer, work())
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            tell = partial(_fail, answer, error)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer


async def answer_within(clock: Clock, seconds: float, task: asyncio.Future[T]) -> T:
    """Wait for something, for so long at the most; it goes on by itself where that was too short.

    Args:
        clock: the time.
        seconds: how long.
        task: what is waited for.

    Raises:
        TimeoutError: it took longer.
        Exception: what it ended with.
    """
    limit = asyncio.ensure_future(clock.sleep(seconds))
    try:
        both: set[asyncio.Future[Any]] = {task, limit}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        limit.cancel()
        task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError
    return task.result()


def _settle(answer: asyncio.Future[T], found: T) -> None:
    if not answer.done():
        answer.set_result(found)


def _fail(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _forget(task: asyncio.Future[T]) -> None:
    """Look at what it ended with: nobody else may, and it is no defect."""
    if not task.cancelled():
        task.exception()
