"""A POP3 session, from the login to QUIT (RFC 1939).

Message numbers hold for one session. Deletions count only when ``quit`` returns; every other end,
``abort`` or an error, deletes nothing. Any ServerFault ends the session: abort it. If it is a
PromiseBroken, the next session does without what was promised.

It trusts no size that the server claims and keeps no message whole: large ones pass through in
pieces, as fast as the consumer takes them. An answer to ``LIST n`` names its message, so there a
reply out of order shows itself; RETR, TOP and DELE have nothing of the kind.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from services.fetcher.identity import HEAD_LIMIT
from services.fetcher.pop3.client import BODY_LIMIT, Pop3Client
from services.fetcher.pop3.deadlines import WaitMeter
from services.fetcher.pop3.listing import MAX_MESSAGES, SizeListing, UidlListing, login_delay
from services.fetcher.pop3.login import Login, log_in
from services.fetcher.pop3.protocol import Pop3Reply
from services.fetcher.pop3.quirks import NONE, Quirks
from services.fetcher.pop3.reply_meaning import temporary
from services.fetcher.pop3.retrieval import ResponsePieces, Retrieval, too_large
from services.fetcher.pop3.uidl_redaction import without_secrets
from services.fetcher.pop3.window import Window
from shared.errors import NoAnswer, PromiseBroken, ServerFault, TooLarge, Unreachable
from shared.failpoint import reach
from shared.network.dialogue import TakeLine

__all__ = ["Login", "Pop3Session", "Retrieval", "Survey"]

RETRIEVE_WINDOW: Final = 64
"""RETR and TOP commands outstanding at a server that offers PIPELINING."""

DELETE_WINDOW: Final = 512
"""DELE and LIST commands outstanding; command and reply are short, so this fits into buffers."""

GOODBYE_SECONDS: Final = 5.0
"""How long the answer to QUIT is waited for where nothing depends on it."""

LINE_BYTES: Final = 128
"""Bytes of a line of a listing, for which there is room if all have so many."""

TOP_LIMIT: Final = 1024 * 1024
"""Bytes of an answer to TOP; one that has more is no header, and costs as much as RETR."""

UNLISTED: Final = 100_000
"""Messages that are in no listing and believed to be there: what STAT says is a hint."""

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


class Pop3Session:
    """A session in the TRANSACTION state; made by ``open``.

    Attributes:
        capabilities: what the server offers (CAPA), with parameters, by upper-case name, less what
            the quirks leave out; empty where it does not say.
        quirks: what this session does without; those found while it was opened are among them.
        at: the message of which the answer to RETR, TOP or DELE was awaited last; 0 before, and
            when the answer to QUIT is awaited.
        marks: how often an answer among those to RETR has been seen to be in its place.
        kept: what the server said when it refused to delete a message; "" if it never did.
    """

    def __init__(
        self,
        client: Pop3Client,
        capabilities: Mapping[str, tuple[str, ...]],
        quirks: Quirks = NONE,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        self.capabilities = capabilities
        self.quirks = quirks
        self.at = 0
        self.marks = 0
        self.kept = ""
        self._client = client
        self._most = max_messages
        self._marking = False  # DELE has been sent
        self._take_turn: TakeTurn | None = None

    @classmethod
    async def open(
        cls,
        login: Login,
        quirks: Quirks = NONE,
        tell: TakeLine | None = None,
        pace: WaitMeter | None = None,
        max_messages: int = MAX_MESSAGES,
    ) -> Pop3Session:
        """Connect and log in; once more without, where the server does not keep what it offers.

        Args:
            login: where, and as whom.
            quirks: what to do without from the beginning.
            tell: takes the dialogue, line by line; None where nobody listens.
            pace: told of every wait for the server.
            max_messages: how many messages of the maildrop are looked at.

        Raises:
            ConfigError: the account's settings cannot be used.
            Unreachable: the server does not answer.
            LoginRefused: it does not accept user name and password.
            MaildropBusy: another session holds the maildrop, or it is too early or too many.
            ServerFault: it refused for another reason, or broke the protocol.
        """
        return cls(*await log_in(login, quirks, tell, pace), max_messages)

    @property
    def in_step(self) -> bool:
        """Whether all that has come so far is an answer to what was asked, and nothing is due."""
        return self._client.in_step

    @property
    def login_delay(self) -> float:
        """Seconds that the server wants between two logins (RFC 2449 section 6.5); 0 for none."""
        return login_delay(self.capabilities)

    @property
    def _pipelining(self) -> bool:
        return "PIPELINING" in self.capabilities

    async def survey(self, *, sizes: bool = False, take_turn: TakeTurn | None = None) -> Survey:
        """Return how much there is, and which UIDLs; asked together where that is allowed.

        Args:
            sizes: whether to ask for the sizes of all messages as well.
            take_turn: is awaited as lines of UIDL come.

        Raises:
            ServerFault: it says neither how many messages there are nor which.
        """
        self._take_turn = take_turn
        if not sizes:
            return await self._survey()
        without = self.quirks
        if self._pipelining and not (without.no_uidl or without.no_list or without.no_stat):
            return await self._survey_all_at_once()
        return await self._survey_one_by_one()

    async def _survey(self) -> Survey:
        asks_uidl = not self.quirks.no_uidl
        together = asks_uidl and self._pipelining and not self.quirks.no_stat
        stat, listed = await self._stat_and_uidl() if together else (await self._stat(), None)
        numbers = _STAT.match(stat.text) if stat.ok else None
        count, octets = (int(numbers[1]), int(numbers[2])) if numbers else (None, None)
        if count == 0 and not (listed and listed.uidls and listed.uidls.lines):
            return Survey(0, octets, UidlListing())
        if listed is None and asks_uidl:
            listed = await self._uidl()
        return await self._make_survey(stat, count, octets, listed)

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
        if count is None:
            count = await self._count_messages(stat) if uidls is None else listing.highest
        # What is in no listing is asked for by its number, if there are not too many.
        most = max(listing.lines, len(sizes or ())) + UNLISTED
        count = min(max(count, listing.highest), most)
        beyond = count > self._most or listing.beyond or bool(sizes and sizes.beyond)
        return Survey(min(count, self._most), octets, uidls, quirk, sizes, beyond)

    async def stat(self) -> tuple[int, int]:
        """Return how many messages there are, and what the server says is their size in bytes."""
        reply = self._client.require_ok(await self._stat())
        found = _STAT.match(reply.text)
        if found is None:
            raise ServerFault(self._client.server, "its answer to STAT has no numbers")
        return int(found[1]), int(found[2])

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
        _, sizes = await self._list()
        return sizes

    async def tops(self, numbers: Sequence[int]) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """Yield the header block of each of these messages (TOP), None where it is refused.

        Raises:
            ServerFault: the server broke the protocol, or the connection.
        """
        client = self._client
        await client.settle()
        window = self._window("TOP", numbers, RETRIEVE_WINDOW)
        while (number := window.next()) is not None:
            self.at = number
            whole = client.whole()
            if whole is None and (await client.reply()).ok:
                whole = await self._top()
            yield number, whole

    async def _top(self) -> bytes:
        try:
            return await self._client.body("TOP", HEAD_LIMIT, TOP_LIMIT)
        except TooLarge as error:
            raise PromiseBroken(error.server, error.said, "no_top") from error

    async def retrieve(
        self,
        numbers: Iterable[int],
        by_size: Mapping[int, int] | None = None,
        most: float = math.inf,
    ) -> AsyncGenerator[Retrieval, None]:
        """Yield these messages in this order, asking ahead where the server offers PIPELINING.

        Left early, the answers still outstanding are read and thrown away by the next command.

        Args:
            numbers: taken from it as they are asked for; where it ends, nothing more is.
            by_size: messages that did not end as they should when they were read before, with the
                sizes that LIST says: where one command waits for the other, they end by these.
            most: bytes of a message; one of which more comes ends the session.

        Raises:
            TooLarge: more has come of a message.
            Unreachable: the connection broke.
            PromiseBroken: the server mixed up or lost answers to commands sent together.
            ServerFault: the server broke the protocol.
        """
        client = self._client
        await client.settle()
        sizes = {} if self._pipelining or by_size is None else by_size
        ahead = RETRIEVE_WINDOW if self._pipelining else 1
        marks = self._pipelining and not self.quirks.no_list
        window = Window(client, "RETR", numbers, ahead, mark=marks)
        while (number := window.next()) is not None:
            if number < 0:
                await self._check_mark(-number)
                continue
            self.at = number
            size = sizes.get(number)
            whole = client.whole() if size is None else None
            if whole is not None:
                if len(whole) > most:
                    raise too_large(client.server, most)
                yield Retrieval(number, None, whole, None)
                continue
            reply = await client.reply()
            if reply.ok and size is not None:
                yield Retrieval(number, None, await client.read_framed(size), None)
            else:
                pieces = ResponsePieces(client, done=not reply.ok, most=most)
                yield Retrieval(number, None if reply.ok else reply.text, None, pieces)
                await pieces.skip()

    async def _check_mark(self, number: int) -> None:
        """See that the next answer is about the message that was asked for last.

        One reply too many or too few makes each message pass for the next one; where all have one
        size, this alone tells.
        """
        self.at = 0
        try:
            reply = await self._client.reply()
        except Unreachable as error:
            said = f"LIST {number}: {error.said}"
            raise PromiseBroken(self._client.server, said, "no_pipelining") from error
        size = _SIZE.match(reply.text)
        if reply.ok and (size is None or int(size[1]) != number):
            self._raise_mixed_up(number, reply)
        self.marks += reply.ok  # a refusal names none

    async def delete(self, numbers: Sequence[int]) -> list[int]:
        """Mark messages as deleted; return those of which the server said +OK.

        It counts when ``quit`` has returned.
        """
        await self._client.settle()
        window = self._window("DELE", numbers, DELETE_WINDOW)
        self._marking = self._marking or bool(numbers)
        return await self._read_accepted(window)

    async def round_trip(self) -> None:
        """See whether the server is in step, by a question whose answer does not matter.

        STAT, since some servers do not know NOOP, and never answer it.
        """
        if self.quirks.no_stat:
            await self._client.command("NOOP")
        else:
            await self._stat()

    async def quit(self, delete: Sequence[int] = ()) -> list[int]:
        """End the session; the server removes what is marked as deleted, and these messages.

        QUIT does not wait for the answers to the last deletions where the server offers
        PIPELINING: whatever they are, it follows. Where nothing is deleted, the answer is waited
        for but a moment, and whatever it is will do.

        Returns:
            Those of ``delete`` of which the server said +OK.

        Raises:
            ServerFault: it did not remove all of it.
            Unreachable: it did not answer, so nobody knows.
        """
        last = delete[-DELETE_WINDOW:] if self._pipelining else ()
        try:
            deleted = await self.delete(delete[: len(delete) - len(last)])
            window = self._window("DELE", last, DELETE_WINDOW)
            self._marking = self._marking or bool(last)
            reach("fetcher", "before-quit")
            self._client.write(self._client.line("QUIT"))
            reach("fetcher", "quit-sent")
            deleted += await self._read_accepted(window)
            await self._goodbye()
            return deleted
        finally:
            self._client.close()

    async def abort(self) -> None:
        """End the session without QUIT: the server deletes nothing."""
        self._client.abort()
        await asyncio.sleep(0)  # the transport closes its socket at the loop's next turn

    async def _goodbye(self) -> None:
        self.at = 0
        if self._marking:
            self._client.require_ok(await self._client.reply())
            return
        with suppress(ServerFault):
            async with self._client.patience(GOODBYE_SECONDS):
                await self._client.reply()

    async def _read_accepted(self, window: Window) -> list[int]:
        deleted = []
        while (number := window.next()) is not None:
            self.at = number
            reply = await self._client.reply()
            if reply.ok:
                deleted.append(number)
            else:
                self.kept = reply.text
        return deleted

    async def _stat(self) -> Pop3Reply:
        if self.quirks.no_stat:
            return Pop3Reply("STAT", ok=False, text="")
        with self._or_without("STAT"):
            return await self._client.command("STAT")

    async def _list(self) -> tuple[Pop3Reply, SizeListing]:
        """Return the answer to LIST, and the listing; empty where it is refused, or not asked."""
        if self.quirks.no_list:
            return Pop3Reply("LIST", ok=False, text=""), SizeListing()
        with self._or_without("LIST"):
            reply = await self._client.command("LIST")
            return reply, await self._read_sizes(reply)

    async def _uidl(self) -> _Uidls:
        with self._or_without("UIDL"):
            reply = await self._client.command("UIDL")
            return await self._read_uidls(reply)

    @contextmanager
    def _or_without(self, verb: str) -> Iterator[None]:
        """Take a server that hangs, hangs up, or talks nonsense here for one that does without."""
        try:
            yield
        except (Unreachable, NoAnswer) as error:
            said, quirk = f"{verb}: {error.said}", f"no_{verb.lower()}"
            raise PromiseBroken(self._client.server, said, quirk) from error

    async def _stat_and_uidl(self) -> tuple[Pop3Reply, _Uidls]:
        client = self._client
        await client.settle()
        client.write(client.line("STAT") + client.line("UIDL"))
        stat = await client.reply()
        return stat, await self._read_uidls(await client.reply())

    async def _survey_all_at_once(self) -> Survey:
        """Ask STAT, UIDL and LIST in one go: far away it takes no longer than one of them."""
        client = self._client
        await client.settle()
        client.write(b"".join(map(client.line, ("STAT", "UIDL", "LIST"))))
        stat = await client.reply()
        uidl = await client.reply()
        listed = _Uidls(None, None)
        found = _STAT.match(stat.text) if stat.ok else None
        count, octets = (int(found[1]), int(found[2])) if found else (None, None)
        if uidl.ok or count != 0:
            listed = await self._read_uidls(uidl)
        sizes = await self._read_sizes(await client.reply())
        if count == 0 and not (listed.uidls and listed.uidls.lines):
            return Survey(0, octets, UidlListing(), sizes=sizes)
        if count is None and sizes:
            count = sizes.highest
        return await self._make_survey(stat, count, octets, listed, sizes)

    async def _survey_one_by_one(self) -> Survey:
        """Ask LIST, and UIDL if there is anything; STAT only where LIST does not tell."""
        reply, sizes = await self._list()
        if reply.ok and sizes.empty:
            return Survey(0, 0, UidlListing(), sizes=sizes)
        if not sizes:
            return replace(await self._survey(), sizes=sizes)
        listed = None if self.quirks.no_uidl else await self._uidl()
        return await self._make_survey(reply, sizes.highest, sizes.total, listed, sizes)

    async def _read_uidls(self, reply: Pop3Reply) -> _Uidls:
        """Return the listing of which this is the status line."""
        refused = "no_uidl" if "UIDL" in self.capabilities else None
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

    @property
    def _listing_bytes(self) -> int:
        return max(BODY_LIMIT, self._most * LINE_BYTES)

    async def _count_messages(self, stat: Pop3Reply) -> int:
        """Return how many messages LIST lists, where STAT does not say."""
        reply, sizes = await self._list()
        if not reply.ok and not any(_EMPTY.fullmatch(said) for said in (stat.text, reply.text)):
            said = "it answers neither STAT nor LIST with a number of messages"
            words = self._client.printable_text(stat if stat.text else reply)
            raise ServerFault(self._client.server, f"{said}: {words}")
        return sizes.highest

    async def _sizes_of(self, numbers: Sequence[int]) -> dict[int, int]:
        if self.quirks.no_list:
            return {}
        await self._client.settle()
        window = self._window("LIST", numbers, DELETE_WINDOW)
        found: dict[int, int] = {}
        while (number := window.next()) is not None:
            with self._or_without("LIST"):
                reply = await self._client.reply()
            size = _SIZE.match(reply.text) if reply.ok else None
            if size is None:
                continue
            if int(size[1]) != number:
                self._raise_mixed_up(number, reply)
            else:
                found[number] = int(size[2])
        return found

    def _raise_mixed_up(self, number: int, reply: Pop3Reply) -> None:
        """An answer to ``LIST n`` names another message: sent together, no answer is certain."""
        if self._pipelining:
            shown = self._client.printable_text(reply)
            said = f"its answer to LIST {number} is about another message: {shown}"
            raise PromiseBroken(self._client.server, said, "no_pipelining")

    def _window(self, verb: str, numbers: Iterable[int], most: int) -> Window:
        return Window(self._client, verb, numbers, most if self._pipelining else 1)


class _Uidls(NamedTuple):
    uidls: UidlListing | None
    quirk: str | None
