"""What the operator chooses for an account, and how the ledgers follow.

A held account is not polled before there is a choice. Nor is one, once the database was doubted,
that is not known yet: it may have been. The choice is a word beside the account, so
that the operator's command needs no more than that table; who polls the account next does it, under
the account's lease. Nobody knows any more of a message whose deliveries were pruned whether it was
delivered: what is older than that counts as delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    Executable,
    Integer,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    true,
    update,
)

from shared.ledger import ADOPTED, SKIP, SKIPPED
from shared.state.installation import record
from shared.state.json_params import each, pairs
from shared.state.operations import Transaction, Upsert, for_each, insert_into
from shared.state.schema import (
    ACCOUNT,
    DELIVERED,
    INSTALLATION,
    MESSAGE,
    TROUBLE,
    UIDL,
    Escaped,
)
from shared.state.statement import SqlStatement, Statement
from shared.state.undelivered import to_nobody

_LONG: Final = 86_400.0
"""Seconds to the next look at a held account; the operator's choice comes before."""


_ACCOUNT: Final = bindparam("account", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_ADOPTED: Final = literal_column(f"'{ADOPTED}'", Text())
_ONE: Final = literal_column("1", Integer())
_SKIPPED: Final = literal_column(f"'{SKIPPED}'", Text())
_SINCE: Final[BindParameter[float]] = bindparam("since", type_=Double())


def _hold_all(transaction: Transaction, accounts: Sequence[str], why: str) -> None:
    """Hold all accounts: the given ones, those that are known, and those that come to be known."""
    record(transaction, "doubted", why)
    change(transaction, accounts, {"held": why})
    held = {"held": why, "next_poll": transaction.now + _LONG, "set_at": transaction.now}
    # What was chosen already, is chosen.
    transaction.connection.execute(update(ACCOUNT).where(ACCOUNT.c.choice.is_(None)).values(held))


def _hold_one(transaction: Transaction, account: str, why: str) -> None:
    """Hold one account, whatever becomes of the others; what is chosen already, is chosen."""
    change(transaction, [account], {"held": why})


def _choose(transaction: Transaction, accounts: Sequence[str], choice: str, ends: bool) -> None:
    """Write down a choice; where it ends, accounts not known yet are not held any more."""
    if ends:
        transaction.connection.execute(update(INSTALLATION).values(doubted=None))
    due_at_once = {"next_poll": 0.0, "set_at": 0.0, "choice": choice}
    change(transaction, accounts, due_at_once)


def change(transaction: Transaction, accounts: Sequence[str], values: Mapping[str, object]) -> None:
    """Change columns of accounts, and add those that are not known yet, due at once."""
    blank = {"next_poll": 0.0, "set_at": 0.0, "queued_until": 0.0, "queued_at": 0.0, "failures": 0}
    rows = [{"name": name, **blank, **values} for name in sorted(set(accounts))]
    if rows:
        statement = _upsert_accounts(transaction.dialect, tuple(values))
        transaction.connection.execute(statement, rows)


@cache
def _upsert_accounts(dialect: str, names: tuple[str, ...]) -> Executable:
    insert = insert_into(dialect, ACCOUNT)
    return insert.on_conflict_do_update(
        index_elements=[ACCOUNT.c.name], set_={name: insert.excluded[name] for name in names}
    )


def _adopt(
    transaction: Transaction, account: str, sizes: Mapping[str, str], choice: str | None
) -> None:
    """Count messages as delivered, and a choice as done; with None more is to come."""
    values = {"account": account, "sizes": sizes, "now": transaction.now}
    _insert_adopted.run(transaction, values)
    _forget_choice(transaction, account, choice)


@Statement
def _insert_adopted(dialect: str) -> SqlStatement:
    return _insert_listed(dialect, _ADOPTED).on_conflict_do_nothing()


def _insert_listed(dialect: str, id_: ColumnElement[str]) -> Upsert:
    """Insert the UIDLs and sizes that are listed, all with the same word for an id."""
    uidl, size = pairs(dialect, "sizes")
    number = cast(func.nullif(size, literal_column("''")), BigInteger)
    found = select(_ACCOUNT, uidl, id_, _NOW, number).where(true())
    columns = [UIDL.c[name] for name in ("account", "uidl", "id", "first_seen", "size")]
    return insert_into(dialect, UIDL).from_select(columns, found)


def _skip(
    transaction: Transaction, account: str, sizes: Mapping[str, str], choice: str | None
) -> None:
    """Count messages as seen that stay at the server; and a choice as done, as ``_adopt`` does."""
    values = {"account": account, "sizes": sizes, "now": transaction.now}
    _upsert_skipped.run(transaction, values)
    _forget_choice(transaction, account, choice)


@Statement
def _upsert_skipped(dialect: str) -> SqlStatement:
    insert = _insert_listed(dialect, _SKIPPED)
    new = insert.excluded
    return insert.on_conflict_do_update(  # what was known as another message
        index_elements=[UIDL.c.account, UIDL.c.uidl],
        set_={"id": new.id, "first_seen": new.first_seen, "size": new.size, "head": new.head},
    )


def _skip_if_new(transaction: Transaction, account: str) -> bool:
    """Choose to skip what lies at the server of an account of which nothing is recorded."""
    values = {"account": account}
    for first in (_select_first_uidl, _select_first_message):
        if list(first.run(transaction, values)):
            return False
    change(transaction, [account], {"choice": SKIP})
    return True


@Statement
def _select_first_uidl(_: str) -> SqlStatement:
    return select(UIDL.c.uidl).where(UIDL.c.account == _ACCOUNT).limit(_ONE)


@Statement
def _select_first_message(_: str) -> SqlStatement:
    return select(MESSAGE.c.id).where(MESSAGE.c.account == _ACCOUNT).limit(_ONE)


def _forget_choice(transaction: Transaction, account: str, choice: str | None) -> None:
    """Forget a choice that is done, unless there is another one by now."""
    if choice is not None:
        mine = (ACCOUNT.c.name == account, ACCOUNT.c.choice == choice)
        transaction.connection.execute(update(ACCOUNT).where(*mine).values(held=None, choice=None))


def _count_delivered(transaction: Transaction, ids: Sequence[str]) -> None:
    _insert_delivered.run(transaction, {"ids": ids, "now": transaction.now})


@Statement
def _insert_delivered(dialect: str) -> SqlStatement:
    nobody = literal_column("''", Text())
    found = select(each(dialect, "ids"), nobody, nobody, _NOW, _ADOPTED).where(true())
    insert = insert_into(dialect, DELIVERED).from_select(list(DELIVERED.c), found)
    return insert.on_conflict_do_nothing()


def _forget(transaction: Transaction, account: str, choice: str, since: float | None) -> int:
    """Forget messages; their UIDLs last, as the others are known by them."""
    run = transaction.connection.execute
    values: dict[str, object] = {"account": account}
    if since is None:
        ids = select(MESSAGE.c.id).where(MESSAGE.c.account == _ACCOUNT)
        run(delete(DELIVERED).where(DELIVERED.c.id.in_(ids)), values)
        run(delete(MESSAGE).where(MESSAGE.c.account == _ACCOUNT), values)
        count = run(delete(UIDL).where(UIDL.c.account == _ACCOUNT), values).rowcount
    else:
        values["since"] = since
        # Without UIDLs an identity is all that keeps a message from coming again.
        lost = select(MESSAGE.c.id).where(MESSAGE.c.account == _ACCOUNT, *to_nobody(_SINCE))
        listed = (UIDL.c.account == _ACCOUNT, UIDL.c.id.in_(lost))
        run(delete(UIDL).where(*listed), values)
        count = run(delete(MESSAGE).where(MESSAGE.c.id.in_(lost)), values).rowcount
    run(delete(TROUBLE).where(TROUBLE.c.account == _ACCOUNT), values)
    # What is wanted again is no flood, in however many polls it comes.
    run(update(ACCOUNT).where(ACCOUNT.c.name == _ACCOUNT).values(busiest=None), values)
    _forget_choice(transaction, account, choice)
    return count


HOLD_BACK: Final = for_each(_hold_all)
HOLD_ONE: Final = for_each(_hold_one)
CHOOSE: Final = for_each(_choose)
ADOPTION: Final = for_each(
    _adopt,
    parts=lambda account, sizes, choice: (
        [(account, {uidl: size}, None) for uidl, size in sizes.items()]
        or [(account, sizes, choice)]
    ),
)
SKIPPING: Final = for_each(
    _skip,
    parts=lambda account, sizes, choice: (
        [(account, {uidl: size}, None) for uidl, size in sizes.items()]
        or [(account, sizes, choice)]
    ),
)
SKIP_IF_NEW: Final = for_each(_skip_if_new)
COUNT_AS_DELIVERED: Final = for_each(_count_delivered, parts=lambda ids: [([id_],) for id_ in ids])
AGAIN: Final = for_each(_forget)
"""Forgets messages; answers how many."""
