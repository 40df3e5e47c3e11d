"""When each account is due, and how its last polls went.

Any number of schedulers may ask; an account is handed to one of them, which then has it queued for
as long as it said. Should the poll job be lost, the account is due again after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Double,
    Executable,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
    update,
)

from shared.state.json_params import among, pairs
from shared.state.operations import (
    MAX_SKEW,
    Transaction,
    for_all,
    for_each,
    insert_into,
    once_for_all,
)
from shared.state.schema import ACCOUNT, INSTALLATION, LEASE_TABLE
from shared.state.statement import SqlStatement, Statement

POLLING: Final = "account:"
"""How the name of the lease on an account begins, under which it is polled."""


@dataclass(frozen=True, slots=True)
class AccountState:
    """How an account stands. Times are in seconds since 1970.

    Attributes:
        next_poll: when it is due.
        queued_until: until when a poll job for it counts as on its way; 0 if there is none.
        queued_at: since when.
        failures: how many polls failed one after the other, up to now.
        last_ok: when a poll last came to its end, None before the first.
        last_error: why the last poll failed, None where it did not.
        undone: what the last poll that came to its end left undone, None where there is nothing.
        held: why it is not polled before the operator has chosen; None where it is.
        choice: what the operator has chosen, and the next poll does.
        paused_until: the moment before which it is not polled; None where there is none.
    """

    next_poll: float
    queued_until: float
    failures: int
    last_ok: float | None
    last_error: str | None
    undone: str | None = None
    queued_at: float = 0.0
    held: str | None = None
    choice: str | None = None
    paused_until: float | None = None


class PollEnd(NamedTuple):
    """The end of a poll.

    Attributes:
        error: None where all went well.
        progress: whether something new had come before it failed.
        undone: what it left undone.
        login_after: when the server wants the next login at the earliest.
        refused: a hash of the password that was refused, None where none was.
        retry_at: until when that is not tried again.
        busiest: messages that it brought, None where there is more to come, or nobody knows.
    """

    account: str
    next_poll: float
    error: str | None
    progress: bool
    undone: str | None = None
    login_after: float = 0.0
    refused: str | None = None
    retry_at: float = 0.0
    busiest: int | None = None


def _claim_due(
    transaction: Transaction,
    served: frozenset[str],
    new: Mapping[str, float],
    hold: float,
    by_name: bool,
) -> tuple[list[str], int]:
    """Claim what is due; answer which, and how many more are due that are none of the asker's.

    Those are only looked at: locked, as what is claimed has to be, each would write to the log of
    PostgreSQL again every second for as long as its row is there.

    Args:
        served: the accounts that the asker serves.
        new: those of them that may not be in the table yet, and in how many seconds they are due
            for the first time.
        hold: seconds for which they then count as queued.
        by_name: ask for these names one by one, as more are due that are none of them.
    """
    _add(transaction, new)
    moments = {"now": transaction.now, "ahead": transaction.now + MAX_SKEW}
    if by_name:
        names = sorted(served)
        ready, strangers = _names(_select_due_among, transaction, {**moments, "names": names}), 0
    else:
        found = _names(_select_due, transaction, moments)
        ready = [name for name in found if name in served]
        strangers = len(found) - len(ready)
    if not ready:
        return [], strangers
    mine = sorted(_names(_select_locked, transaction, {**moments, "names": sorted(ready)}))
    _hold(_update_queued, transaction, mine, hold)
    return mine, strangers


def _names(
    statement: Statement, transaction: Transaction, values: Mapping[str, object]
) -> list[str]:
    return [name for (name,) in statement.run(transaction, values)]


def enrol(transaction: Transaction, names: Sequence[str]) -> None:
    """Add accounts that are not known yet, due at once, and held where the database was doubted."""
    _add(transaction, dict.fromkeys(names, 0.0))


def _add(transaction: Transaction, new: Mapping[str, float]) -> None:
    """Add accounts that are not known yet, held where the database was doubted."""
    if new:
        due = {n: repr(transaction.now + wait if wait else 0.0) for n, wait in sorted(new.items())}
        _insert_accounts.run(transaction, {"due": due, "now": transaction.now})


_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_AHEAD: Final[BindParameter[float]] = bindparam("ahead", type_=Double())
_UNTIL: Final[BindParameter[float]] = bindparam("until", type_=Double())
_NEVER: Final[ColumnElement[float]] = literal_column("0.0", Double())
_QUEUED: Final = {"queued_until": _UNTIL, "queued_at": _NOW}
_NOT_QUEUED: Final = {"queued_until": _NEVER, "queued_at": _NEVER}


def _is_due() -> ColumnElement[bool]:
    """Return whether an account is to be polled, and in no other scheduler's hands.

    One that is held, and nothing chosen for it, or that is paused, would cost a poll job that does
    nothing.

    What was written in the future was written by a clock that has since been set back.
    """
    due = or_(ACCOUNT.c.next_poll <= _NOW, ACCOUNT.c.set_at > _AHEAD)
    free = or_(ACCOUNT.c.queued_until <= _NOW, ACCOUNT.c.queued_at > _AHEAD)
    polled = or_(ACCOUNT.c.held.is_(None), ACCOUNT.c.choice.is_not(None))
    paused = ACCOUNT.c.paused_until.is_not(None) & (ACCOUNT.c.paused_until > _NOW)
    return and_(due, free, polled, ~paused)


@Statement
def _select_due(_: str) -> SqlStatement:
    return select(ACCOUNT.c.name).where(_is_due())


@Statement
def _select_due_among(dialect: str) -> SqlStatement:
    return select(ACCOUNT.c.name).where(among(dialect, ACCOUNT.c.name, "names"), _is_due())


@Statement
def _select_locked(dialect: str) -> SqlStatement:
    these = (among(dialect, ACCOUNT.c.name, "names"), _is_due())
    return select(ACCOUNT.c.name).where(*these).with_for_update(of=ACCOUNT, skip_locked=True)


@Statement
def _update_queued(dialect: str) -> SqlStatement:
    return update(ACCOUNT).where(among(dialect, ACCOUNT.c.name, "names")).values(_QUEUED)


@Statement
def _update_held(dialect: str) -> SqlStatement:
    # One that is not queued any more has been polled in the meantime.
    these = (among(dialect, ACCOUNT.c.name, "names"), ACCOUNT.c.queued_until > _NEVER)
    return update(ACCOUNT).where(*these).values(_QUEUED)


@Statement
def _update_unqueued(dialect: str) -> SqlStatement:
    return update(ACCOUNT).where(among(dialect, ACCOUNT.c.name, "names")).values(_NOT_QUEUED)


@Statement
def _insert_accounts(dialect: str) -> SqlStatement:
    """Add accounts that are not there; one that is due at once was set at no time."""
    name, text = pairs(dialect, "due")
    none: ColumnElement[int] = literal_column("0", Integer())
    at = cast(text, Double)
    set_at = case((at == _NEVER, _NEVER), else_=_NOW)
    held = select(INSTALLATION.c.doubted).scalar_subquery()
    rows = select(name, at, set_at, _NEVER, _NEVER, none, held).where(true())
    columns = ("name", "next_poll", "set_at", "queued_until", "queued_at", "failures", "held")
    insert = insert_into(dialect, ACCOUNT).from_select(columns, rows)
    return insert.on_conflict_do_nothing()


def _record_polls(transaction: Transaction, polls: Sequence[PollEnd]) -> Sequence[int]:
    rows = {
        poll.account: {
            "name": poll.account,
            "queued_until": 0,
            "queued_at": 0,
            "next_poll": poll.next_poll,
            "set_at": transaction.now,
            "failures": 0 if poll.error is None else 1,
            "last_ok": transaction.now if poll.error is None else None,
            "last_error": poll.error,
            "undone": poll.undone,
            "login_after": poll.login_after,
            "refused": poll.refused,
            "retry_at": poll.retry_at,
            "busiest": poll.busiest,
        }
        for poll in polls
    }
    if anew := sorted({poll.account for poll in polls if poll.error and poll.progress}):
        transaction.connection.execute(
            update(ACCOUNT).where(ACCOUNT.c.name.in_(anew)).values(failures=0)
        )
    answered = transaction.connection.execute(_upsert_end(transaction.dialect), list(rows.values()))
    failures: dict[str, int] = dict(iter(answered))
    return [failures[poll.account] for poll in polls]


@cache
def _upsert_end(dialect: str) -> Executable:
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
            "busiest": case(
                (new.busiest.is_(None), old.busiest),
                (old.busiest > new.busiest, old.busiest),
                else_=new.busiest,
            ),
        },
    ).returning(old.name, old.failures)


def _unqueue(transaction: Transaction, names: Sequence[str]) -> None:
    _update_unqueued.run(transaction, {"names": names})


def _hold_queued(transaction: Transaction, names: Sequence[str], hold: float) -> None:
    _hold(_update_held, transaction, names, hold)


def _hold(
    statement: Statement, transaction: Transaction, names: Sequence[str], hold: float
) -> None:
    until = transaction.now + hold
    statement.run(transaction, {"names": names, "now": transaction.now, "until": until})


def _put_off(transaction: Transaction, account: str, until: float) -> None:
    transaction.connection.execute(
        update(ACCOUNT)
        .where(ACCOUNT.c.name == account)
        .values(next_poll=until, set_at=transaction.now, queued_until=0, queued_at=0)
    )


def _accounts(transaction: Transaction) -> Mapping[str, AccountState]:
    columns = (ACCOUNT.c[field.name] for field in fields(AccountState))
    rows = transaction.connection.execute(select(ACCOUNT.c.name, *columns).order_by(ACCOUNT.c.name))
    return {name: AccountState(*state) for name, *state in rows}


def _release(transaction: Transaction, served: frozenset[str], age: float) -> list[str]:
    """Let accounts be due again that count as queued, and that nobody polls."""
    values = {"now": transaction.now, "before": transaction.now - age, "prefix": POLLING}
    mine = sorted(served.intersection(_names(_select_unattended, transaction, values)))
    if mine:
        mine = sorted(_names(_update_released, transaction, {**values, "names": mine}))
    return mine


def _is_unattended() -> ColumnElement[bool]:
    prefix: BindParameter[str] = bindparam("prefix", type_=Text())
    lease = prefix + type_coerce(ACCOUNT.c.name, Text)
    polled = exists().where(
        type_coerce(LEASE_TABLE.c.name, Text) == lease, LEASE_TABLE.c.expires > _NOW
    )
    return and_(ACCOUNT.c.queued_until > _NOW, ACCOUNT.c.queued_at < _BEFORE, ~polled)


_BEFORE: Final[BindParameter[float]] = bindparam("before", type_=Double())


@Statement
def _select_unattended(_: str) -> SqlStatement:
    return select(ACCOUNT.c.name).where(_is_unattended())


@Statement
def _update_released(dialect: str) -> SqlStatement:
    these = (among(dialect, ACCOUNT.c.name, "names"), _is_unattended())
    return update(ACCOUNT).where(*these).values(_NOT_QUEUED).returning(ACCOUNT.c.name)


def _prune(transaction: Transaction, served: frozenset[str], age: float) -> int:
    """Delete how accounts stand that nobody has any more; what was fetched of them stays known."""
    values = {"before": transaction.now - age}
    theirs = sorted(set(_names(_select_left, transaction, values)) - served)
    if not theirs:
        return 0
    return len(_names(_delete_left, transaction, {**values, "names": theirs}))


def _is_left() -> ColumnElement[bool]:
    """Return whether nobody has an account any more.

    That it is held or paused, and what was chosen for it, is not forgotten: should it come back,
    its mail would be delivered again.
    """
    moments = (ACCOUNT.c.next_poll, ACCOUNT.c.set_at, ACCOUNT.c.queued_until, ACCOUNT.c.queued_at)
    columns = (ACCOUNT.c.held, ACCOUNT.c.choice, ACCOUNT.c.paused_until)
    asked = (column.is_(None) for column in columns)
    return and_(*(moment < _BEFORE for moment in moments), *asked)


@Statement
def _select_left(_: str) -> SqlStatement:
    return select(ACCOUNT.c.name).where(_is_left())


@Statement
def _delete_left(dialect: str) -> SqlStatement:
    these = (among(dialect, ACCOUNT.c.name, "names"), _is_left())
    return delete(ACCOUNT).where(*these).returning(ACCOUNT.c.name)


CLAIM_DUE: Final = for_each(_claim_due)
ENROL: Final = for_each(enrol)
POLLED: Final = for_all(_record_polls)
HOLD: Final = for_each(_hold_queued)
UNQUEUE: Final = for_each(_unqueue)
PUT_OFF: Final = for_each(_put_off)
RELEASE: Final = for_each(_release)
PRUNE_ACCOUNTS: Final = for_each(_prune)
ACCOUNTS: Final = once_for_all(_accounts, writes=False)
