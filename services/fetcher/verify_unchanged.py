"""Sees to it that what is deleted later than it was retrieved is that message still.

Its header block, as TOP shows it, is compared with the hash of the one that came. Where there is no
telling (TOP is refused, or nothing was recorded), the message is retrieved again, which tells for
certain. It costs the bytes of a header block for each message that is deleted late, and at a server
that offers PIPELINING one round trip for 64 of them.

Known limit: another message with the same UIDL and header block passes for the one that came.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from services.fetcher.identity import head_hash
from services.fetcher.interfaces import Ledger
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.worklist import SafeMessage

REFUSALS: Final = 3
"""Refusals one after the other, from the first TOP on, after which nothing more is asked of it."""


async def verify_unchanged(
    session: Pop3Session, ledger: Ledger, account: str, due: Sequence[SafeMessage]
) -> list[SafeMessage]:
    """Return those messages that are without doubt what the ledger takes them for.

    Args:
        session: with the maildrop.
        ledger: knows the hashes.
        account: its name.
        due: what is to be deleted, recorded in an earlier session.

    Raises:
        ServerFault: the session broke; ``session.at`` says at which message.
    """
    offered = session.capabilities
    if not due or session.quirks.no_top or (offered and "TOP" not in offered):
        return []
    heads = await ledger.heads(account, [safe.uidl for safe in due if safe.uidl is not None])
    asked = {safe.number: safe for safe in due if safe.uidl in heads}
    found: list[SafeMessage] = []
    refused = 0
    async with aclosing(session.tops(list(asked))) as tops:
        async for number, top in tops:
            safe = asked[number]
            head = heads[safe.uidl or ""]
            if top is not None and head_hash(top) == head:
                found.append(safe._replace(head=head))
            refused += top is None
            if refused >= REFUSALS and not found:
                break
    return found
