"""The UID ledger: what has been taken over from each maildrop, and every identity ever seen.

A UIDL stands for one message as long as the server lists it (RFC 1939 section 7). Where a server
gives an old UIDL to a new message all the same, the new one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    Double,
    Executable,
    Text,
    bindparam,
    delete,
    select,
    true,
    type_coerce,
)

from shared.claims import Entry, Known
from shared.state.batch import Batch, Operation, Upsert, insert_into
from shared.state.schema import MESSAGE, UIDL, Escaped
from shared.state.several import among, each, pairs
from shared.state.statement import Made, Statement

_DAY: Final = 86_400.0


class Record(NamedTuple):
    """Messages taken over from an account."""

    account: str
    entries: Sequence[Entry]


class Gone(NamedTuple):
    """UIDLs that an account no longer lists."""

    account: str
    uidls: Sequence[str]


# Built once, see ``leases``. The id is a hash of ours: nothing to undo in it, a tenth faster.
_ACCOUNT: Final = bindparam("account", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_KNOWN: Final = select(UIDL.c.uidl, type_coerce(UIDL.c.id, Text), UIDL.c.first_seen).where(
    UIDL.c.account == _ACCOUNT
)


def _known(batch: Batch, accounts: Sequence[str]) -> Sequence[dict[str, Known]]:
    found: dict[str, dict[str, Known]] = {}
    make = Known._make  # over a hundred thousand rows a fifth faster than Known
    for account in set(accounts):
        rows = batch.connection.execute(_KNOWN, {"account": account})
        found[account] = {uidl: make((id_, first_seen)) for uidl, id_, first_seen in rows}
    return [found[account] for account in accounts]


def _seen(batch: Batch, asked: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    wanted = sorted({id_ for ids in asked for id_ in ids})
    found = frozenset([id_ for (id_,) in _SEEN.run(batch.connection, {"ids": wanted})])
    return [found.intersection(ids) for ids in asked]


def _seen_among(dialect: str) -> Made:
    return select(MESSAGE.c.id).where(among(dialect, MESSAGE.c.id, "ids"))


def _record(batch: Batch, records: Sequence[Record]) -> Sequence[None]:
    entries: dict[str, list[Entry]] = {}
    for account, more in records:
        entries.setdefault(account, []).extend(more)
    for account in entries:
        _record_one(batch, account, entries[account])
    return [None] * len(records)


def _record_one(batch: Batch, account: str, entries: Sequence[Entry]) -> None:
    """Record what came from one account.

    An identity that no UIDL will hold here counts from when it was seen last.
    """
    listed = {uidl: id_ for uidl, id_ in entries if uidl is not None}
    bare = dict.fromkeys([id_ for uidl, id_ in entries if uidl is None])
    both = {"account": account, "now": batch.now}
    if listed:
        _LIST.run(batch.connection, {"entries": listed, **both})
    for statement, ids in (
        (_IDENTIFY, [id_ for uidl, id_ in entries if uidl is not None]),
        (_SEE_AGAIN, list(bare)),
    ):
        if ids:
            statement.run(batch.connection, {"ids": ids, **both})


# SQLite needs a WHERE to tell this ON from one of a join (sqlite.org/lang_upsert.html).


def _list(dialect: str) -> Made:
    uidl, id_ = pairs(dialect, "entries")
    rows = select(_ACCOUNT, uidl, id_, _NOW).where(true())
    insert = insert_into(dialect, UIDL).from_select(list(UIDL.c), rows)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[UIDL.c.account, UIDL.c.uidl],
        set_={"id": new.id, "first_seen": new.first_seen},
        where=UIDL.c.id != new.id,
    )


def _identify(dialect: str) -> Made:
    return _identities(dialect).on_conflict_do_nothing()


def _see_again(dialect: str) -> Made:
    """Without a UIDL, a message that stays on the server is seen at every poll: note the day."""
    insert = _identities(dialect)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[MESSAGE.c.id],
        set_={"first_seen": new.first_seen},
        where=MESSAGE.c.first_seen < new.first_seen - _DAY,
    )


def _identities(dialect: str) -> Upsert:
    rows = select(each(dialect, "ids"), _ACCOUNT, _NOW).where(true())
    return insert_into(dialect, MESSAGE).from_select(list(MESSAGE.c), rows)


_SEEN: Final = Statement(_seen_among)
_LIST: Final = Statement(_list)
_IDENTIFY: Final = Statement(_identify)
_SEE_AGAIN: Final = Statement(_see_again)


def _forget(batch: Batch, items: Sequence[Gone]) -> Sequence[None]:
    for account, uidls in items:
        values = {"account": account, "uidls": uidls}
        batch.connection.execute(_forgotten(batch.dialect), values)
    return [None] * len(items)


@cache
def _forgotten(dialect: str) -> Executable:
    return delete(UIDL).where(UIDL.c.account == _ACCOUNT, among(dialect, UIDL.c.uidl, "uidls"))


KNOWN: Final = Operation(_known, writes=False)
SEEN: Final = Operation(_seen, writes=False)
RECORD: Final = Operation(_record)
FORGET: Final = Operation(_forget)
