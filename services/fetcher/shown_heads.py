"""Header blocks as a server shows them by TOP, which is an option (RFC 1939 section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from services.fetcher.identity import head_hash
from services.fetcher.pop3.session import Pop3Session

REFUSALS: Final = 3
"""Refusals one after the other, from the first TOP on, after which nothing more is asked of it."""


async def show_heads(session: Pop3Session, numbers: Sequence[int], shown: dict[int, str]) -> None:
    """Ask for the header blocks of messages; of those that are shown, note the hashes.

    Args:
        session: with the maildrop.
        numbers: of the messages.
        shown: gets the hashes, by number, as they come.

    Raises:
        ServerFault: the session broke; ``session.at`` says at which message.
    """
    offered = session.capabilities
    if not numbers or session.quirks.no_top or (offered and "TOP" not in offered):
        return
    refused = 0
    async with aclosing(session.tops(numbers)) as tops:
        async for number, top in tops:
            if top is None:
                refused += 1
            else:
                shown[number] = head_hash(top)
            if refused >= REFUSALS and not shown:
                break
