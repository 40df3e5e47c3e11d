"""UIDLs that another program has fetched: brought in from its records, and looked at here.

They stand in the UID ledger beside ours, with ``IMPORTED`` in place of an identity: nobody here has
seen these messages. What a poll learns of one (the hash of its header block) is written once, and
never over what is known better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Double, Text, bindparam, cast, literal_column, select, true, update

from shared.ledger import IMPORTED, imported
from shared.state.json_params import pairs
from shared.state.operations import Transaction, for_each, insert_into
from shared.state.schema import UIDL, Escaped
from shared.state.statement import SqlStatement, Statement

_ACCOUNT: Final = bindparam("account", type_=Escaped())
_IMPORTED: Final = literal_column(f"'{IMPORTED}'", Text())
_BEFORE_A_HASH: Final = literal_column(f"'{imported('')}'", Text())


def _import(transaction: Transaction, account: str, since: Mapping[str, str]) -> None:
    """Record UIDLs that another program has fetched, each with when that was."""
    _insert_imported.run(transaction, {"account": account, "since": since})


@Statement
def _insert_imported(dialect: str) -> SqlStatement:
    uidl, since = pairs(dialect, "since")
    found = select(_ACCOUNT, uidl, _IMPORTED, cast(since, Double)).where(true())
    columns = [UIDL.c[name] for name in ("account", "uidl", "id", "first_seen")]
    return insert_into(dialect, UIDL).from_select(columns, found).on_conflict_do_nothing()


def _look_at(transaction: Transaction, account: str, heads: Mapping[str, str]) -> None:
    """Record the hashes of the header blocks of imported messages, by UIDL."""
    _set_heads.run(transaction, {"account": account, "heads": heads})


@Statement
def _set_heads(dialect: str) -> SqlStatement:
    uidl, head = pairs(dialect, "heads")
    these = (UIDL.c.account == _ACCOUNT, UIDL.c.uidl == uidl, UIDL.c.id == _IMPORTED)
    return update(UIDL).where(*these).values(id=_BEFORE_A_HASH.concat(head), head=head)


IMPORT: Final = for_each(
    _import, parts=lambda account, since: [(account, {uidl: at}) for uidl, at in since.items()]
)
LOOK_AT: Final = for_each(
    _look_at, parts=lambda account, heads: [(account, {uidl: h}) for uidl, h in heads.items()]
)
