"""What a maildrop holds, as the server says: STAT, UIDL and LIST (RFC 1939).

They are asked together where the server allows that, and what it does not keep is not asked at all.
No number is trusted: what STAT says is a hint, and of messages that are in no listing not too many
are believed to be there. An answer to ``LIST n`` names its message, so there a reply out of order
shows itself.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from services.fetcher.pop3.client import BODY_LIMIT, Pop3Client
from services.fetcher.pop3.listing import SizeListing, UidlListing
from services.fetcher.pop3.protocol import Pop3Reply
from services.fetcher.pop3.quirks import Quirks
from services.fetcher.pop3.reply_meaning import temporary
from services.fetcher.pop3.uidl_redaction import without_secrets
from services.fetcher.pop3.window import SHORT_WINDOW, Window
from shared.errors import NoAnswer, PromiseBroken, ServerFault, Unreachable

LINE_BYTES: Final = 128
"""Bytes of a line of a listing, for which there is room if all have so many."""

UNLISTED: Final = 100_000
"""Messages that are in no listing and believed to be there."""

_STAT: Final = re.compile(r"(\d{1,7})[ \t]+(\d{1,18})\b")
_SIZE: Final = re.compile(r"0*(\d{1,10})[ \t]+0*(\d{1,18})\b")
_EMPTY: Final = re.compile(
    r"(there (is|are) )?(no|0) (new )?(e?-?mails?|messages?)( (in|for|here|found|waiting)\b.*)?\W*"
    r"|.{0,40}\bempty\W*",
    re.IGNORECASE,
)
"""What a server says that refuses STAT and LIST because there is nothing."""

TakeTurn: TypeAlias = Callable[[int], Awaitable[bool]]
"""Waits, where a listing has so many lines, until it may go on; returns whether it was waited."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a maildrop holds, as the server says.

    Attributes:
        count: how many messages there are: their numbers are 1 to ``count``.
        octets: their size together; None where the server does not say.
        uidls: what UIDL lists, which may be less than all messages; None where it has none.
        quirk: ``no_uidl`` where it offers UIDL and refuses it or sends what is no listing.
        sizes: what LIST says, by message number; None where it was not asked.
        beyond: whether there are more messages, which are not looked at.
    """

    count: int
    octets: int | None
    uidls: UidlListing | None
    quirk: str | None = None
    sizes: SizeListing | None = None
    beyond: bool = False


class _Uidls(NamedTuple):
    uidls: UidlListing | None
    quirk: str | None


class Surveyor:
    """Asks the server of one session.

    Args:
        client: logged in.
        capabilities: what the server offers.
        quirks: what to do without.
        most: how many messages of the maildrop are looked at.
    """

    def __init__(
        self,
        client: Pop3Client,
        capabilities: Mapping[str, tuple[str, ...]],
        quirks: Quirks,
        most: int,
    ) -> None:
        self._client = client
        self._offers_uidl = "UIDL" in capabilities
        self._pipelining = "PIPELINING" in capabilities
        self._quirks = quirks
        self._most = most
        self._listing_bytes = max(BODY_LIMIT, most * LINE_BYTES)
        self._take_turn: TakeTurn | None = None

    async def survey(self, *, sizes: bool = False, take_turn: TakeTurn | None = None) -> Survey:
        """Return how much there is, and which UIDLs; asked together where that is allowed.

        Args:
            sizes: whether to ask for the sizes of all messages as well.
            take_turn: is awaited as lines of UIDL come.

        Raises:
            ServerFault: it says neither how many messages there are nor which.
        """
        self._take_turn = take_turn
        without = self._quirks
        if not sizes:
            return await self._ask_stat_and_uidl()
        if self._pipelining and not (without.no_uidl or without.no_list or without.no_stat):
            return await self._ask_all_at_once()
        return await self._ask_one_by_one()

    async def stat(self) -> tuple[int, int]:
        """Return how many messages there are, and what the server says is their size in bytes."""
        said = _numbers(self._client.require_ok(await self.ask_stat()))
        if said is None:
            raise ServerFault(self._client.server, "its answer to STAT has no numbers")
        return said

    async def sizes(self, numbers: Sequence[int] | None = None) -> Mapping[int, int]:
        """Return the sizes that the server claims, by message number: a hint, never a fact.

        Those of which it says nothing that makes sense are left out; all, where it refuses LIST.

        Args:
            numbers: the messages to ask for, one by one; None asks for all at once.

        Raises:
            PromiseBroken: it mixed up answers to commands sent together.
        """
        if numbers is not None:
            return await self._sizes_of(numbers)
        _, sizes = await self._ask_list()
        return sizes

    async def ask_stat(self) -> Pop3Reply:
        """Return the answer to STAT; a refusal where it is not asked."""
        if self._quirks.no_stat:
            return Pop3Reply("STAT", ok=False, text="")
        with self._or_without("STAT"):
            return await self._client.command("STAT")

    async def _ask_stat_and_uidl(self) -> Survey:
        client, listed, asks_uidl = self._client, None, not self._quirks.no_uidl
        if asks_uidl and self._pipelining and not self._quirks.no_stat:
            await client.settle()
            client.write(client.line("STAT") + client.line("UIDL"))
            stat = await client.reply()
            listed = await self._read_uidls(await client.reply())
        else:
            stat = await self.ask_stat()
        count, octets = _numbers(stat) or (None, None)
        if listed is None and asks_uidl and count != 0:
            with self._or_without("UIDL"):
                listed = await self._read_uidls(await client.command("UIDL"))
        return await self._make_survey(stat, count, octets, listed)

    async def _ask_all_at_once(self) -> Survey:
        """Ask STAT, UIDL and LIST in one go: far away it takes no longer than one of them."""
        client = self._client
        await client.settle()
        client.write(b"".join(map(client.line, ("STAT", "UIDL", "LIST"))))
        stat = await client.reply()
        uidl = await client.reply()
        count, octets = _numbers(stat) or (None, None)
        asked = uidl.ok or count != 0
        listed = await self._read_uidls(uidl) if asked else None
        sizes = await self._read_sizes(await client.reply())
        if count is None and sizes:
            count = sizes.highest
        return await self._make_survey(stat, count, octets, listed, sizes)

    async def _ask_one_by_one(self) -> Survey:
        """Ask LIST, and UIDL if there is anything; STAT only where LIST does not tell."""
        reply, sizes = await self._ask_list()
        if reply.ok and sizes.empty:
            return Survey(0, 0, UidlListing(), sizes=sizes)
        if not sizes:
            return replace(await self._ask_stat_and_uidl(), sizes=sizes)
        listed = None
        if not self._quirks.no_uidl:
            with self._or_without("UIDL"):
                listed = await self._read_uidls(await self._client.command("UIDL"))
        return await self._make_survey(reply, sizes.highest, sizes.total, listed, sizes)

    async def _make_survey(
        self,
        stat: Pop3Reply,
        count: int | None,
        octets: int | None,
        listed: _Uidls | None,
        sizes: SizeListing | None = None,
    ) -> Survey:
        uidls, quirk = (None, None) if listed is None else listed
        listing = uidls or UidlListing()
        if count == 0 and not listing.lines:
            return Survey(0, octets, UidlListing(), sizes=sizes)
        if count is None:
            count = await self._count_messages(stat) if uidls is None else listing.highest
        # What is in no listing is asked for by its number, if there are not too many.
        most = max(listing.lines, len(sizes or ())) + UNLISTED
        count = min(max(count, listing.highest), most)
        beyond = count > self._most or listing.beyond or bool(sizes and sizes.beyond)
        return Survey(min(count, self._most), octets, uidls, quirk, sizes, beyond)

    async def _count_messages(self, stat: Pop3Reply) -> int:
        """Return how many messages LIST lists, where STAT does not say."""
        reply, sizes = await self._ask_list()
        if not reply.ok and not any(_EMPTY.fullmatch(said) for said in (stat.text, reply.text)):
            said = "it answers neither STAT nor LIST with a number of messages"
            words = self._client.printable_text(stat if stat.text else reply)
            raise ServerFault(self._client.server, f"{said}: {words}")
        return sizes.highest

    async def _ask_list(self) -> tuple[Pop3Reply, SizeListing]:
        """Return the answer to LIST, and the listing; empty where it is refused, or not asked."""
        if self._quirks.no_list:
            return Pop3Reply("LIST", ok=False, text=""), SizeListing()
        with self._or_without("LIST"):
            reply = await self._client.command("LIST")
            return reply, await self._read_sizes(reply)

    @contextmanager
    def _or_without(self, verb: str) -> Iterator[None]:
        """Take a server that hangs, hangs up, or talks nonsense here for one that does without."""
        try:
            yield
        except (Unreachable, NoAnswer) as error:
            said, quirk = f"{verb}: {error.said}", f"no_{verb.lower()}"
            raise PromiseBroken(self._client.server, said, quirk) from error

    async def _read_uidls(self, reply: Pop3Reply) -> _Uidls:
        """Return the listing of which this is the status line."""
        refused = "no_uidl" if self._offers_uidl else None
        if not reply.ok:
            if reply.code:  # such as SYS/TEMP: it has them, but not now
                self._client.require_ok(reply)
            return _Uidls(None, None if temporary(reply) else refused)
        found = UidlListing(self._most)
        take_turn = self._take_turn
        waited = None if take_turn is None else lambda: take_turn(found.lines)
        await self._client.listing("UIDL", found.feed, self._listing_bytes, waited)
        found.end()
        if found.nonsense:
            return _Uidls(None, "no_uidl")
        found.numbers = await without_secrets(found.numbers, self._client.redaction)
        return _Uidls(found, None)

    async def _read_sizes(self, reply: Pop3Reply) -> SizeListing:
        """Return the listing of which this is the status line; an empty one where it is refused."""
        found = SizeListing(self._most)
        if reply.ok:
            await self._client.listing("LIST", found.feed, self._listing_bytes)
        return found.end()

    async def _sizes_of(self, numbers: Sequence[int]) -> dict[int, int]:
        if self._quirks.no_list:
            return {}
        await self._client.settle()
        window = Window(self._client, "LIST", numbers, SHORT_WINDOW if self._pipelining else 1)
        found: dict[int, int] = {}
        while (number := window.next()) is not None:
            with self._or_without("LIST"):
                reply = await self._client.reply()
            about, size = size_said(reply) or (None, None)
            if about == number and size is not None:
                found[number] = size
            elif about is not None and self._pipelining:
                raise mixed_up(self._client, number, reply)
        return found


def size_said(reply: Pop3Reply) -> tuple[int, int] | None:
    """Return the number and the size in an answer to ``LIST n``, None where it has none."""
    found = _SIZE.match(reply.text) if reply.ok else None
    return None if found is None else (int(found[1]), int(found[2]))


def mixed_up(client: Pop3Client, number: int, reply: Pop3Reply) -> PromiseBroken:
    """Return what it means that an answer to ``LIST n``, sent along with others, is not about n.

    Of all that was sent together, no answer is certain then.
    """
    shown = client.printable_text(reply)
    said = f"its answer to LIST {number} is about another message: {shown}"
    return PromiseBroken(client.server, said, "no_pipelining")


def _numbers(stat: Pop3Reply) -> tuple[int, int] | None:
    found = _STAT.match(stat.text) if stat.ok else None
    return None if found is None else (int(found[1]), int(found[2]))
