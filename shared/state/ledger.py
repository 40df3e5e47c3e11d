"""The UID ledger: what has been taken over from each maildrop, and every identity ever seen.

A UIDL stands for one message as long as the server lists it (RFC 1939 section 7). Where a server
gives an old UIDL to a new message all the same, the new one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import Executable, Text, bindparam, delete, select, type_coerce

from shared.claims import Entry, Known
from shared.state.batch import Batch, Operation, chunks, insert_into
from shared.state.schema import MESSAGE, UIDL

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
_KNOWN: Final = select(UIDL.c.uidl, type_coerce(UIDL.c.id, Text), UIDL.c.first_seen).where(
    UIDL.c.account == bindparam("name")
)
_SEEN: Final = select(MESSAGE.c.id).where(MESSAGE.c.id.in_(bindparam("ids", expanding=True)))


def _known(batch: Batch, accounts: Sequence[str]) -> Sequence[dict[str, Known]]:
    found: dict[str, dict[str, Known]] = {}
    make = Known._make  # over a hundred thousand rows a fifth faster than Known
    for account in set(accounts):
        rows = batch.connection.execute(_KNOWN, {"name": account})
        found[account] = {uidl: make((id_, first_seen)) for uidl, id_, first_seen in rows}
    return [found[account] for account in accounts]


def _seen(batch: Batch, asked: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    wanted = sorted({id_ for ids in asked for id_ in ids})
    found = {
        id_
        for portion in chunks(wanted)
        for id_ in batch.connection.scalars(_SEEN, {"ids": portion})
    }
    return [frozenset(found.intersection(ids)) for ids in asked]


def _record(batch: Batch, records: Sequence[Record]) -> Sequence[None]:
    all_of_them = [(account, entry) for account, entries in records for entry in entries]
    listed = [
        {"account": account, "uidl": uidl, "id": id_, "first_seen": batch.now}
        for account, (uidl, id_) in all_of_them
        if uidl is not None
    ]
    if listed:
        batch.connection.execute(_list(batch.dialect), listed)
    _record_identities(batch, all_of_them)
    return [None] * len(records)


def _record_identities(batch: Batch, all_of_them: Sequence[tuple[str, Entry]]) -> None:
    """Record identities; one that no UIDL will hold here counts from when it was seen last."""
    rows: dict[bool, list[Mapping[str, object]]] = {True: [], False: []}
    for account, (uidl, id_) in all_of_them:
        rows[uidl is None].append({"id": id_, "account": account, "first_seen": batch.now})
    for bare, statement in ((False, _identify), (True, _see_again)):
        if rows[bare]:
            batch.connection.execute(statement(batch.dialect), rows[bare])


@cache
def _list(dialect: str) -> Executable:
    insert = insert_into(dialect, UIDL)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[UIDL.c.account, UIDL.c.uidl],
        set_={"id": new.id, "first_seen": new.first_seen},
        where=UIDL.c.id != new.id,
    )


@cache
def _identify(dialect: str) -> Executable:
    return insert_into(dialect, MESSAGE).on_conflict_do_nothing()


@cache
def _see_again(dialect: str) -> Executable:
    """Without a UIDL, a message that stays on the server is seen at every poll: note the day."""
    insert = insert_into(dialect, MESSAGE)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[MESSAGE.c.id],
        set_={"first_seen": new.first_seen},
        where=MESSAGE.c.first_seen < new.first_seen - _DAY,
    )


def _forget(batch: Batch, items: Sequence[Gone]) -> Sequence[None]:
    for account, uidls in items:
        for portion in chunks(uidls):
            batch.connection.execute(
                delete(UIDL).where(UIDL.c.account == account, UIDL.c.uidl.in_(portion))
            )
    return [None] * len(items)


KNOWN: Final = Operation(_known, writes=False)
SEEN: Final = Operation(_seen, writes=False)
RECORD: Final = Operation(_record)
FORGET: Final = Operation(_forget)
