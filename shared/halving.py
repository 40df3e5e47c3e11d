"""A batch that fails because of one of its items: that one is found by halving, and fails alone.

What shares a transaction shares its end: a value that the database does not take would undo a
hundred others, again each time that they are tried. It trusts ``run`` to do nothing where it
raises, and to be repeatable; and its errors to tell what is an item's own from what concerns all (a
database that is away, full, locked), which is never halved: then the batch is to be tried whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run_halving(
    run: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    parts: Callable[[T], Sequence[T]],
    common: type[Exception],
) -> list[R | Exception]:
    """Return the answers of a batch; in place of the answer for a bad item, what was raised for it.

    Args:
        run: does the items it is given, all or none, and answers for each.
        items: what is to be done, in order.
        parts: takes an item apart that is several in itself, each of which can be done alone and
            is answered for alike; returns it alone where it is one. Where a part is bad the others
            are done, and the item is answered for with what was raised for that part.
        common: what ``run`` raises where no item is at fault.

    Raises:
        Exception: ``common``, where it was raised before anything was done.
    """
    try:
        return list(run(items))
    except common:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, it may be of one item alone)
        if len(items) > 1:
            return _in_halves(run, items, parts, common)
        pieces = parts(items[0])
        if len(pieces) <= 1:
            return [error]
    answers = run_halving(run, pieces, parts, common)
    return [next((a for a in answers if isinstance(a, Exception)), answers[0])]


def _in_halves(
    run: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    parts: Callable[[T], Sequence[T]],
    common: type[Exception],
) -> list[R | Exception]:
    middle = len(items) // 2
    first = run_halving(run, items[:middle], parts, common)
    rest = items[middle:]
    try:
        return first + run_halving(run, rest, parts, common)
    except common as error:  # the first half is done all the same
        return [*first, *[error] * len(rest)]
