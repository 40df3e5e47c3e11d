"""One POP3 session of the fetch story, from the listing to QUIT.

The order of its steps is the law of durability: publish and confirm, then record, then forget the
UIDLs of what is to be deleted, then DELE and QUIT. Nothing is deleted that is not recorded, and
nothing recorded that is not confirmed, or not certain to be that message: what was retrieved in
this session, or was seen to be the same still (``deletion``).

A message is certain at once where its size is what LIST said; any other only when an answer in turn
has followed it, since one that ends too early (a dot not stuffed) or too late takes what comes
after it out of step; what was asked along with it waits for the same.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final

from services.fetcher.account import Account
from services.fetcher.commit_pipeline import CommitPipeline, TakenMessage
from services.fetcher.compare import FETCH_MOST
from services.fetcher.deletion import Deletion
from services.fetcher.imported import counts_as_delivered
from services.fetcher.interfaces import FetcherContext
from services.fetcher.internal_data import is_left
from services.fetcher.inventory import SIZES_VARY, Inventory, take_inventory
from services.fetcher.ledger_pages import LedgerPages
from services.fetcher.oversize import send_notices
from services.fetcher.pop3.client import FRAMED_LIMIT
from services.fetcher.pop3.session import Pop3Session, Retrieval
from services.fetcher.receive import MessageReceiver, ReceivedMessage, too_short
from services.fetcher.redownload import RedownloadBreaker
from services.fetcher.refused_messages import RefusedMessages
from services.fetcher.troubles import Blame, Troubles, blame_at
from services.fetcher.worklist import (
    ChangedSizes,
    FetchList,
    ListedMessage,
    PendingMessages,
    SafeMessage,
    Worklist,
    age,
)
from shared.errors import (
    Broken,
    NoRoom,
    PromiseBroken,
    ServerFault,
    Silent,
    SpoolUnavailable,
    TooLarge,
    Unreachable,
)
from shared.ledger import SKIP, is_imported

_CANNOT_SKIP: Final = (
    "messages without a UIDL cannot be skipped where mail is deleted at the server (keep): they are"
    " fetched"
)

_EXPIRES: Final = "the server deletes what was retrieved (EXPIRE 0), whatever keep says"

FULL: Final = 250
"""Messages of a listing in which all is new after which another one is looked at: no server that
shows but a part of a maildrop is known to show less."""

LOOK_AFTER: Final = 8
LOOK_AFTER_BYTES: Final = 1024 * 1024
"""Messages, or bytes of them, after which the room on our disks is looked at again."""


class Retriever:
    """One session with one maildrop.

    Args:
        account: whose maildrop it is.
        session: logged in.
        context: ledger, publisher and the rest.
        troubles: messages that could not be fetched before; told of further ones.
        deletion: told of what is to be deleted.
        sizes_vary: whether this server says other sizes of the same message.
        large: whether much is recorded of this maildrop.
        in_vain: sessions of this poll before it that broke and brought nothing; None where
            it is to fetch nothing.
        choice: of the operator, that is not done yet.
        adopt: whether all that is new counts as delivered.
        skip: whether all that is there counts as seen, and stays.
        breaker: judges what is new before it is published.
    """

    def __init__(
        self,
        account: Account,
        session: Pop3Session,
        context: FetcherContext,
        troubles: Troubles,
        deletion: Deletion,
        *,
        sizes_vary: bool,
        large: bool,
        in_vain: int | None,
        choice: str | None,
        adopt: bool,
        skip: bool,
        breaker: RedownloadBreaker,
    ) -> None:
        self._account = account
        self._session = session
        self._context = context
        self._troubles = troubles
        self._deletion = deletion
        self._pipelining = "PIPELINING" in session.capabilities
        self._receiver = MessageReceiver(account.name, context, self._is_kept)
        self._changed = ChangedSizes(0)
        self._waiting = PendingMessages()
        self._asked: dict[int, ListedMessage] = {}  # less what has come before what comes now
        self._count = 0  # of all that were asked for
        self._by_size: dict[int, int] = {}
        self._arriving: ListedMessage | None = None
        self._until = math.inf
        self._unnamed = 0  # messages without a UIDL
        self._unlooked = 0
        self._marks = 0
        self._unmarked: list[TakenMessage] = []  # since the server was last seen in step
        self._doubtful: list[TakenMessage] = []
        self._suspect: ListedMessage | None = None
        self._refusals = RefusedMessages(account.name, account.server, troubles, context.journal)
        self._came: ListedMessage | None = None  # a small one
        self._adopted: Container[str] = ()
        self._imported: dict[str, str] = {}  # what stands for the identities of those retrieved
        self._commits = CommitPipeline(
            account, context, self._note_recorded, self._delivered, breaker
        )
        self._breaker = breaker
        self._left_out: set[int] = set()
        self._too_large: list[ListedMessage] = []
        self._large = large
        self._in_vain = in_vain
        self._choice = choice
        self.adopt = adopt
        """Whether what is new counts as delivered; not any more once all that is written down."""
        self.skip = skip
        """Whether what is there counts as seen; likewise."""
        self._has_recorded = False
        self.found = 0
        self.listed = False
        """Whether the server has told what there is."""
        self._blame: Blame | None = None
        self.quirks: set[str] = {SIZES_VARY} if sizes_vary else set()
        """What has been learnt of the server."""
        self.notes: tuple[str, ...] = ()
        """What cannot be done as it should be, in words for the user."""
        self.failure: ServerFault | SpoolUnavailable | NoRoom | None = None
        """Why messages were left where they are, for a reason that is not theirs."""

    @property
    def fetched(self) -> int:
        """How many messages were new."""
        return self._commits.published

    @property
    def blame(self) -> Blame | None:
        """The message at which the session broke, None if it is not known, or did not break."""
        return self._blame or self._deletion.blame

    @property
    def brought(self) -> bool:
        """Whether another session has less to do: what has no UIDL is read anew by each."""
        return self.fetched > 0 or (self._has_recorded and not self._unnamed)

    async def run(self, known: LedgerPages) -> bool:
        """Do what there is to do, and quit; return whether something is left for another session.

        Args:
            known: what the ledger knows, on its way since before the login.

        Raises:
            ServerFault: the server failed; what is certain is published and recorded.
            SpoolUnavailable: a large message could not be kept; likewise.
            NoRoom: there was no room for a large message; likewise.
            BrokerUnavailable: a message could not be published; it stays on the server.
        """
        try:
            work = await self._work(known)
            left = await self._fetch(self._troubles.in_order(work.fetch, self._in_vain))
            await self._commits.commit_all()
            await self._check_line(work.due)
            # Last: on a line that always breaks, what is new comes first.
            unconfirmed = await self._confirm(work.due)
            await self._look_at(work.unlooked)
            await self._check_refusals()
            await self._commits.commit_all()
            if self._too_large and self._account.intake.notice_to is not None:
                some = self._too_large
                await send_notices(self._session, self._context, self._account, some)
            left = left or unconfirmed or (work.more and self._has_recorded)
            # What our side does not take would be asked for again, without end.
            left = left and (self.failure is None or self._has_recorded)
            left = left or self._may_show_more(work)
            await self._check_line(())
        except (ServerFault, SpoolUnavailable, NoRoom) as error:
            if not isinstance(error, PromiseBroken | NoRoom):
                self._find_fault(error)
            if not _is_mixed_up(error):  # else one may have passed for another
                # What came whole is kept. On a line that always breaks, it is how we get on at all.
                await self._add(self._unmarked)
            await self._commits.commit_all()
            raise
        finally:
            alone = 0 if self._came else self.found
            self.failure = self._refusals.judge(self.failure, alone)
            await self._commits.cancel()
        await self._deletion.delete_and_quit()
        return left

    def _may_show_more(self, work: Worklist) -> bool:
        """Return whether the server may have more than it has listed.

        Some show the oldest some hundred, or hide what was retrieved: then all that is listed is
        new, and there is much of it. The next session sees.
        """
        all_new = work.found >= FULL and len(work.fetch) == work.found and not work.unnamed
        return all_new and self._has_recorded and self.failure is None

    def _find_fault(self, error: Exception) -> None:
        """See which message it was at which the session broke while it was looked at."""
        suspect, at, deletion = self._suspect, self._session.at, self._deletion
        if isinstance(error, TooLarge) and not deletion.confirming:
            blame = blame_at(at, self._retrieved(), deletes=False)
            self._blame = blame and blame._replace(lasting=True)
        elif suspect is not None and not isinstance(error, Unreachable):
            self._blame = Blame(suspect.key, suspect.number, deletes=False)
        elif deletion.confirming:
            self._blame = blame_at(at, deletion.confirmed, deletes=True)
        else:
            blame = blame_at(at, self._retrieved(), deletes=False)
            self._blame = blame and blame._replace(exact=self._is_exact(blame, error))

    def _retrieved(self) -> list[ListedMessage]:
        """Return the messages at which a session that retrieves may have broken."""
        return [*self._asked.values(), *([self._came] if self._came else [])]

    def _is_exact(self, blame: Blame, error: Exception) -> bool:
        """Return whether it is this message that broke the session, and no chance.

        Nothing else was asked for, or it was in doubt before, or was silent for long, or broke off
        in the middle: then it was. If nothing of it had come, the server may have gone for another
        reason; and a connection that breaks while several answers are underway loses the first
        ones too.
        """
        if self._after_refusal():
            return False
        if self._troubles.doubted(blame.key) or self._count == 1 or isinstance(error, Silent):
            return True
        begun = self._arriving is not None and self._arriving.number == blame.number
        last = next(reversed(self._asked), 0) == blame.number
        return begun and (last or not isinstance(error, Broken))

    async def _check_line(self, due: Sequence[SafeMessage]) -> None:
        """After a refusal, see that the server has not hung up, before there is other work."""
        if self._after_refusal() and (due or self._deletion.messages):
            await self._session.round_trip()

    def _after_refusal(self) -> bool:
        """Return whether the last answer was a refusal: some servers refuse, and hang up then."""
        return self._arriving is not None and self._refusals.last is self._arriving

    async def _work(self, known: LedgerPages) -> Worklist:
        """Return what there is to do."""
        async with self._context.turns.turn() as turn:  # and with it goes what was listed
            inventory = await take_inventory(
                self._session,
                self._context.ledger,
                self._context.clock.now(),
                self._account,
                known,
                sizes_vary=SIZES_VARY in self.quirks,
                large=self._large,
                troubled=self._troubles.keys,
                turn=turn,
                most=self._context.limits.max_messages if self.skip else None,
            )
        self._note_inventory(inventory)
        work = inventory.work
        if self.skip:
            work = await self._skip_listed(work)
        elif self.adopt:
            work = await self._adopt_listed(work)
        self._adopted = work.adopted
        self._breaker.begin(len(work.fetch))
        if self._breaker.suspects_all and self._account.intake.newest_first:
            work = replace(work, fetch=work.fetch.backwards())
        self._left_out = await self._deletion.note_listed(work.fetch)
        return work

    async def _adopt_listed(self, work: Worklist) -> Worklist:
        """Write down at once that what is new counts as delivered: what comes later does not.

        What has no UIDL cannot be written down before it was retrieved; then the choice stands
        until a poll comes to its end, and beyond that for what could not be fetched, by its number.
        """
        sizes = {}
        if self._choice != SKIP:  # else those with a UIDL came after the first listing
            sizes = {one.uidl: one.size for one in work.fetch if one.uidl is not None}
        self.adopt = bool(work.more or work.unnamed)
        choice = None if self.adopt else self._choice
        await self._context.ledger.adopt(self._account.name, sizes, choice=choice)
        return replace(work, adopted=sizes.keys())

    async def _skip_listed(self, work: Worklist) -> Worklist:
        """Write down that what is there counts as seen: what comes later does not.

        What has no UIDL is known by its content alone: it is read, and counts as delivered. Where
        mail is deleted when its time is over, that would be lost then: so it is fetched.
        """
        name, ledger = self._account.name, self._context.ledger
        count = 0
        for page in work.fetch.pages(FETCH_MOST):
            sizes = {listed.uidl: listed.size for listed in page if listed.uidl is not None}
            await ledger.skip(name, sizes, choice=None)
            count += len(sizes)
        self.adopt = bool(work.unnamed) and self._account.keep == math.inf
        self.skip = False
        if not self.adopt:
            await ledger.skip(name, {}, choice=SKIP)
        if work.unnamed and not self.adopt:
            self.notes = (*self.notes, _CANNOT_SKIP)
        self._context.journal.note("what was there counts as seen", account=name, messages=count)
        return replace(work, fetch=work.fetch.unnamed())

    def _delivered(self, listed: ListedMessage, head: str) -> str | None:
        """Return why a message counts as delivered, None where it does not."""
        if counts_as_delivered(self._imported, listed.uidl, head):
            return "another program has fetched it"
        if listed.uidl is None:
            adopted = self.adopt or self._troubles.is_adopted(listed.key)
        else:
            adopted = listed.uidl in self._adopted
        return "account adopt" if adopted else None

    async def _confirm(self, due: Sequence[SafeMessage]) -> bool:
        """Have confirmed what is to be deleted, and retrieve again what stays in doubt.

        Returns:
            Whether some is left for another session.
        """
        unsure, more = await self._deletion.confirm(due)
        return await self._fetch_known(unsure) or more

    async def _look_at(self, unlooked: Sequence[SafeMessage]) -> None:
        """Learn by what to know messages that another program has fetched."""
        unseen = await self._deletion.look_at(unlooked)
        if self._account.keep < math.inf:
            await self._fetch_known(unseen)

    async def _fetch_known(self, messages: Sequence[SafeMessage]) -> bool:
        """Retrieve messages again; return whether some are left for another session."""
        imported = {safe.uidl: safe.id for safe in messages if safe.uidl and is_imported(safe.id)}
        self._imported.update(imported)
        in_order = self._troubles.in_order(FetchList.of([safe.listed for safe in messages]))
        return await self._fetch(in_order) if messages else False

    def _note_inventory(self, inventory: Inventory) -> None:
        self.found = inventory.work.found
        self.listed = True
        self._unnamed = inventory.work.unnamed
        self.notes = inventory.notes
        if self._session.capabilities.get("EXPIRE", ())[:1] == ("0",) and self._account.keep > 0:
            self.notes = (*self.notes, _EXPIRES)
        self._changed = inventory.work.changed
        if inventory.quirk is not None:
            self.quirks.add(inventory.quirk)
        self._troubles.keep_only(inventory.listed)

    async def _fetch(self, messages: Iterable[ListedMessage]) -> bool:
        """Retrieve messages; return whether some are left for another session."""
        self._waiting.extend(messages)
        if not self._asked:
            self._until = self._context.clock.monotonic() + self._seconds()
        while True:
            retrieving = self._session.retrieve(
                self._numbers(), self._by_size, self._account.max_size
            )
            async with aclosing(retrieving) as arriving:
                async for message in arriving:
                    await self._handle_arrival(message)
            await self._clear_doubts()
            if not self._waiting or self._enough():
                return bool(self._waiting)
            if self._no_room():
                return False

    @property
    def _starts_anew(self) -> bool:
        """Whether another session could not go on, as messages have no UIDLs."""
        return self._unnamed > 0 and self._account.keep > 0

    def _seconds(self) -> float:
        """Return for how many seconds messages are asked for in this session."""
        keep = self._account.keep
        if self._session.login_delay or self._starts_anew:
            return math.inf
        limits = self._context.limits
        return limits.session_seconds if keep < math.inf else limits.place_seconds

    def _numbers(self) -> Iterator[int]:
        """Yield messages to be asked for, until the session has to quit.

        Nothing is asked ahead of what is not certain: it may have taken the session out of step. A
        message that a session broke at before is asked for by itself: what breaks now breaks at it.
        """
        asked = alone = False
        troubles = self._troubles
        while (message := self._waiting.first) and not (self._enough() or alone):
            if self._finds_no_room():
                return
            if self._pipelining and self._suspect is not None:
                return
            alone = bool(troubles) and troubles.get(message.key) is not None
            if alone and asked:
                return
            self._waiting.take()
            if message.number in self._left_out:
                continue
            size = message.size or 0
            if size > self._account.max_size:
                said = f"LIST says {size} bytes, and max_size is {self._account.max_size}"
                self._troubles.pass_over(message.key, message.number, said)
                self._too_large.append(message)
                continue
            if 0 < size < FRAMED_LIMIT and troubles and troubles.tries(message.key):
                self._by_size[message.number] = size
            if message.number in self._changed and SIZES_VARY in self.quirks:
                continue  # as one message has shown, another size means nothing here
            if size > self._context.inline_limit and self._no_room(size):
                continue  # it keeps none of the others
            self._asked[message.number] = message
            self._count += 1
            self._unlooked += size or self._context.inline_limit
            asked = True
            yield message.number

    def _enough(self) -> bool:
        """Return whether a session has to quit: for its deletions to count, or to make room."""
        most = self._account.intake.max_per_session
        if most is not None and self._count >= most and not self._starts_anew:
            return True
        if self._until == math.inf:
            return False
        deletes = self._account.keep < math.inf
        many = deletes and self._count >= self._context.limits.session_messages
        return many or self._context.clock.monotonic() > self._until

    def _finds_no_room(self) -> bool:
        """Return whether a disk is full; a look at the disks is too dear for each message."""
        if self._count % LOOK_AFTER and self._unlooked < LOOK_AFTER_BYTES:
            return False
        self._unlooked = 0
        return self._no_room()

    def _no_room(self, size: int = 0) -> bool:
        """Return whether no more, or no message so large, is to be asked for."""
        lacking = self._context.lacking(size)
        if lacking is not None:
            self.failure = NoRoom(lacking)
        return lacking is not None

    async def _handle_arrival(self, retrieved: Retrieval) -> None:
        if not self._pipelining or self._marks < self._session.marks:
            await self._accept_certain()  # an answer in turn has followed
        listed = self._asked[retrieved.number]
        if self._arriving is not None and self._arriving.number != listed.number:
            self._asked.pop(self._arriving.number, None)
        self._arriving = listed
        if retrieved.refused is not None:
            # One message that the server will not hand over keeps none of the others.
            self._refusals.add(listed, retrieved.refused)
        else:
            await self._take(listed, retrieved)

    async def _check_refusals(self) -> None:
        """After many refusals, see whether the server hands over what it has handed over already.

        If so, it is these messages that it refuses; else it is all, as at the limit of a day.
        """
        if self._came is None or not self._refusals.many:
            return
        with suppress(Unreachable):
            async for retrieved in self._session.retrieve([self._came.number]):
                self._refusals.all = retrieved.refused is not None

    async def _take(self, listed: ListedMessage, retrieved: Retrieval) -> None:
        found = None if retrieved.whole is None else self._receiver.at_hand(retrieved.whole)
        if found is None:
            try:
                found = await self._receiver.take(retrieved.chunks())
            except SpoolUnavailable as error:
                # Nor does a large one that there is no room for.
                self.failure = error
                self._context.journal.spool_failed(error, self._account.name)
                return
        if self._changed.was(listed.number, found.id):
            self.quirks.add(SIZES_VARY)
        if not (fits := found.fits(listed.size)):
            found = self._receiver.less_a_status_line(found, listed.size)
            fits = found.fits(listed.size)
        if not fits:
            self._suspect = listed
            if self._comes_short(listed, found):
                return
        if self._came is None or (listed.size or 0) < (self._came.size or 0):
            self._came = listed
        taken = TakenMessage(listed, found, self._context.clock.now())
        if fits and not self._pipelining:
            await self._add([taken])
        elif fits and self._suspect is None:
            # Out of step, another message of the same size would pass for this one.
            self._unmarked.append(taken)
        else:
            self._doubtful.append(taken)

    def _comes_short(self, listed: ListedMessage, found: ReceivedMessage) -> bool:
        """Return whether to take a message for a refusal: nothing, or less than half of it.

        What is less than half is believed when it comes the same in another poll.
        """
        size, said = found.raw.size, listed.size
        if not too_short(size, said):
            return False
        if not found.blank and self._same_as_before(listed.key, found.id):
            return False
        what = f"{size} bytes came, where the server lists {said}"
        self._troubles.add(listed.key, listed.number, what, id_=found.id)
        return True

    def _same_as_before(self, key: str, id_: str) -> bool:
        trouble = self._troubles.get(key)
        return trouble is not None and trouble.id == id_

    async def _clear_doubts(self) -> None:
        """See that the server is in step after what is not certain yet: then it is whole."""
        if self._suspect is not None and self._marks == self._session.marks:
            await self._session.round_trip()
        if self._suspect is not None and not self._session.in_step:
            raise ServerFault(self._account.server, "it says more than it was asked for")
        await self._accept_certain()

    async def _accept_certain(self) -> None:
        doubtful, self._doubtful, self._suspect = self._doubtful, [], None
        self._marks = self._session.marks
        await self._add(self._unmarked)
        await self._add(doubtful)

    async def _add(self, taken: list[TakenMessage]) -> None:
        for one in taken:
            if is_left(one.found):
                await self._leave(one.listed)
            else:
                await self._commits.add(one)
        taken.clear()

    async def _leave(self, listed: ListedMessage) -> None:
        """Leave a mail server's own message where it is, and do not read it again."""
        name = self._account.name
        if listed.uidl is not None:
            await self._context.ledger.skip(name, {listed.uidl: listed.size}, choice=None)
        self._troubles.settle([listed.key])
        self._context.journal.note(
            "no mail, but a mail server's own data: it is left", account=name, number=listed.number
        )

    async def _is_kept(self, id_: str, head: str, size: int) -> bool:
        listed = self._arriving
        short = listed is not None and too_short(size, listed.size)
        if short and listed is not None and not self._same_as_before(listed.key, id_):
            return False
        if listed is not None and self._delivered(listed, head) is not None:
            return False
        return await self._commits.is_new(id_)

    def _note_recorded(self, taken: TakenMessage, since: float) -> None:
        """Take note of a message that is safe, and known since some time."""
        listed, found = taken.listed, taken.found
        self._has_recorded = True
        troubled = bool(self._troubles)
        if troubled:
            self._troubles.settle([listed.key])
        due = age(since, self._context.clock.now()) >= self._account.keep
        if due and not (troubled and self._troubles.left_alone(listed.key, deletes=True)):
            self._deletion.messages.append(
                SafeMessage(listed.number, listed.uidl, found.id, listed.size, found.head)
            )


def _is_mixed_up(error: Exception) -> bool:
    """Return whether answers were lost or mixed up; a line that just breaks does neither."""
    cause = error.__cause__
    cut = isinstance(cause, Unreachable) and not isinstance(cause, Silent)
    return isinstance(error, PromiseBroken) and not cut
