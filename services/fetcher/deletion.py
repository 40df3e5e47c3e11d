"""What one session deletes at the server, and how it makes sure that nothing else goes.

Only what is safe with us is deleted. What was retrieved in an earlier session is first seen to be
that message still: its header block, as TOP shows it, is compared with the hash of the one that
came. Where there is no telling (TOP is refused, or nothing was recorded), the message is retrieved
again, which tells for certain. It costs the bytes of a header block for each message that is
deleted late, and at a server that offers PIPELINING one round trip for 64 of them. UIDLs are
forgotten before DELE and QUIT: once the server has deleted, it may give them anew, whether or not
we hear of it. Deletions count when QUIT was answered ``+OK`` (RFC 1939 section 6); some servers say
so and delete nothing, so what is there again in the next session of the poll is not fetched again.
What the server refuses to delete is recorded, and is a trouble.

Known limits: another message with the same UIDL and header block passes for the one that came.
Where the session breaks at one of several deletions that were sent together, nobody knows which of
them the server could not do (``unclear``); the next session sends one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Final

from services.fetcher.imported import look_at
from services.fetcher.interfaces import FetcherContext
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.shown_heads import show_heads
from services.fetcher.troubles import Blame, Troubles, blame_at
from services.fetcher.worklist import FetchList, SafeMessage
from shared.errors import ServerFault
from shared.failpoint import reach
from shared.ledger import LedgerEntry
from shared.log import printable

CONFIRM_MOST: Final = 1_000
"""Messages of earlier sessions that one session confirms and deletes; the next one goes on."""


class Deletion:
    """The deletions of one session.

    Args:
        account: its name.
        session: logged in.
        context: ledger, publisher and the rest.
        troubles: messages that could not be deleted before; told of further ones.
        carefully: delete one message after the other, to see at which one the server breaks.
        confirm_most: messages of earlier sessions that are confirmed and deleted, at the most.
        before: what the session of this poll before it has deleted, by UIDL.
        again: UIDLs of what earlier ones have deleted, and it was there again.

    Attributes:
        messages: what is to be deleted.
        confirmed: messages that are being confirmed, or have been.
        confirming: how many are just being confirmed.
        done: what the server took the deletion of, by UIDL.
        still_there: the UIDLs of those that were deleted before and are listed all the same.
        unclear: whether the server broke at one of several deletions, and nobody knows which.
        blame: the message at whose deletion it broke, None if that is not known, or it did not.
    """

    def __init__(
        self,
        account: str,
        session: Pop3Session,
        context: FetcherContext,
        troubles: Troubles,
        *,
        carefully: bool,
        confirm_most: int,
        before: Mapping[str, SafeMessage],
        again: Container[str],
    ) -> None:
        self._account = account
        self._session = session
        self._context = context
        self._troubles = troubles
        self._carefully = carefully
        self._confirm_most = confirm_most
        self._before = before
        self._again = again
        self.messages: list[SafeMessage] = []
        self.confirmed: Sequence[SafeMessage] = ()
        self.confirming = 0
        self.done: dict[str, SafeMessage] = {}
        self.still_there: list[str] = []
        self.unclear = False
        self.blame: Blame | None = None

    async def note_listed(self, fetch: FetchList) -> set[int]:
        """Return the numbers of what the session before has deleted, and is there again.

        Some servers say +OK to all of it, and delete nothing: the others would not have their turn.
        The next poll sees whether it is the same, and deletes it once more.

        Args:
            fetch: messages that the ledger does not know.
        """
        if not self._before:
            return set()
        again, numbers = [], set[int]()
        for uidl, index in fetch.indexes(self._before.keys()).items():
            listed, safe = fetch.at(index), self._before[uidl]
            if listed.size == safe.size:
                again.append(safe)
                numbers.add(listed.number)
        await self._record(again)
        self.still_there = [safe.uidl for safe in again if safe.uidl is not None]
        return numbers

    async def look_at(self, unlooked: Sequence[SafeMessage]) -> list[SafeMessage]:
        """Learn by what to know imported messages when they are to be deleted.

        Returns:
            Those of which TOP shows nothing; of very many, the others are for other polls.
        """
        self.confirmed = unlooked[: self._confirm_most]
        self.confirming = len(self.confirmed)
        unseen = await look_at(self._session, self._context.ledger, self._account, self.confirmed)
        self.confirming = 0
        return unseen

    async def confirm(self, due: Sequence[SafeMessage]) -> tuple[list[SafeMessage], bool]:
        """See that what is to be deleted later than it was retrieved is that message still.

        Args:
            due: messages that the ledger knows, and whose time on the server is over.

        Returns:
            What stays in doubt, to be retrieved again; and whether some is left for another
            session.
        """
        left_alone = self._troubles.left_alone
        due = [safe for safe in due if safe.uidl not in self._again]
        due = [safe for safe in due if not left_alone(safe.uidl or "", deletes=True)]
        self.confirmed = due[: self._confirm_most]
        self.confirming = len(self.confirmed)
        sure = await self._find_unchanged()
        self.confirming = 0
        self.messages += sure
        numbers = {safe.number for safe in sure}
        unsure = [safe for safe in self.confirmed if safe.number not in numbers]
        return unsure, len(due) > self._confirm_most

    async def _find_unchanged(self) -> list[SafeMessage]:
        """Return which of those to be confirmed are without doubt what the ledger takes them for.

        Raises:
            ServerFault: the session broke; ``session.at`` says at which message.
        """
        uidls = [safe.uidl for safe in self.confirmed if safe.uidl is not None]
        heads = await self._context.ledger.heads(self._account, uidls) if uidls else {}
        asked = {safe.number: safe for safe in self.confirmed if safe.uidl in heads}
        shown: dict[int, str] = {}
        await show_heads(self._session, list(asked), shown)
        return [
            safe._replace(head=shown[number])
            for number, safe in asked.items()
            if shown.get(number) == heads[safe.uidl or ""]
        ]

    async def delete_and_quit(self) -> None:
        """Delete what is to be deleted, and quit.

        Raises:
            ServerFault: the server did not delete all of it, or nobody knows.
        """
        perhaps = self.messages if self._carefully or self._troubles else ()
        risky = [safe for safe in perhaps if self._carefully or self._is_risky(safe)]
        alone = {safe.number for safe in risky}
        rest = [safe.number for safe in self.messages if safe.number not in alone]
        accepted = await self._delete_each(risky)
        try:
            await self._forget(accepted.union(rest))
            accepted.update(await self._session.quit(rest))
        except ServerFault:
            several = bool(self._session.at) and len(rest) > 1
            self.unclear = several or bool(rest and self._session.kept)
            if self.blame is None and not self.unclear:
                self.blame = blame_at(self._session.at, self.messages, deletes=True)
            raise
        self._troubles.settle([safe.key for safe in risky if safe.number in accepted], deletes=True)
        self._troubles.move_up(accepted)
        await self._remember_kept([safe for safe in self.messages if safe.number not in accepted])
        for safe in self.messages:
            if safe.number in accepted:
                if safe.uidl:
                    self.done[safe.uidl] = safe
                self._context.journal.removed(safe.id, self._account, safe.uidl or "")

    def _is_risky(self, safe: SafeMessage) -> bool:
        trouble = self._troubles.get(safe.key)
        return trouble is not None and trouble.deletes

    async def _delete_each(self, risky: Sequence[SafeMessage]) -> set[int]:
        """Delete messages one after the other: should one break the session, it is known which.

        After a refusal it is the refused one. Their UIDLs are still known then; without QUIT,
        nothing is deleted.
        """
        accepted: set[int] = set()
        for safe in risky:
            self.blame = self.blame or Blame(safe.key, safe.number, deletes=True)
            if done := await self._session.delete([safe.number]):
                accepted.update(done)
                self.blame = None
        return accepted

    async def _forget(self, numbers: Collection[int]) -> None:
        uidls = [safe.uidl for safe in self.messages if safe.uidl and safe.number in numbers]
        if uidls:
            await self._context.ledger.forget(self._account, uidls)
            reach("fetcher", "forgotten")

    async def _remember_kept(self, refused: Sequence[SafeMessage]) -> None:
        """Remember what the server would not delete, so that it is not fetched again."""
        if not refused:
            return
        await self._record(refused)
        said = f"DELE is refused: {printable(self._session.kept)}"
        for safe in refused:
            self._troubles.add(safe.key, safe.number, said, deletes=True)

    async def _record(self, messages: Sequence[SafeMessage]) -> None:
        entries = [
            LedgerEntry(s.uidl, s.id, s.size, s.head) for s in messages if s.uidl is not None
        ]
        await self._context.ledger.record(self._account, entries)
