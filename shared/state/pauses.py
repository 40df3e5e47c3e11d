"""What the operator asks of the schedule: to fetch now, to pause, to go on.

They are words beside the account, so the commands need no more than its table, and count for every
fetcher, over restarts. A poll that is underway is not stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.state.choices import change
from shared.state.operations import Transaction, for_each


def _fetch_now(transaction: Transaction, accounts: Sequence[str]) -> None:
    """Let accounts be due at once; a password that was refused is tried again, once."""
    change(transaction, accounts, {"next_poll": 0.0, "set_at": 0.0, "refused": None, "retry_at": 0})


def _pause(transaction: Transaction, accounts: Sequence[str], until: float | None) -> None:
    """Let accounts not be polled until a moment; with None let them be due at once."""
    due: dict[str, object] = {"next_poll": 0.0, "set_at": 0.0} if until is None else {}
    change(transaction, accounts, {**due, "paused_until": until})


FETCH_NOW: Final = for_each(_fetch_now)
PAUSE: Final = for_each(_pause)
