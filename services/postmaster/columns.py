"""Tables that are printed as their rows come: the first of them say how wide the columns are.

Where a terminal is too narrow, cells go on below in their own column, words are broken only where
one is longer than the column, and columns can stand beneath others. Through a pipe a row is a line.
However many rows there are, no more than the first ``MEASURED`` are held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Final

MEASURED: Final = 100
"""Rows of which the widest cells are the width of the columns."""

_GAP: Final = "   "
_WORD: Final = re.compile(r"\S+\s*|\s+")


def lines(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int | None,
    rule: str,
    *,
    whole: Collection[str] = (),
    under: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        columns: the headings.
        rows: the cells; they are escaped already.
        width: of the terminal, None for no limit.
        rule: the character that the line below the headings is made of.
        whole: headings of columns that are never broken: what is copied, or is short.
        under: columns that stand beneath another one where the terminal is too narrow for all: by
            heading, the heading of that other.
    """
    rest = iter(rows)
    first = list(islice(rest, MEASURED))
    layout = [[at] for at in range(len(columns))]
    widths = _natural(layout, columns, first)
    narrow = width is not None and _total(widths) > width
    if narrow and under:
        layout = _stacked(columns, under)
        widths = _natural(layout, columns, first)
    firm = [columns[places[0]] in whole for places in layout]
    if width is not None:
        widths = _fitting(widths, firm, width)
    limits = [None if width is None or fixed else n for n, fixed in zip(widths, firm, strict=True)]
    heading = _row(layout, columns, widths, [None] * len(layout))
    yield from chain(heading, (rule * _total(widths),))
    for number, row in enumerate(chain(first, rest)):
        if narrow and number:
            yield ""
        yield from _row(layout, row, widths, limits)


def _natural(
    layout: Sequence[Sequence[int]], columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[int]:
    """Return how wide each column is if nothing in it is broken."""
    return [max(_width(row[at]) for row in (columns, *rows) for at in places) for places in layout]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitting(widths: Sequence[int], firm: Sequence[bool], width: int) -> list[int]:
    """Return widths that fit: the widest columns give way first."""
    found = list(widths)
    while (excess := _total(found) - width) > 0:
        soft = sorted({n for n, fixed in zip(found, firm, strict=True) if not fixed})
        if not soft or soft[-1] <= 1:
            break
        widest, next_to_it = soft[-1], soft[-2] if len(soft) > 1 else 1
        at = [n for n, fixed in enumerate(firm) if not fixed and found[n] == widest]
        each = min(widest - next_to_it, -(-excess // len(at)))
        for n in at:
            found[n] -= max(1, each)
    return found


def _stacked(columns: Sequence[str], under: Mapping[str, str]) -> list[list[int]]:
    """Return which columns stand beneath each other, from left to right."""
    above = [column for column in columns if column not in under]
    return [
        [columns.index(top), *(columns.index(c) for c in columns if under.get(c) == top)]
        for top in above
    ]


def _row(
    layout: Sequence[Sequence[int]],
    cells: Sequence[str],
    widths: Sequence[int],
    limits: Sequence[int | None],
) -> Iterator[str]:
    stacks = [
        [line for at in places for line in _folded(cells[at], limit)]
        for places, limit in zip(layout, limits, strict=True)
    ]
    for parts in zip_longest(*stacks, fillvalue=""):
        padded = (part + " " * (n - _width(part)) for part, n in zip(parts, widths, strict=True))
        yield _GAP.join(padded).rstrip()


def _folded(text: str, width: int | None) -> list[str]:
    """Return a text in lines of a width, broken between words where that is possible."""
    if width is None or _width(text) <= width:
        return [text]
    # Not at the top: stages and commands that show no table do not wait for it.
    from rich.cells import chop_cells

    found: list[str] = []
    line = ""
    for word in _WORD.findall(text):
        if _width((line + word).rstrip()) <= width:
            line += word
            continue
        if line:
            found.append(line.rstrip())
        *full, line = chop_cells(word, width)
        found += full
    return [*found, line.rstrip()]


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
