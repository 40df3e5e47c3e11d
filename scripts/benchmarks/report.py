"""Results for people: tables in Markdown, plots as SVG, and the machine that they come from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final, TypeAlias

from scripts.benchmarks.measure import Row

_BAR: Final = 22
_LABEL: Final = 330
_WIDTH: Final = 830
_OURS: Final = "#2f6f4f"
_THEIRS: Final = "#9aa5ae"
_OTHERS: Final = ("mpop", "getmail6", "fetchmail", "raw", "RabbitMQ itself", "reading")
"""How the labels begin of what is not the connector's."""


Bar: TypeAlias = tuple[str, float]
"""What was measured, and the figure."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Figures that can be compared: a plot.

    Attributes:
        name: as part of the name of its file.
        unit: what is counted.
        bars: from top to bottom.
    """

    name: str
    unit: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario came to.

    Attributes:
        title: what it is, in a line.
        charts: its plots.
        rows: its contenders, for a table; without any, the figures of each plot are one.
        notes: what else was measured, a line each.
        failed: contenders that are in no plot, and why.
    """

    title: str
    charts: Sequence[Chart]
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def rates(name: str, rows: Sequence[Row]) -> Chart:
    """Return how the contenders compare, the quickest first."""
    bars = [(row.contender, row.rate) for row in sorted(rows, key=lambda row: -row.rate)]
    return Chart(name, "messages per second", bars)


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
    """Return a section with tables and plots, notes, and the command that measured it."""
    lines = [f"## {result.title}", "", f"`{command}`", ""]
    if result.rows:
        lines += [
            "| | messages/s | CPU µs/message | RabbitMQ µs/message | peak MB | messages | rounds |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [_line(row) for row in sorted(result.rows, key=lambda row: -row.rate)]
        lines += [f"| {name} | failed | | | | | |" for name in result.failed]
        lines.append("")
    for chart in result.charts:
        if not result.rows:
            lines += [f"| | {chart.unit} |", "| --- | ---: |"]
            lines += [f"| {label} | {_figure(value)} |" for label, value in chart.bars]
            lines.append("")
        lines += [f"![{chart.unit}](images/{picture(chart)})", ""]
    lines += [f"- {note}" for note in result.notes]
    lines += [f"- {name} failed: {why}" for name, why in result.failed.items()]
    return "\n".join(lines).rstrip() + "\n"


def picture(chart: Chart) -> str:
    """Return the name of a plot's file."""
    return f"benchmark-{chart.name}.svg"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(row: Row) -> str:
    broker = f"{row.broker * 1e6:,.0f}" if row.broker else "–"
    return (
        f"| {row.contender} | {row.rate:,.0f} | {row.cpu * 1e6:,.0f} | {broker}"
        f" | {row.memory / 1e6:,.0f} | {row.messages:,} | {row.rounds} |"
    )


def plot(title: str, chart: Chart) -> str:
    """Return the figures as horizontal bars."""
    top = max(value for _, value in chart.bars)
    height = 60 + len(chart.bars) * (_BAR + 10)
    size = f'width="{_WIDTH}" height="{height}"'
    heading = escape(f"{title}: {chart.unit}")
    bars = [_bar(bar, 44 + i * (_BAR + 10), top) for i, bar in enumerate(chart.bars)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            f'<rect {size} fill="#fff"/>',
            f'<text x="10" y="24" font-size="15">{heading}</text>',
            *bars,
            "</svg>\n",
        ]
    )


def _bar(bar: Bar, y: int, top: float) -> str:
    label, value = bar
    width = max(1.0, value / top * (_WIDTH - _LABEL - 80))
    colour = _THEIRS if label.startswith(_OTHERS) else _OURS
    middle = y + _BAR - 6
    return (
        f'<text x="{_LABEL - 8}" y="{middle}" font-size="13" text-anchor="end">'
        f"{escape(label)}</text>"
        f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 6:.1f}" y="{middle}" font-size="13">{_figure(value)}</text>'
    )
