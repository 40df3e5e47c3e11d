"""What the ledger knows of one maildrop, page by page in the order of its UIDLs.

Of a million messages it would be 400 MB in memory. What fits into some pages is read while we log
in and the server lists, and kept; what does not is read page by page when it is wanted, and again
if it is wanted again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

from services.fetcher.ports import Ledger
from shared.claims import Known

PAGE: Final = 10_000
"""Entries of a page; to compare one takes some milliseconds."""

KEPT: Final = 12
"""Pages that are kept, if there are no more: 40 MB."""


class Pages:
    """Begins to read when it is made; ``close`` ends that.

    Args:
        ledger: that is read.
        account: whose maildrop it is.
        size: entries of a page.
    """

    def __init__(self, ledger: Ledger, account: str, size: int = PAGE) -> None:
        self._ledger = ledger
        self._account = account
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

    async def _read_ahead(self) -> list[Mapping[str, Known]]:
        pages: list[Mapping[str, Known]] = [
            await self._ledger.known(self._account, most=self._size)
        ]
        while len(pages[-1]) == self._size and len(pages) < KEPT:
            pages.append(await self._after(pages[-1]))
        # Of a very large maildrop the listing takes the room that these would.
        return pages[:1] if len(pages[-1]) == self._size else pages

    async def _after(self, page: Mapping[str, Known]) -> Mapping[str, Known]:
        last = next(reversed(page.keys())) if isinstance(page, dict) else list(page)[-1]
        return await self._ledger.known(self._account, after=last, most=self._size)
