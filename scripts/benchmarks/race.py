"""Contenders take turns; a rival that fails is out of the race, and the others go on.

What fails of ours ends the benchmark: there is a defect, and figures without us tell nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

S = TypeVar("S")

FAULTS: Final = (RuntimeError, OSError)
"""How a rival fails: it ends with an error or not at all, or another number of messages arrives."""


class Race(Generic[S]):
    """What the contenders came to.

    Attributes:
        samples: of each contender, of its rounds; none of those that have failed.
        failed: why a contender is out, in a line.
    """

    def __init__(self) -> None:
        self.samples: defaultdict[str, list[S]] = defaultdict(list)
        self.failed: dict[str, str] = {}

    def turn(self, name: str, go: Callable[[], S], *, ours: bool) -> S | None:
        """Run a contender once; return what it came to, None if it is out.

        Raises:
            RuntimeError: it is ours, and failed; so with OSError.
        """
        if name in self.failed:
            return None
        try:
            sample = go()
        except FAULTS as error:
            if ours:
                raise
            self.samples.pop(name, None)
            self.failed[name] = " ".join(str(error).split())[:200] or type(error).__name__
            print(f"  {name} failed, and is left out: {self.failed[name]}", flush=True)
            return None
        self.samples[name].append(sample)
        return sample
