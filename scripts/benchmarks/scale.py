"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        messages: in a maildrop, for the contenders that are quick enough.
        rounds: of which the medians are shown.
        full: whether the long scenarios have their full size.
    """

    messages: int
    rounds: int
    full: bool
