"""Messages that another program has fetched, by its records: their UIDLs were imported.

Nobody here has seen them. They count as delivered, and are not retrieved. At first sight the size
that LIST says and a hash of the header block, as TOP shows it, are recorded: from then on such a
message is deleted, once its time at the server is over, only if it is that message still, as any
other (``deletion``). What stays in doubt then is retrieved: with that header block it
counts as delivered, with any other it is delivered. Where TOP shows nothing, and messages are to be
deleted some time, they are retrieved at once, for their identity, and count as delivered.

It trusts the records of the other program, as that one did, for the time up to the first sight.
Known limits: an imported message has no identity of ours, so should the server renumber its UIDLs,
it is delivered once more; nor is one delivered that took over the UIDL of another before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.fetcher.interfaces import Ledger
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.shown_heads import show_heads
from services.fetcher.worklist import SafeMessage
from shared.ledger import imported_head


async def look_at(
    session: Pop3Session, ledger: Ledger, account: str, unlooked: Sequence[SafeMessage]
) -> list[SafeMessage]:
    """Record the header blocks of messages; return those of which TOP shows none.

    Args:
        session: with the maildrop.
        ledger: keeps the hashes; also of those that came before the session broke.
        account: its name.
        unlooked: imported messages.

    Raises:
        ServerFault: the session broke; ``session.at`` says at which message.
    """
    shown: dict[int, str] = {}
    try:
        await show_heads(session, [safe.number for safe in unlooked], shown)
    finally:
        heads = {safe.uidl: shown[safe.number] for safe in unlooked if safe.number in shown}
        if heads:
            await ledger.look_at(account, {uidl: head for uidl, head in heads.items() if uidl})
    return [safe for safe in unlooked if safe.number not in shown]


def counts_as_delivered(known: Mapping[str, str], uidl: str | None, head: str) -> bool:
    """Return whether a message that was retrieved is one that another program has fetched.

    Args:
        known: what the ledger has in place of identities, by UIDL, of imported messages.
        uidl: its UIDL.
        head: the hash of its header block.
    """
    id_ = known.get(uidl or "")
    return id_ is not None and imported_head(id_) in (None, head)
