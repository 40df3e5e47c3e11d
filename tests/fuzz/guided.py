"""One target under Atheris, in a process of its own: ``python -m tests.fuzz.guided TARGET ...``.

Atheris (libFuzzer) makes inputs from the seeds, and keeps those that reach new code of ours. The
process ends with a traceback and status 77 at an exception, at an input that takes more than a
second of CPU, and where memory that Python allocates is not given back. One input in eight is
repeated up to 100 KB, so that what takes quadratic time shows.
"""

import gc
import os
import signal
import sys
import tracemalloc
from types import FrameType

import atheris

LATEST = 1.0
"""Seconds of CPU that one input may take."""

WARM = 2_000
"""Inputs after which caches are full, imports done, and what Python allocates has to be freed."""

LOOK_EVERY = 1_000
GROWTH = 256 * 1024
"""Bytes that may stay allocated all the same, whatever the number of inputs."""


class Hung(Exception):
    """An input takes too long."""


class Grown(Exception):
    """Memory is not given back."""


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung(f"more than {LATEST:g} s of CPU")


class Watch:
    """Runs a target and watches its time and its memory."""

    def __init__(self, name: str) -> None:
        with atheris.instrument_imports(include=["services", "shared", "email"]):
            from tests.fuzz.targets import TARGETS, pumped
        self._run = TARGETS[name].run
        self._pumped = pumped
        self._count = 0
        self._base = 0
        signal.signal(signal.SIGPROF, _hung)

    def __call__(self, data: bytes) -> None:
        """Run the target on one input."""
        self._count += 1
        signal.setitimer(signal.ITIMER_PROF, LATEST)
        try:
            self._run(data)
            if len(data) % 8 == 1:
                self._run(self._pumped(data))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if self._count >= WARM and self._count % LOOK_EVERY == 0:
            self._look()

    def _look(self) -> None:
        gc.collect()
        if not tracemalloc.is_tracing():
            tracemalloc.start()
            return
        grown, _ = tracemalloc.get_traced_memory()
        if grown > GROWTH:
            top = tracemalloc.take_snapshot().statistics("lineno")[:5]
            raise Grown(f"{grown} bytes since input {WARM}: {[str(line) for line in top]}")


def main() -> None:
    """Fuzz the target named first; the rest are libFuzzer's own arguments."""
    program, name, *rest = sys.argv
    os.environ["PYTHONWARNINGS"] = "ignore"
    atheris.Setup([program, *rest], Watch(name))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
