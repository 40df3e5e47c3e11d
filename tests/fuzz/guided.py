"""One target under Atheris, in a process of its own: ``python -m tests.fuzz.guided TARGET ...``.

Atheris (libFuzzer) makes inputs from the seeds, and keeps those that reach new code of ours. The
process ends with a traceback and status 77 at an exception, at an input that takes more than a
second of CPU, and where what Python allocates is not given back. Now and then an input is repeated
up to 100 KB, so that what takes quadratic time shows.
"""

import codecs
import encodings.aliases
import sys
from contextlib import suppress

import atheris

from tests.fuzz.watch import Memory, no_hang

LOOK_EVERY = 1_000
WARM = 3 * LOOK_EVERY
"""Inputs after which caches are full and imports done: from then on nothing may stay allocated."""

REPEAT_EVERY = 50


class Watch:
    """Runs a target, and watches its time and its memory."""

    def __init__(self, name: str) -> None:
        with atheris.instrument_imports(include=["services", "shared", "email"]):
            from tests.fuzz.targets import TARGETS, pumped
        self._run = TARGETS[name].run
        self._pumped = pumped
        self._count = 0
        for charset in set(encodings.aliases.aliases.values()):
            with suppress(LookupError):  # those of Windows
                codecs.lookup(charset)
        self._memory = Memory()

    def __call__(self, data: bytes) -> None:
        """Run the target on one input."""
        self._count += 1
        with no_hang():
            self._run(data)
        if self._count % REPEAT_EVERY == 0:
            with no_hang():
                self._run(self._pumped(data))
        if self._count % LOOK_EVERY == 0:
            (self._memory.settle if self._count <= WARM else self._memory.check)()


def main() -> None:
    """Fuzz the target named first; the rest are libFuzzer's own arguments."""
    program, name, *rest = sys.argv
    atheris.Setup([program, *rest], Watch(name))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
