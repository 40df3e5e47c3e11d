"""How an account and its server stand: troubles with messages, quirks of servers, maildrops.

All that a poll has to know before it logs in is one answer. What has been learnt holds until a
moment that whoever learnt it has set; a later moment than any would be, from a clock that has since
been set back, is removed by the same pruning as everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Double,
    Integer,
    Table,
    bindparam,
    delete,
    literal_column,
    or_,
    select,
)

from shared.ledger import AccountStanding, MessageTrouble, Quirk
from shared.state.json_params import among
from shared.state.operations import Transaction, for_each, insert_into
from shared.state.schema import ACCOUNT, INSTALLATION, QUIRK, TROUBLE, UIDL, Escaped
from shared.state.statement import SqlStatement, Statement

LONGEST: Final = 90 * 86_400.0
"""Seconds for which anything that is learnt may hold."""


LARGE: Final = 1_000
"""Messages recorded of a maildrop above which it is a large one: more are not counted."""


_ACCOUNT: Final = bindparam("account", type_=Escaped())
_SERVER: Final = bindparam("server", type_=Escaped())
_OWN: Final = bindparam("own", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_EARLY: Final[BindParameter[float]] = bindparam("early", type_=Double())
_HOME: Final = bindparam("home", type_=Escaped())


def _parameters(table: Table) -> Mapping[str, BindParameter[Any]]:
    """Return a parameter for each column; SQLAlchemy keeps the names of the columns to itself."""
    return {c.name: bindparam(f"new_{c.name}", type_=c.type) for c in table.c}


def _new(**values: object) -> Mapping[str, object]:
    return {f"new_{name}": int(v) if v is True or v is False else v for name, v in values.items()}


def _recall(transaction: Transaction, account: str, server: str) -> AccountStanding:
    own = _maildrop(account, server)
    values: dict[str, object] = {
        "account": account,
        "server": server,
        "own": own,
        "now": transaction.now,
    }
    rows = _select_account.run(transaction, values)
    troubles = [
        MessageTrouble(*row)._replace(deletes=bool(row[-1]))
        for row in _select_troubles.run(transaction, values)
    ]
    quirks: dict[str, dict[str, Quirk]] = {server: {}, own: {}}
    for whose, *row in _select_quirks.run(transaction, values):
        quirk = Quirk(*row)
        quirks[whose][quirk.name] = quirk
    large = bool(_select_beyond.run(transaction, values))
    if not rows:
        doubted = transaction.connection.scalar(select(INSTALLATION.c.doubted))
        rows = [(0, None, 0, None, 0, doubted, None, None, None, None, 0.0)]
    failures, maildrop, login_after, refused, retry_at, held, choice, *rest = rows[0]
    paused_until, last_ok, busiest, due = rest
    return AccountStanding(
        failures,
        maildrop,
        login_after or 0.0,
        refused,
        retry_at or 0.0,
        {trouble.key: trouble for trouble in troubles},
        quirks[server],
        large,
        quirks[own],
        held,
        choice,
        paused_until or 0.0,
        last_ok is not None,
        busiest,
        due,
    )


@Statement
def _select_account(_: str) -> SqlStatement:
    names = ("failures", "maildrop", "login_after", "refused", "retry_at", "held", "choice")
    more = ("paused_until", "last_ok", "busiest", "next_poll")
    columns = (ACCOUNT.c[name] for name in (*names, *more))
    return select(*columns).where(ACCOUNT.c.name == _ACCOUNT)


@Statement
def _select_beyond(_: str) -> SqlStatement:
    """Find a UIDL beyond the first ``LARGE``: no more of them are gone through than that."""
    one, beyond = literal_column("1", Integer()), literal_column(str(LARGE), Integer())
    return select(one).where(UIDL.c.account == _ACCOUNT).limit(one).offset(beyond)


@Statement
def _select_troubles(_: str) -> SqlStatement:
    names = ("key", "number", "tries", "until", "reason", "id", "deletes")
    return select(*(TROUBLE.c[name] for name in names)).where(TROUBLE.c.account == _ACCOUNT)


@Statement
def _select_quirks(_: str) -> SqlStatement:
    columns = (QUIRK.c.server, QUIRK.c.name, QUIRK.c.value, QUIRK.c.until)
    whose = or_(QUIRK.c.server == _SERVER, QUIRK.c.server == _OWN)
    return select(*columns).where(whose, QUIRK.c.until > _NOW)


def _maildrop(account: str, server: str) -> str:
    """Return what stands in place of ``host:port`` where it is about one maildrop.

    No host has a blank, so this is none.
    """
    return f"{account} {server}"


def _trouble(transaction: Transaction, account: str, troubles: Sequence[MessageTrouble]) -> None:
    for trouble in troubles:
        _upsert_trouble.run(transaction, _new(account=account, **trouble._asdict()))


@Statement
def _upsert_trouble(dialect: str) -> SqlStatement:
    insert = insert_into(dialect, TROUBLE).values(_parameters(TROUBLE))
    rest = [c for c in TROUBLE.c if not c.primary_key]
    return insert.on_conflict_do_update(
        index_elements=[TROUBLE.c.account, TROUBLE.c.key],
        set_={column.name: insert.excluded[column.name] for column in rest},
    )


def _settle(transaction: Transaction, account: str, keys: Sequence[str]) -> None:
    _delete_troubles.run(transaction, {"account": account, "keys": keys})


@Statement
def _delete_troubles(dialect: str) -> SqlStatement:
    return delete(TROUBLE).where(
        TROUBLE.c.account == _ACCOUNT, among(dialect, TROUBLE.c.key, "keys")
    )


def _learn(transaction: Transaction, server: str, quirk: Quirk, account: str | None) -> None:
    whose = server if account is None else _maildrop(account, server)
    _upsert_quirk.run(transaction, _new(server=whose, **quirk._asdict()))


@Statement
def _upsert_quirk(dialect: str) -> SqlStatement:
    insert = insert_into(dialect, QUIRK).values(_parameters(QUIRK))
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[QUIRK.c.server, QUIRK.c.name],
        set_={"value": new.value, "until": new.until},
    )


def _move_in(transaction: Transaction, account: str, maildrop: str) -> list[str]:
    """Write down which maildrop an account has, and return who else had it."""
    values = {"account": account, "home": maildrop}
    others = sorted(name for (name,) in _select_others.run(transaction, values))
    _upsert_maildrop.run(transaction, {**values, "never": 0.0})
    return others


@Statement
def _select_others(_: str) -> SqlStatement:
    return select(ACCOUNT.c.name).where(ACCOUNT.c.maildrop == _HOME, ACCOUNT.c.name != _ACCOUNT)


@Statement
def _upsert_maildrop(dialect: str) -> SqlStatement:
    never: BindParameter[float] = bindparam("never", type_=Double())
    insert = insert_into(dialect, ACCOUNT).values(
        name=_ACCOUNT,
        next_poll=never,
        set_at=never,
        queued_until=never,
        queued_at=never,
        failures=0,
        maildrop=_HOME,
    )
    return insert.on_conflict_do_update(
        index_elements=[ACCOUNT.c.name], set_={"maildrop": insert.excluded.maildrop}
    )


def _prune(transaction: Transaction, moment: float) -> None:
    """Delete what does not hold any more: of servers and messages that nobody asks for."""
    values = {"early": moment, "now": transaction.now + LONGEST}
    _delete_quirks.run(transaction, values)
    _delete_old_troubles.run(transaction, values)


@Statement
def _delete_quirks(_: str) -> SqlStatement:
    return delete(QUIRK).where(or_(QUIRK.c.until < _EARLY, QUIRK.c.until > _NOW))


@Statement
def _delete_old_troubles(_: str) -> SqlStatement:
    return delete(TROUBLE).where(or_(TROUBLE.c.until < _EARLY, TROUBLE.c.until > _NOW))


RECALL: Final = for_each(_recall, writes=False)
TROUBLED: Final = for_each(
    _trouble, parts=lambda account, troubles: [(account, [trouble]) for trouble in troubles]
)
SETTLED: Final = for_each(_settle, parts=lambda account, keys: [(account, [key]) for key in keys])
LEARN: Final = for_each(_learn)
MOVE_IN: Final = for_each(_move_in)
PRUNE_STANDING: Final = for_each(_prune)
