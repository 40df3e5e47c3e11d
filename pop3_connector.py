"""The console script: how a process begins and ends. Between, it hands over to ``services``.

Before anything is loaded it makes sure that the three standard descriptors are open, that signals
end it well, and that ``services`` and ``shared`` are ours. Once its exit status is known, no signal
changes it any more. ``python -m services`` and those of the stages begin here as well.

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

INTERRUPTED: Final = 130
"""The exit status of what was told to end before it was done."""

SERVING: Final = frozenset(("run", "fetcher", "parser", "rewriter", "deliverer"))
"""The commands that run until they are told to end."""

_REMEDY: Final = (
    "Install pop3-connector into a virtual environment of its own, as its README says,"
    " and start it without PYTHONPATH."
)


def main(*first: str) -> int:
    """Run the program; return its exit status, 1 where it would not be ours that runs.

    Args:
        first: stands before the arguments of this process.
    """
    sys.argv[1:1] = first
    open_descriptors()
    _end_on_signals(sys.argv[1:])
    try:
        return _main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _heed_no_more_signals()


def _main() -> int:
    if (wrong := foreign(Path(__file__).parent)) is not None:
        sys.stderr.write(f"{PROGRAM}: {wrong}. {_REMEDY}\n")
        return 1
    from services.command_line import main as program

    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return program()


def open_descriptors() -> None:
    """Open what is closed of standard input, output and error (``2>&-``), on ``/dev/null``.

    The next file that is opened would have its number: a database, into which errors are written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # has the lowest number that is free: this one
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _interrupted(*_: object) -> None:
    os._exit(INTERRUPTED)


def _end_on_signals(arguments: Sequence[str]) -> None:
    """End at once on a signal while all is loaded: nothing is in hand, and there is nothing to say.

    What serves ends with 0 on SIGTERM and SIGHUP. Loading takes most of a second where the machine
    is busy. The program sets its own later.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    if SERVING.isdisjoint(arguments):
        return
    status = INTERRUPTED if "--once" in arguments else 0
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is signal.SIG_DFL:
            signal.signal(name, lambda *_: os._exit(status))


def _heed_no_more_signals() -> None:
    """Let no signal change an exit status that is known: Python takes its handlers away by itself.

    A command that has none is ended by them as ever.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_DFL:
            signal.signal(name, signal.SIG_IGN)


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
