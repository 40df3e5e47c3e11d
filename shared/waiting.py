"""Waiting for a broker or a database that is not there yet, for as long as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from shared.errors import QueueFileDamaged, StateDamaged
from shared.log import Report

_DAMAGED: Final = (QueueFileDamaged, StateDamaged)

T = TypeVar("T")


async def until_there(
    work: Callable[[], Awaitable[T]],
    passes: Callable[[BaseException], bool],
    report: Report,
    what: str,
    *,
    once: bool = False,
) -> T:
    """Return what ``work`` returns, once it does not fail with what passes by itself.

    Args:
        work: is begun anew after each failure, after pauses of up to 15 seconds.
        passes: tells whether an error is one to wait for the end of.
        report: told of each such error, as ``why``.
        what: what is waited for, as it stands in the log.
        once: the first error alone is told of.

    Raises:
        Exception: what ``work`` raised that does not pass.
    """

    def tell(call: RetryCallState) -> None:
        if not once or call.attempt_number == 1:
            report(what, why=call.outcome.exception() if call.outcome else "")

    waits = AsyncRetrying(
        retry=retry_if_exception(passes),
        wait=wait_random_exponential(multiplier=0.2, max=15),
        before_sleep=tell,
    )

    async def attempt() -> T:  # tenacity awaits nothing that a plain function returns
        return await work()

    return await waits(attempt)


def any_of(*kinds: type[Exception]) -> Callable[[BaseException], bool]:
    """Return what tells whether an error is one of these, and passes: what is damaged stays so."""
    return lambda error: isinstance(error, kinds) and not isinstance(error, _DAMAGED)
