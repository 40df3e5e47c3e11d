"""Results for people: tables in Markdown, a plot as SVG, and the machine that they come from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

from bench_measure import Row

_BAR: Final = 22
_LABEL: Final = 260
_WIDTH: Final = 760
_OURS: Final = "#2f6f4f"
_THEIRS: Final = "#9aa5ae"


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario came to.

    Attributes:
        name: of the scenario, as on the command line.
        title: what it is, in a line.
        rows: its contenders, for a table and a plot.
        notes: what else was measured, a line each.
    """

    name: str
    title: str
    rows: Sequence[Row] = ()
    notes: Sequence[str] = field(default=())


def machine() -> str:
    """Return the machine in a few lines."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average before: {load}.\n"
        f"Versions: {versions()}."
    )


def versions() -> str:
    """Return the versions of servers and contenders, as Debian has them."""
    packages = ("dovecot-core", "rabbitmq-server", "mpop", "getmail6", "fetchmail")
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.rstrip(", ")


def markdown(result: Result, command: str) -> str:
    """Return a section with the table, its notes, and the command that measured it."""
    lines = [f"## {result.title}", "", f"`{command}`", ""]
    if result.rows:
        lines += [
            "| | messages/s | CPU µs/message | RabbitMQ µs/message | peak MB | messages | rounds |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [_line(row) for row in sorted(result.rows, key=lambda row: -row.rate)]
        lines += ["", f"![messages per second](images/benchmark-{result.name}.svg)", ""]
    lines += [f"- {note}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: Row) -> str:
    broker = f"{row.broker * 1e6:,.0f}" if row.broker else "–"
    return (
        f"| {row.contender} | {row.rate:,.0f} | {row.cpu * 1e6:,.0f} | {broker}"
        f" | {row.memory / 1e6:,.0f} | {row.messages:,} | {row.rounds} |"
    )


def plot(result: Result) -> str:
    """Return the rates as horizontal bars."""
    rows = sorted(result.rows, key=lambda row: -row.rate)
    top = max(row.rate for row in rows)
    height = 60 + len(rows) * (_BAR + 10)
    size = f'width="{_WIDTH}" height="{height}"'
    title = escape(f"{result.title}: messages per second")
    bars = [_bar(row, 44 + i * (_BAR + 10), row.rate / top) for i, row in enumerate(rows)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            f'<rect {size} fill="#fff"/>',
            f'<text x="10" y="24" font-size="15">{title}</text>',
            *bars,
            "</svg>\n",
        ]
    )


def _bar(row: Row, y: int, share: float) -> str:
    width = max(1.0, share * (_WIDTH - _LABEL - 80))
    colour = _OURS if row.contender.startswith("pop3-connector") else _THEIRS
    middle = y + _BAR - 6
    return (
        f'<text x="{_LABEL - 8}" y="{middle}" font-size="13" text-anchor="end">'
        f"{escape(row.contender)}</text>"
        f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 6:.1f}" y="{middle}" font-size="13">{row.rate:,.0f}</text>'
    )
