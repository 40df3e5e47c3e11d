"""The UID ledger: what has been taken over from each maildrop, and every identity ever seen.

A UIDL stands for one message as long as the server lists it (RFC 1939 section 7). Where a server
gives an old UIDL to a new message all the same, the new one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import Executable, Text, delete, select, type_coerce

from shared.claims import Entry, Known
from shared.state.batch import Batch, Operation, chunks, insert_into
from shared.state.schema import MESSAGE, UIDL


class Record(NamedTuple):
    """Messages taken over from an account."""

    account: str
    entries: Sequence[Entry]


class Gone(NamedTuple):
    """UIDLs that an account no longer lists."""

    account: str
    uidls: Sequence[str]


def _known(batch: Batch, accounts: Sequence[str]) -> Sequence[dict[str, Known]]:
    id_column = type_coerce(UIDL.c.id, Text)  # a hash of ours: nothing to undo, a tenth faster
    query = select(UIDL.c.uidl, id_column, UIDL.c.first_seen)
    found: dict[str, dict[str, Known]] = {}
    make = Known._make  # over a hundred thousand rows a fifth faster than Known
    for account in set(accounts):
        rows = batch.connection.execute(query.where(UIDL.c.account == account))
        found[account] = {uidl: make((id_, first_seen)) for uidl, id_, first_seen in rows}
    return [found[account] for account in accounts]


def _seen(batch: Batch, asked: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    wanted = sorted({id_ for ids in asked for id_ in ids})
    query = select(MESSAGE.c.id)
    found = {
        id_
        for portion in chunks(wanted)
        for id_ in batch.connection.scalars(query.where(MESSAGE.c.id.in_(portion)))
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
    identities = [
        {"id": id_, "account": account, "first_seen": batch.now}
        for account, (_, id_) in all_of_them
    ]
    if identities:
        batch.connection.execute(_identify(batch.dialect), identities)
    return [None] * len(records)


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
