"""How the operator's commands print: tables and lines for a person, JSON for a program.

Whatever comes from mail is escaped before it gets to a terminal, and is never read as markup. In
JSON the values are as they are; JSON escapes them itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

import click

from services.postmaster.columns import lines
from shared.broker import Stored
from shared.broker.requeue import MailEnvelope, mail_in
from shared.log import printable
from shared.message import Addressed
from shared.words import counted

ID_LENGTH: Final = 12
"""Characters of an id that a table shows; commands take any beginning that is unique."""

HEADER_LINES: Final = 40
_TITLE: Final = 16
_CELL: Final = 1000
"""Characters of a cell that are shown at most."""

PIPE_WIDTH: Final = 4000
_LINE_END: Final = re.compile(rb"\r*\n")
_LAST: Final = 253_402_300_799.0
"""The last second of the year 9999: Python tells no later moment."""

_TIME: Final = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:\.\d+)?\+00:00$")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"), (0.001, "ms"))
_SIZES: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_COLUMNS: Final = ("account", "from", "subject", "reason", "since", "attempts")
_UNDER: Final = {"since": "id", "attempts": "id", "from": "account", "subject": "account"}


def as_json(value: object) -> None:
    """Print a value as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def as_json_array(values: Iterable[object]) -> None:
    """Print values as one JSON array, each when it comes; without its end if there is an error."""
    begun = False
    for value in values:
        text = json.dumps(value, indent=2, ensure_ascii=True).replace("\n", "\n  ")
        click.echo(f"{',' if begun else '['}\n  {text}", nl=False)
        begun = True
    click.echo("\n]" if begun else "[]")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    whole: Collection[str] = (),
    under: Mapping[str, str] | None = None,
) -> None:
    """Print a table as wide as the terminal; where there is none, with one line a row.

    ``$COLUMNS`` counts as a terminal of that width. Rows are printed as they come.

    Args:
        columns: the headings.
        rows: the cells; they are escaped here.
        whole: headings of columns that are never broken: what is copied, or is short.
        under: columns that stand beneath another one where the terminal is too narrow for all: by
            heading, the heading of that other.
    """
    cells = ([printable(str(cell), _CELL) for cell in row] for row in rows)
    width = _width() if _is_narrow() else None
    for line in lines(columns, cells, width, _rule(), whole=whole, under=under):
        sys.stdout.write(line + "\n")  # click would not keep to the encoding of a terminal


def entry(title: str, text: str) -> None:
    """Print a title and what it is about, which goes on below where a line is too short for it.

    Words are never broken: they are paths and URLs, and copied.
    """
    lines = textwrap.wrap(
        text,
        _width() - _TITLE,
        break_long_words=False,
        break_on_hyphens=False,
    )
    click.echo(title.ljust(_TITLE) + f"\n{' ' * _TITLE}".join(lines))


def _rule() -> str:
    """Return what a line below headings is made of, where that can be written."""
    try:
        "─".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "-"
    return "─"


def _is_narrow() -> bool:
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()


def _width() -> int:
    return shutil.get_terminal_size().columns if _is_narrow() else PIPE_WIDTH


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
    """Return a time (since 1970) as text, in UTC; one beyond the year 9999 as the end of that."""
    return datetime.fromtimestamp(min(at, _LAST), UTC).isoformat(timespec="seconds")


def minute(text: str) -> str:
    """Return a time in UTC, as ``time`` gives it, as a table has it: to the minute.

    What is no such time comes back as it is.
    """
    return _TIME.sub(r"\1 \2Z", text)


def print_messages(messages: Iterable[Stored], place: str) -> None:
    """Print a table of messages, or that there are none in this place."""
    rows = ((m.message_id[:ID_LENGTH], *_cells(m)) for m in messages)
    first = next(rows, None)
    if first is None:
        click.echo(f"{place} is empty.")
    else:
        table(("id", *_COLUMNS), chain((first,), rows), whole=("id", "since"), under=_UNDER)


def _cells(message: Stored) -> list[object]:
    known = message.headers
    since = minute(str(known.get("first-failure", known.get("failed-at", ""))))
    headers = {"since": since, **message.headers}
    return [headers.get(column, "") for column in _COLUMNS]


def record(message: Stored) -> dict[str, object]:
    """Return a message as ``list --json`` has it: id, queue, and the headers as they are."""
    return {"id": message.message_id, "queue": message.queue, **message.headers}


def details(message: Stored) -> dict[str, object]:
    """Return a message as ``show --json`` has it: with its way so far and its header block."""
    found = mail_in(message.body)
    if found is None:
        return {**record(message), "envelope": None, "header": None}
    return {**record(message), "envelope": _envelope(found), "header": "\n".join(_header(found))}


def _envelope(found: MailEnvelope) -> dict[str, object]:
    payload = found.payload
    known: dict[str, object] = {
        "server": payload.server,
        "uidl": payload.uidl,
        "first_seen": time(found.first_seen),
        "trail": [{"stage": hop.stage, "at": time(hop.at)} for hop in found.trail],
    }
    if found.requeue is not None:
        known["given_up"] = [
            failure._asdict() | {"first": time(failure.first), "last": time(failure.last)}
            for failure in found.requeue.failures
        ]
        known["redirected_to"] = list(found.requeue.recipients)
    if isinstance(payload, Addressed):
        known["sender"] = payload.sender
        known["recipients"] = list(payload.recipients)
        known["destination"] = payload.destination
    return known


def print_message(message: Stored) -> None:
    """Print one message: what is known of it, its way so far, and its header block."""
    found = mail_in(message.body)
    envelope = {} if found is None else _envelope(found)
    trail: Any = envelope.pop("trail", [])
    given_up: Any = envelope.pop("given_up", [])
    _lines({**record(message), **{k: _joined(v) for k, v in envelope.items() if v != []}})
    for failure in given_up:
        _line(
            "given up",
            f"by the {failure['stage']} at {failure['last']}, after"
            f" {counted(failure['attempts'], 'try', 'tries')}"
            f" since {failure['first']}: {failure['reason']}",
        )
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
    entry(f"{printable(key)}:", printable(str(value), 2000))


def _joined(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _header(found: MailEnvelope) -> list[str]:
    """Return the lines of the header block, up to the blank line; it may begin below some."""
    lines: list[str] = []
    for line in _LINE_END.split(found.payload.raw.head.lstrip(b"\r\n")):
        if not line:
            break
        lines.append(line.decode("utf-8", "replace"))
    return lines


def report(result: Mapping[str, object], *, json_wanted: bool) -> None:
    """Print what a command has done, on one line or as JSON."""
    if json_wanted:
        as_json(result)
    else:
        click.echo(", ".join(f"{key}: {value}" for key, value in result.items()))
