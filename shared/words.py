"""A number and what is counted, in English."""

from __future__ import annotations


def counted(number: int, what: str, several: str | None = None) -> str:
    """Return a number with its noun, such as ``1 queue`` or ``2 queues``.

    Args:
        number: how many.
        what: one of them.
        several: several of them, where that is not ``what`` with an s.
    """
    return f"{number} {what if number == 1 else several or f'{what}s'}"
