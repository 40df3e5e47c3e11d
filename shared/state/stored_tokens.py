"""The tokens in the state database, as one process sees them; durable when a call returns."""

from __future__ import annotations

from collections.abc import Sequence

from shared.oauth.record import TokenRecord
from shared.state import oauth_tokens
from shared.state.transactions import Transactions


class StoredTokens:
    """What is stored of access tokens and refresh tokens, encrypted by who stores it.

    Each call may raise StateUnavailable: it is not known whether it was done.

    Args:
        transactions: those of this process.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._ask = transactions.ask

    async def read(self, name: str) -> TokenRecord | None:
        """Return what is stored under a name."""
        return await self._ask(oauth_tokens.READ, name)

    async def read_all(self) -> Sequence[TokenRecord]:
        """Return all that is stored, by name."""
        return await self._ask(oauth_tokens.READ_ALL)

    async def note_renewal(self, name: str, grant: str, *, begins: bool) -> None:
        """Record that a renewal begins, or that it has ended without new tokens."""
        await self._ask(oauth_tokens.NOTE_RENEWAL, name, grant, begins)

    async def keep(self, record: TokenRecord, *, instead_of: str | None) -> bool:
        """Store tokens; return whether they are stored.

        Args:
            record: the row.
            instead_of: the grant that has to be there still; None for whatever there is.
        """
        return await self._ask(oauth_tokens.KEEP, record, instead_of)

    async def reseal(self, name: str, old: str, new: str) -> bool:
        """Store the same tokens under another key, unless they were renewed meanwhile."""
        return await self._ask(oauth_tokens.RESEAL, name, old, new)

    async def forget(self, name: str) -> bool:
        """Forget tokens; return whether there were any."""
        return await self._ask(oauth_tokens.FORGET, name)
