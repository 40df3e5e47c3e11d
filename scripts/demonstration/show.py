"""What the demo shows: the progress of the run, and at its end what became of every message.

Live bars where a person watches, plain lines otherwise. Whatever comes from mail is escaped and is
never read as markup.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from shared.log import printable

Record: TypeAlias = Mapping[str, object]

_ENDS: Final = ("delivered", "suppressed", "failed", "quarantined")
_TAKEN: Final = ("fetched", "suppressed")
_QUIET: Final = ("fetched", "delivered", "removed")
"""Events that are counted and not shown one by one: they are what is expected."""

_STYLES: Final = {"suppressed": "cyan", "failed": "yellow", "quarantined": "red"}
_MILESTONE: Final = 10
_ID_LENGTH: Final = 12


class Screen:
    """Shows the log lines of a run as progress; used as a context manager while it goes on.

    Args:
        console: where to print; it is asked whether it is a terminal.
        total: how many messages lie in the maildrops.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._counts: Counter[str] = Counter()
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(40),
            MofNCompleteColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._taken = self._progress.add_task("fetched", total=total)
        self._settled = self._progress.add_task("settled", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """Take one line of the log."""
        try:
            record = json.loads(text)
        except ValueError:
            record = {"event": text, "level": "warning"}
        if isinstance(record, dict):
            self._event(record)

    def _event(self, record: Record) -> None:
        name = str(record.get("event", ""))
        self._counts[name] += 1
        self._progress.update(self._taken, completed=self._count(_TAKEN))
        self._progress.update(self._settled, completed=self._count(_ENDS))
        if name in _STYLES or (record.get("level") != "info" and name not in _QUIET):
            why = record.get("reason") or record.get("why") or ""
            self._say(f"{name:<12} {record.get('account', '')!s:<8} {why}", _STYLES.get(name))
        if name in _ENDS and self._count(_ENDS) % _MILESTONE == 0 and not self._console.is_terminal:
            self._say(f"settled {self._count(_ENDS)} of {self._total} messages")

    def _count(self, names: Sequence[str]) -> int:
        return sum(self._counts[name] for name in names)

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(Text(printable(text), style or ""), soft_wrap=True)


def heading(console: Console, text: str) -> None:
    """Print what the next lines are about."""
    console.print()
    console.print(Text(text, "bold"), soft_wrap=True)


def totals(console: Console, rows: Sequence[tuple[str, object, str]]) -> None:
    """Print a name, a number, and a remark in each line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column(style="dim")
    for name, number, remark in rows:
        grid.add_row(Text(f"  {name}"), str(number), Text(remark))
    console.print(grid)


def short(message: Record) -> str:
    """Return the beginning of a message's id; commands take it for the whole."""
    return str(message["id"])[:_ID_LENGTH]


def kept(console: Console, messages: Sequence[Record]) -> None:
    """Print the messages of a folder, as its ``list --json`` gives them: two lines for each."""
    for message in messages:
        what = f"{message.get('account')}: {message.get('subject') or 'without a subject'}"
        sender = f", from {message['from']}" if message.get("from") else ", without a sender"
        console.print(Text(f"  {short(message)}  {printable(what + sender)}"), soft_wrap=True)
        reason = Text(f"  {' ' * _ID_LENGTH}  {printable(str(message.get('reason')))}", "dim")
        console.print(reason, soft_wrap=True)


def commands(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print commands, each on one line so that it can be pasted.

    Args:
        console: where to.
        lines: what a command is good for, "" where the line above has said so, and the command.
    """
    for purpose, command in lines:
        if purpose:
            console.print(Text(f"  # {purpose}", "dim"), soft_wrap=True)
        console.print(Text(f"  {command}"), soft_wrap=True)
