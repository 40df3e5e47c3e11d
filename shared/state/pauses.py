"""What the operator asks of the schedule: to fetch now, to pause, to go on.

They are words beside the account, so the commands need no more than its table, and count for every
fetcher, over restarts. A poll that is underway is not stopped. None of them is a choice for an
account that is held: where the database was doubted, one that is not known yet is held with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.state.choices import change
from shared.state.operations import Transaction, for_each
from shared.state.schedule import enrol


def _fetch_now(transaction: Transaction, accounts: Sequence[str]) -> None:
    """Let accounts be due at once; a password that was refused is tried again, once."""
    enrol(transaction, accounts)
    change(transaction, accounts, {"next_poll": 0.0, "set_at": 0.0, "refused": None, "retry_at": 0})


def _pause(transaction: Transaction, accounts: Sequence[str], until: float | None) -> None:
    """Let accounts not be polled until a moment, and be due then; with None at once."""
    enrol(transaction, accounts)
    due = (0.0, 0.0) if until is None else (until, transaction.now)
    values = dict(zip(("next_poll", "set_at"), due, strict=True))
    change(transaction, accounts, {**values, "paused_until": until})


FETCH_NOW: Final = for_each(_fetch_now)
PAUSE: Final = for_each(_pause)
