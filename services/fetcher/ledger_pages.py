"""What the ledger knows of one maildrop, page by page in the order of its UIDLs.

Of a million messages it would be 400 MB in memory. What fits into some pages is read while we log
in and the server lists, and kept, for one maildrop of a process at a time; what does not is read
page by page when it is wanted, and again if it is wanted again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

from services.fetcher.interfaces import ListingLedger
from shared.ledger import Known

PAGE: Final = 10_000
"""Entries of a page; others have their turn when one has been compared."""

KEPT: Final = 12
"""Pages that are kept, if there are no more: 40 MB."""


class LedgerPages:
    """Begins to read when it is made; ``close`` ends that.

    Args:
        ledger: that is read.
        account: whose maildrop it is.
        ahead: held while more than one page is kept; where another one has it, no more is.
        size: entries of a page.
    """

    def __init__(
        self, ledger: ListingLedger, account: str, ahead: asyncio.Lock, size: int = PAGE
    ) -> None:
        self._ledger = ledger
        self._account = account
        self._ahead = ahead
        self._keeps = False
        self._size = size
        self._first = asyncio.create_task(self._read_ahead())

    async def ready(self) -> None:
        """Wait until what is kept has been read."""
        await self._first

    async def read(self) -> AsyncIterator[Mapping[str, Known]]:
        """Yield the pages; more than once, if need be.

        Raises:
            StateUnavailable: they cannot be read.
        """
        page: Mapping[str, Known] = {}
        for page in await self._first:
            yield page
        while len(page) == self._size:
            page = await self._after(page)
            yield page

    async def close(self) -> None:
        """Read no further."""
        self._first.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._first
        self._keep_no_more()

    async def _read_ahead(self) -> list[Mapping[str, Known]]:
        pages: list[Mapping[str, Known]] = [
            await self._ledger.known(self._account, most=self._size)
        ]
        if len(pages[0]) < self._size or self._ahead.locked():
            return pages
        await self._ahead.acquire()
        self._keeps = True
        while len(pages[-1]) == self._size and len(pages) < KEPT:
            pages.append(await self._after(pages[-1]))
        if len(pages[-1]) < self._size:
            return pages
        self._keep_no_more()
        return pages[:1]  # of a very large maildrop the listing takes the room of the others

    def _keep_no_more(self) -> None:
        if self._keeps:
            self._keeps = False
            self._ahead.release()

    async def _after(self, page: Mapping[str, Known]) -> Mapping[str, Known]:
        last = next(reversed(page.keys())) if isinstance(page, dict) else list(page)[-1]
        return await self._ledger.known(self._account, after=last, most=self._size)
