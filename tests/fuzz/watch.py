"""What hostile input must not do: take long, or keep memory."""

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LATEST = 1.0
"""Seconds of CPU that one input may take: of our own, however busy the machine is."""

GROWTH = 300
"""Blocks of memory that may stay allocated, however many inputs there are: what is lost with each
input is soon more. Python keeps some itself, such as 100 floats."""


class Hung(Exception):
    """An input takes too long."""


class Grown(Exception):
    """Memory is not given back."""


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung(f"more than {LATEST:g} s of CPU")


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise Hung if the block takes too long; in the main thread."""
    before = signal.signal(signal.SIGPROF, _hung)
    signal.setitimer(signal.ITIMER_PROF, LATEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Memory:
    """Counts the blocks that Python has allocated."""

    def __init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Count from here: caches are full, and imports are done."""
        gc.collect()
        self._blocks = sys.getallocatedblocks()

    def check(self) -> None:
        """Raise Grown if there are many more than there were."""
        gc.collect()
        grown = sys.getallocatedblocks() - self._blocks
        if grown > GROWTH:
            raise Grown(f"{grown} more blocks are allocated")
