"""The console script: makes sure that ``services`` and ``shared`` are ours, and hands over.

Both names are common. A package of the same name in front of ours (``PYTHONPATH``), or one that was
installed into the same place and replaced files of ours, would be met as an ImportError somewhere,
or not at all. This module has a name that nobody else has, and needs nothing of either.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PROGRAM: Final = "pop3-connector"
OURS: Final = ("services", "shared")
"""The packages of this program; each says by its ``PROGRAM`` whose it is."""

SERVING: Final = frozenset(("run", "fetcher", "parser", "rewriter", "deliverer"))
"""The commands that run until they are told to end."""

_REMEDY: Final = (
    "Install pop3-connector into a virtual environment of its own, as its README says,"
    " and start it without PYTHONPATH."
)


def main() -> int:
    """Run the program; return its exit status, 1 where it would not be ours that runs."""
    _end_on_signals(sys.argv[1:])
    if (wrong := foreign(Path(__file__).parent)) is not None:
        sys.stderr.write(f"{PROGRAM}: {wrong}. {_REMEDY}\n")
        return 1
    from services.__main__ import main as program

    return program()


def _end_on_signals(arguments: Sequence[str]) -> None:
    """End a process that serves with 0 on SIGTERM and SIGHUP while it loads: nothing is in hand.

    Loading takes most of a second where the machine is busy. The program sets its own later.
    """
    if SERVING.isdisjoint(arguments) or "--once" in arguments:
        return
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is signal.SIG_DFL:
            signal.signal(name, lambda *_: os._exit(0))


def foreign(here: Path) -> str | None:
    """Return which package is not ours, where it lies and whose it is; None where all are ours.

    Args:
        here: where our packages lie.
    """
    for name in OURS:
        spec = find_spec(name)
        places = [] if spec is None else list(spec.submodule_search_locations or [str(spec.origin)])
        if not places:
            return f"its package {name!r} is missing in {here}"
        if Path(places[0]).resolve() != (here / name).resolve():
            return f"another package {name!r} is in front of ours: {places[0]}"
        if getattr(import_module(name), "PROGRAM", None) != PROGRAM:
            others = ", ".join(_others(name)) or "something else"
            return f"files of its package {name!r} were replaced by those of {others}: {places[0]}"
    return None


def _others(package: str) -> Iterator[str]:
    """Yield the other distributions that have installed files into a package of this name."""
    from importlib import metadata  # not at the top: no other start needs it

    for name in dict.fromkeys(metadata.packages_distributions().get(package, ())):
        if name.lower().replace("_", "-") != PROGRAM:
            yield f"{name} {metadata.version(name)}"


if __name__ == "__main__":
    sys.exit(main())
