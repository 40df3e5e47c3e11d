"""When each account is due, and how its last polls went.

Any number of schedulers may ask; an account is handed to one of them, which then has it queued for
as long as it said. Should the poll job be lost, the account is due again after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Executable, and_, case, func, or_, select, update

from shared.state.batch import MAX_SKEW, Batch, Operation, chunks, insert_into
from shared.state.schema import ACCOUNT


@dataclass(frozen=True, slots=True)
class AccountState:
    """How an account stands. Times are in seconds since 1970.

    Attributes:
        next_poll: when it is due.
        queued_until: until when a poll job for it counts as on its way; 0 if there is none.
        failures: how many polls failed one after the other, up to now.
        last_ok: when a poll last came to its end, None before the first.
        last_error: why the last poll failed, None where it did not.
        undone: what the last poll that came to its end left undone, None where there is nothing.
    """

    next_poll: float
    queued_until: float
    failures: int
    last_ok: float | None
    last_error: str | None
    undone: str | None = None


class Due(NamedTuple):
    """A question for accounts that are due.

    Attributes:
        names: the accounts that the asker serves.
        new: those of them that may not be in the table yet, and in how many seconds they are due
            for the first time.
        hold: seconds for which they then count as queued.
    """

    names: frozenset[str]
    new: Mapping[str, float]
    hold: float


class Queued(NamedTuple):
    """Accounts whose poll jobs are queued, and seconds for which those count as on their way."""

    names: Sequence[str]
    hold: float


class PutOff(NamedTuple):
    """An account that could not be polled now, without a fault of anybody's: when it is due."""

    account: str
    until: float


class Polled(NamedTuple):
    """The end of a poll.

    Attributes:
        error: None where all went well.
        progress: whether something new had come before it failed.
        undone: what it left undone.
        login_after: when the server wants the next login at the earliest.
        refused: a hash of the password that was refused, None where none was.
        retry_at: until when that is not tried again.
    """

    account: str
    next_poll: float
    error: str | None
    progress: bool
    undone: str | None = None
    login_after: float = 0.0
    refused: str | None = None
    retry_at: float = 0.0


def _claim_due(batch: Batch, asked: Sequence[Due]) -> Sequence[list[str]]:
    new = {name: wait for due in asked for name, wait in due.new.items()}
    if new:
        rows = [
            {
                **_blank(name),
                **({"next_poll": batch.now + wait, "set_at": batch.now} if wait else {}),
            }
            for name, wait in sorted(new.items())
        ]
        batch.connection.execute(_enrol(batch.dialect), rows)
    ready = set(batch.connection.scalars(_ready(batch.now)))
    return [_queue(batch, due, ready) for due in asked]


def _queue(batch: Batch, due: Due, ready: set[str]) -> list[str]:
    mine = sorted(due.names & ready)
    ready.difference_update(mine)
    for portion in chunks(mine):
        batch.connection.execute(
            update(ACCOUNT)
            .where(ACCOUNT.c.name.in_(portion))
            .values(queued_until=batch.now + due.hold, queued_at=batch.now)
        )
    return mine


def _ready(now: float) -> Executable:
    """Select, and in PostgreSQL lock, what is due and in no other scheduler's hands."""
    due = _reached(ACCOUNT.c.next_poll, ACCOUNT.c.set_at, now)
    free = _reached(ACCOUNT.c.queued_until, ACCOUNT.c.queued_at, now)
    return select(ACCOUNT.c.name).where(and_(due, free)).with_for_update(skip_locked=True)


def _reached(
    moment: ColumnElement[float], written: ColumnElement[float], now: float
) -> ColumnElement[bool]:
    return or_(moment <= now, written > now + MAX_SKEW)


def _blank(name: str) -> Mapping[str, object]:
    return {
        "name": name,
        "next_poll": 0,
        "set_at": 0,
        "queued_until": 0,
        "queued_at": 0,
        "failures": 0,
        "last_ok": None,
        "last_error": None,
        "undone": None,
        "login_after": None,
        "refused": None,
        "retry_at": None,
    }


@cache
def _enrol(dialect: str) -> Executable:
    return insert_into(dialect, ACCOUNT).on_conflict_do_nothing()


def _polled(batch: Batch, polls: Sequence[Polled]) -> Sequence[int]:
    rows = {
        poll.account: {
            **_blank(poll.account),
            "next_poll": poll.next_poll,
            "set_at": batch.now,
            "failures": 0 if poll.error is None else 1,
            "last_ok": batch.now if poll.error is None else None,
            "last_error": poll.error,
            "undone": poll.undone,
            "login_after": poll.login_after,
            "refused": poll.refused,
            "retry_at": poll.retry_at,
        }
        for poll in polls
    }
    if anew := sorted({poll.account for poll in polls if poll.error and poll.progress}):
        batch.connection.execute(update(ACCOUNT).where(ACCOUNT.c.name.in_(anew)).values(failures=0))
    answered = batch.connection.execute(_end(batch.dialect), list(rows.values()))
    failures: dict[str, int] = dict(iter(answered))
    return [failures[poll.account] for poll in polls]


@cache
def _end(dialect: str) -> Executable:
    insert = insert_into(dialect, ACCOUNT)
    new, old = insert.excluded, ACCOUNT.c
    return insert.on_conflict_do_update(
        index_elements=[old.name],
        set_={
            "next_poll": new.next_poll,
            "set_at": new.set_at,
            "queued_until": new.queued_until,
            "queued_at": new.queued_at,
            "failures": case((new.last_error.is_(None), 0), else_=old.failures + 1),
            "last_ok": func.coalesce(new.last_ok, old.last_ok),
            "last_error": new.last_error,
            # A poll that failed knows nothing of what the one before it left undone.
            "undone": case((new.last_error.is_(None), new.undone), else_=old.undone),
            "login_after": new.login_after,
            "refused": new.refused,
            "retry_at": new.retry_at,
        },
    ).returning(old.name, old.failures)


def _unqueue(batch: Batch, asked: Sequence[Sequence[str]]) -> Sequence[None]:
    for portion in chunks(sorted({name for names in asked for name in names})):
        batch.connection.execute(
            update(ACCOUNT).where(ACCOUNT.c.name.in_(portion)).values(queued_until=0, queued_at=0)
        )
    return [None] * len(asked)


def _hold(batch: Batch, asked: Sequence[Queued]) -> Sequence[None]:
    for queued in asked:
        for portion in chunks(sorted(set(queued.names))):
            batch.connection.execute(
                update(ACCOUNT)
                # One that is not queued any more has been polled in the meantime.
                .where(ACCOUNT.c.name.in_(portion), ACCOUNT.c.queued_until > 0)
                .values(queued_until=batch.now + queued.hold, queued_at=batch.now)
            )
    return [None] * len(asked)


def _put_off(batch: Batch, asked: Sequence[PutOff]) -> Sequence[None]:
    for account, until in asked:
        batch.connection.execute(
            update(ACCOUNT)
            .where(ACCOUNT.c.name == account)
            .values(next_poll=until, set_at=batch.now, queued_until=0, queued_at=0)
        )
    return [None] * len(asked)


def _accounts(batch: Batch, asked: Sequence[None]) -> Sequence[Mapping[str, AccountState]]:
    columns = ACCOUNT.c
    rows = batch.connection.execute(
        select(
            columns.name,
            columns.next_poll,
            columns.queued_until,
            columns.failures,
            columns.last_ok,
            columns.last_error,
            columns.undone,
        ).order_by(columns.name)
    )
    found = {name: AccountState(*state) for name, *state in rows}
    return [found] * len(asked)


CLAIM_DUE: Final = Operation(_claim_due)
POLLED: Final = Operation(_polled)
HOLD: Final = Operation(_hold)
UNQUEUE: Final = Operation(_unqueue)
PUT_OFF: Final = Operation(_put_off)
ACCOUNTS: Final = Operation(_accounts, writes=False)
