"""The UID ledger: what has been taken over from each maildrop, and every identity ever seen.

A UIDL stands for one message as long as the server lists it (RFC 1939 section 7). Where a server
gives an old UIDL to a new message all the same, the new one counts. How long a message has been
here goes by its identity: a UIDL that was forgotten, or given anew, makes no message younger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    select,
    true,
    type_coerce,
    update,
)

from shared.ledger import Known, LedgerEntry
from shared.state.json_params import among, each, pairs, rows
from shared.state.operations import Transaction, Upsert, for_all, for_each, insert_into
from shared.state.schema import MESSAGE, UIDL, Escaped
from shared.state.statement import SqlStatement, Statement

_DAY: Final = 86_400.0

EVERYTHING: Final = 2**31 - 1
"""Entries of a page that has no end."""


class RecordMessages(NamedTuple):
    """Messages taken over from an account."""

    account: str
    entries: Sequence[LedgerEntry]


# Built once, see ``leases``. The id is a hash of ours: nothing to undo in it.
_ACCOUNT: Final = bindparam("account", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_KNOWN: Final = select(UIDL.c.uidl, type_coerce(UIDL.c.id, Text), UIDL.c.first_seen, UIDL.c.size)
_PAGE: Final = (
    _KNOWN.where(UIDL.c.account == _ACCOUNT, UIDL.c.uidl > bindparam("after", type_=Escaped()))
    .order_by(UIDL.c.uidl)
    .limit(bindparam("most", type_=BigInteger()))
)
_SINCE: Final = func.coalesce(MESSAGE.c.since, MESSAGE.c.first_seen)


def _known(transaction: Transaction, account: str, after: str, most: int) -> dict[str, Known]:
    make = Known._make  # faster than Known, over a hundred thousand rows
    values = {"account": account, "after": after, "most": most}
    known = transaction.connection.execute(_PAGE, values)
    return {uidl: make((id_, at, size)) for uidl, id_, at, size in known}


def _seen(transaction: Transaction, asked: Sequence[Sequence[str]]) -> Sequence[dict[str, float]]:
    wanted = sorted({id_ for ids in asked for id_ in ids})
    found: dict[str, float] = dict(_select_seen.run(transaction, {"ids": wanted}))
    return [{id_: found[id_] for id_ in ids if id_ in found} for ids in asked]


@Statement
def _select_seen(dialect: str) -> SqlStatement:
    return select(MESSAGE.c.id, _SINCE).where(among(dialect, MESSAGE.c.id, "ids"))


def _record(transaction: Transaction, records: Sequence[RecordMessages]) -> Sequence[None]:
    entries: dict[str, list[LedgerEntry]] = {}
    for account, more in records:
        entries.setdefault(account, []).extend(more)
    for account in entries:
        _record_one(transaction, account, entries[account])
    return [None] * len(records)


def _record_one(transaction: Transaction, account: str, entries: Sequence[LedgerEntry]) -> None:
    """Record what came from one account.

    An identity that no UIDL will hold here counts from when it was seen last.
    """
    listed = {e.uidl: _row(e) for e in entries if e.uidl is not None}
    bare = {e.id: _identity(e) for e in entries if e.uidl is None}
    both = {"account": account, "now": transaction.now}
    if listed:
        _upsert_uidls.run(transaction, {"entries": list(listed.values()), **both})
    for statement, ids in (
        (_insert_identities, [_identity(e) for e in entries if e.uidl is not None]),
        (_renew_identities, list(bare.values())),
    ):
        if ids:
            statement.run(transaction, {"ids": ids, **both})


def _row(entry: LedgerEntry) -> Sequence[str | None]:
    size = None if entry.size is None else str(entry.size)
    return entry.uidl, entry.id, size, entry.head


def _identity(entry: LedgerEntry) -> Sequence[str | None]:
    return entry.id, None if entry.loose is None else str(entry.loose)


# SQLite needs a WHERE to tell this ON from one of a join (sqlite.org/lang_upsert.html).


@Statement
def _upsert_uidls(dialect: str) -> SqlStatement:
    uidl, id_, size, head = rows(dialect, "entries", 4)
    since = func.coalesce(select(_SINCE).where(MESSAGE.c.id == id_).scalar_subquery(), _NOW)
    columns = [UIDL.c[name] for name in ("account", "uidl", "id", "first_seen", "size", "head")]
    new_rows = select(_ACCOUNT, uidl, id_, since, cast(size, BigInteger), head).where(true())
    insert = insert_into(dialect, UIDL).from_select(columns, new_rows)
    new, same = insert.excluded, UIDL.c.id == insert.excluded.id

    def kept(name: str) -> ColumnElement[object]:
        """What is not known any better stays, if it is the same message."""
        return func.coalesce(new[name], case((same, UIDL.c[name]), else_=None))

    return insert.on_conflict_do_update(
        index_elements=[UIDL.c.account, UIDL.c.uidl],
        set_={
            "id": new.id,
            "first_seen": case((same, UIDL.c.first_seen), else_=new.first_seen),
            "size": kept("size"),
            "head": kept("head"),
        },
    )


@Statement
def _insert_identities(dialect: str) -> SqlStatement:
    return _identities(dialect).on_conflict_do_nothing()


@Statement
def _renew_identities(dialect: str) -> SqlStatement:
    """Without a UIDL, a message that stays on the server is seen at every poll: note the day."""
    insert = _identities(dialect)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[MESSAGE.c.id],
        set_={"first_seen": new.first_seen, "since": _SINCE},
        where=MESSAGE.c.first_seen < new.first_seen - _DAY,
    )


def _identities(dialect: str) -> Upsert:
    id_, loose = rows(dialect, "ids", 2)
    ids = select(id_, _ACCOUNT, _NOW, cast(loose, BigInteger)).where(true())
    columns = [MESSAGE.c.id, MESSAGE.c.account, MESSAGE.c.first_seen, MESSAGE.c.loose]
    return insert_into(dialect, MESSAGE).from_select(columns, ids)


def _alike(transaction: Transaction, account: str, loose: Sequence[int], before: float) -> int:
    """Return how many of these looser fingerprints are those of messages seen before a moment.

    They have no index, which each message would pay for: it is asked once in a flood.
    """
    values = {"account": account, "loose": [str(one) for one in set(loose)], "now": before}
    found = {one for (one,) in _select_alike.run(transaction, values)}
    return sum(one in found for one in loose)


@Statement
def _select_alike(dialect: str) -> SqlStatement:
    some = select(cast(each(dialect, "loose"), BigInteger))
    these = (MESSAGE.c.account == _ACCOUNT, MESSAGE.c.loose.in_(some), _SINCE < _NOW)
    return select(MESSAGE.c.loose).where(*these)


def _heads(transaction: Transaction, account: str, uidls: Sequence[str]) -> dict[str, str]:
    return dict(_select_heads.run(transaction, {"account": account, "uidls": uidls}))


@Statement
def _select_heads(dialect: str) -> SqlStatement:
    some = (UIDL.c.account == _ACCOUNT, among(dialect, UIDL.c.uidl, "uidls"))
    return select(UIDL.c.uidl, UIDL.c.head).where(*some, UIDL.c.head.is_not(None))


def _measure(transaction: Transaction, account: str, sizes: Mapping[str, int]) -> None:
    texts = {uidl: str(size) for uidl, size in sizes.items()}
    _set_sizes.run(transaction, {"account": account, "sizes": texts})


@Statement
def _set_sizes(dialect: str) -> SqlStatement:
    uidl, size = pairs(dialect, "sizes")
    these = (UIDL.c.account == _ACCOUNT, UIDL.c.uidl == uidl)
    return update(UIDL).where(*these).values(size=cast(size, BigInteger))


def _forget(transaction: Transaction, account: str, uidls: Sequence[str]) -> None:
    values = {"account": account, "uidls": uidls}
    # Its UIDL kept the identity from being pruned; from now on its time counts.
    _let_go.run(transaction, {**values, "now": transaction.now})
    _delete_uidls.run(transaction, values)


@Statement
def _delete_uidls(dialect: str) -> SqlStatement:
    return delete(UIDL).where(UIDL.c.account == _ACCOUNT, among(dialect, UIDL.c.uidl, "uidls"))


@Statement
def _let_go(dialect: str) -> SqlStatement:
    # What came within the day needs no look at its identity, which was seen no earlier.
    old = UIDL.c.first_seen < _NOW - _DAY
    some = (UIDL.c.account == _ACCOUNT, among(dialect, UIDL.c.uidl, "uidls"), old)
    these = (MESSAGE.c.id.in_(select(UIDL.c.id).where(*some)), MESSAGE.c.first_seen < _NOW - _DAY)
    return update(MESSAGE).where(*these).values(first_seen=_NOW, since=_SINCE)


KNOWN: Final = for_each(_known, writes=False)
SEEN: Final = for_all(_seen, writes=False)
RECORD: Final = for_all(_record, parts=lambda r: [r._replace(entries=[e]) for e in r.entries])
ALIKE: Final = for_each(_alike, writes=False)
HEADS: Final = for_each(_heads, writes=False)
MEASURE: Final = for_each(
    _measure,
    parts=lambda account, sizes: [(account, {uidl: size}) for uidl, size in sizes.items()],
)
FORGET: Final = for_each(
    _forget, parts=lambda account, uidls: [(account, [uidl]) for uidl in uidls]
)
