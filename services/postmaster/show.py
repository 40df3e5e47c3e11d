"""How the operator's commands print: tables and lines for a person, JSON for a program.

Whatever comes from mail is escaped before it gets to a terminal, and is never read as markup. In
JSON the values are as they are; JSON escapes them itself.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from services.postmaster.parked import Letter, letter
from shared.broker import Stored
from shared.log import printable
from shared.message import Addressed

ID_LENGTH: Final = 12
"""Characters of an id that a table shows; commands take any beginning that is unique."""

HEADER_LINES: Final = 40
PIPE_WIDTH: Final = 4000
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"), (0.001, "ms"))
_SIZES: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_COLUMNS: Final = ("account", "from", "subject", "reason", "since", "attempts")


def as_json(value: object) -> None:
    """Print a value as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as wide as the terminal, or with one line a row where there is none.

    Args:
        columns: the headings.
        rows: the cells; they are escaped here.
    """
    # Not at the top: stages and commands that show no table do not wait for it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, highlight=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(str(cell))) for cell in row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    Console(file=sys.stdout, width=width, soft_wrap=False).print(grid)


def duration(seconds: float) -> str:
    """Return a duration as one writes it in the configuration: ``5d``, ``90s``, ``500ms``."""
    return next(
        (f"{round(seconds / size)}{unit}" for size, unit in _SPANS if _whole(seconds / size)),
        f"{seconds:g}s",
    )


def _whole(count: float) -> bool:
    return count >= 1 and math.isclose(count, round(count), rel_tol=1e-9)


def roughly(seconds: float) -> str:
    """Return a duration to its largest unit, as one says it: ``3m``, ``2h``, ``0s``."""
    return next((f"{int(seconds / size)}{unit}" for size, unit in _SPANS if seconds >= size), "0s")


def size(count: int, *, exact: bool = False) -> str:
    """Return a number of bytes as one writes it in the configuration, rounded unless exact."""
    units = (x for x in _SIZES if count >= x[0] and not (exact and count % x[0]))
    return next((f"{count / n:.4g}{unit}" for n, unit in units), f"{count}B")


def time(at: float) -> str:
    """Return a time (since 1970) as text, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def listed(messages: Iterable[Stored], place: str) -> None:
    """Print a table of messages, or that there are none in this place."""
    rows = [(m.message_id[:ID_LENGTH], *_cells(m)) for m in messages]
    if rows:
        table(("id", *_COLUMNS), rows)
    else:
        click.echo(f"{place} is empty.")


def _cells(message: Stored) -> list[object]:
    headers = {"since": message.headers.get("first-failure", ""), **message.headers}
    return [headers.get(column, "") for column in _COLUMNS]


def record(message: Stored) -> dict[str, object]:
    """Return a message as ``list --json`` has it: id, queue, and the headers as they are."""
    return {"id": message.message_id, "queue": message.queue, **message.headers}


def details(message: Stored) -> dict[str, object]:
    """Return a message as ``show --json`` has it: with its way so far and its header block."""
    found = letter(message)
    if found is None:
        return {**record(message), "envelope": None, "header": None}
    return {**record(message), "envelope": _envelope(found), "header": "\n".join(_header(found))}


def _envelope(found: Letter) -> dict[str, object]:
    payload = found.payload
    known: dict[str, object] = {
        "server": payload.server,
        "uidl": payload.uidl,
        "first_seen": time(found.first_seen),
        "trail": [{"stage": hop.stage, "at": time(hop.at)} for hop in found.trail],
    }
    if isinstance(payload, Addressed):
        known["sender"] = payload.sender
        known["recipients"] = list(payload.recipients)
        known["destination"] = payload.destination
    return known


def shown(message: Stored) -> None:
    """Print one message: what is known of it, its way so far, and its header block."""
    found = letter(message)
    envelope = {} if found is None else _envelope(found)
    trail: Any = envelope.pop("trail", [])
    _lines({**record(message), **{k: _joined(v) for k, v in envelope.items()}})
    for hop in trail:
        _line("passed", f"{hop['stage']} at {hop['at']}")
    if found is None:
        click.echo("\nThis queue message is no envelope of this version; export gives its bytes.")
        return
    header = _header(found)
    click.echo("\n" + "\n".join(printable(line, 1000) for line in header[:HEADER_LINES]))
    if len(header) > HEADER_LINES:
        click.echo(f"({len(header) - HEADER_LINES} more header lines; export gives them all)")


def _lines(values: Mapping[str, object]) -> None:
    for key, value in values.items():
        _line(key, value)


def _line(key: str, value: object) -> None:
    click.echo(f"{printable(key)}:".ljust(16) + printable(str(value), 2000))


def _joined(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _header(found: Letter) -> list[str]:
    """Return the lines of the header block, up to the blank line."""
    lines: list[str] = []
    for line in _LINE_END.split(found.payload.raw.head):
        if not line:
            break
        lines.append(line.decode("utf-8", "replace"))
    return lines
