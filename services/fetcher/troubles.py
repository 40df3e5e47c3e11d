"""Messages that could not be fetched, or not be deleted: what is tried when, and what is said.

One message must not hold up the others. What broke last time comes last; after some tries it is
left alone for a day. How often it was tried counts polls, not sessions.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from services.fetcher.broken_sessions import FROM_THE_FRONT, elsewhere
from services.fetcher.worklist import FetchList, ListedMessage, SafeMessage
from shared.ledger import ADOPTED, MessageTrouble
from shared.log import printable

TRIES: Final = 3
"""Polls that try, one after the other, before a message is left alone."""

LEFT_FOR: Final = 86_400.0
"""Seconds for which it is left alone then."""

ALL_LEFT_FOR: Final = 3_600.0
"""The same, where all there is is refused: then it may be the server's trouble, and an account at a
server in trouble is tried after an hour at most."""

NAMED: Final = 3
"""Messages that are named in a sentence; the others are counted."""

KEPT: Final = 200
"""Troubles of one account that are remembered; beyond these, a maildrop has another trouble."""


class Blame(NamedTuple):
    """The message at which a session broke.

    Attributes:
        deletes: it is safe with us; it was to be deleted.
        exact: False where it may have been one of those that were asked for after it.
        lasting: True where another try would end the same.
    """

    key: str
    number: int
    deletes: bool
    exact: bool = True
    lasting: bool = False


class Troubles:
    """The troubles of one account, during a poll.

    Args:
        known: from earlier polls, by key.
        now: seconds since 1970 (UTC).
    """

    def __init__(self, known: Mapping[str, MessageTrouble], now: float) -> None:
        self._known = dict(known)
        self._now = now
        self._tried: set[str] = set()
        self._doubted: set[str] = set()
        # Of very many in one poll, the rest is left alone in it, and counted.
        self._beyond: dict[bool, set[str]] = {False: set(), True: set()}
        self._unnamed = 0
        self._new: dict[str, MessageTrouble] = {}
        self._over: set[str] = set()
        self._passed: list[MessageTrouble] = []
        self._passed_over = 0

    def __len__(self) -> int:
        """Return with how many messages there is trouble, of very many with some of them."""
        return len(self._known)

    @property
    def keys(self) -> Collection[str]:
        """The keys of these."""
        return self._known.keys()

    def get(self, key: str) -> MessageTrouble | None:
        """Return what is known of a message, None where there is no trouble with it."""
        return self._known.get(key)

    def left_alone(self, key: str, *, deletes: bool = False) -> bool:
        """Return whether not to try a message (or its deletion) now: in this poll, or for a day."""
        trouble = self._known.get(key)
        if trouble is None or trouble.deletes is not deletes:
            return key in self._beyond[deletes]
        return key in self._tried or self._now < trouble.until < self._now + 2 * LEFT_FOR

    def doubted(self, key: str) -> bool:
        """Return whether a session of this poll has broken at this message, perhaps."""
        return key in self._doubted

    def in_order(self, messages: FetchList, in_vain: int | None = 0) -> Iterator[ListedMessage]:
        """Yield the messages that are to be tried: what broke last time comes last.

        Args:
            messages: from the front of the maildrop.
            in_vain: sessions of this poll that brought nothing, one after the other; None where no
                message is to be tried.
        """
        if in_vain is None:
            return iter(())
        if not self._known and in_vain < FROM_THE_FRONT:
            return iter(messages)
        indexes = messages.indexes(self._known.keys() | self._beyond[False])
        alone = {index for key, index in indexes.items() if self.left_alone(key)}
        tries = {index: self.tries(key) for key, index in indexes.items()}
        late = {index for index in tries if tries[index] and index not in alone}
        every = range(len(messages))
        order = elsewhere(array("I", (index for index in every if index not in alone)), in_vain)
        first = (index for index in order if index not in late)
        last = sorted((index for index in order if index in late), key=tries.__getitem__)
        return map(messages.at, chain(first, last))

    def tries(self, key: str) -> int:
        """Return how many polls in a row could not fetch a message."""
        trouble = self._known.get(key)
        return 0 if trouble is None or trouble.deletes else trouble.tries

    def add(
        self,
        key: str,
        number: int,
        reason: str,
        *,
        id_: str | None = None,
        deletes: bool = False,
        counts: bool = True,
        again: bool = False,
        lasting: bool = False,
    ) -> None:
        """Note that a message could not be fetched, or not be deleted.

        Args:
            key: what tells it from the others.
            number: in this session.
            reason: what happened, fit to be shown.
            id_: the identity of what came in its place.
            deletes: it was its deletion that failed.
            counts: whether it was a try, and not perhaps the line that failed.
            again: whether to try it once more in this poll, after all others: it may not have been
                this one.
            lasting: another try would end the same: it is left alone at once.
        """
        before = self._known.get(key)
        same = before is not None and before.deletes is deletes
        earlier = before.tries if same and before is not None else 0
        tries = TRIES if lasting else max(1, earlier + (counts and key not in self._tried))
        adopted = before is not None and before.id == ADOPTED
        until = self._now + LEFT_FOR if tries >= TRIES else self._now if adopted else 0.0
        if before is None and len(self._new) >= KEPT:
            self._beyond[deletes].add(key)
            return
        (self._doubted if again else self._tried).add(key)
        self._over.discard(key)
        trouble = MessageTrouble(
            key, number, tries, until, reason, ADOPTED if adopted else id_, deletes
        )
        self._known[key] = self._new[key] = trouble

    def add_very_many(self, uidls: Iterable[str], unnamed: int) -> None:
        """Note that many more could not be fetched; they are tried again in the next poll.

        Args:
            uidls: of those that have one: in this poll they are left alone.
            unnamed: how many have none.
        """
        self._beyond[False].update(uidls)
        self._unnamed = max(self._unnamed, unnamed)  # in another session they are the same

    def is_adopted(self, key: str) -> bool:
        """Return whether a message counts as delivered, once it can be fetched."""
        trouble = self._known.get(key)
        return trouble is not None and trouble.id == ADOPTED

    def adopt(self) -> Sequence[MessageTrouble] | None:
        """Have what could not be fetched, and has no UIDL, count as delivered once it can be.

        Returns:
            These, to be recorded; None where there are more than can be told apart.
        """
        if self._unnamed or any(map(_is_unnamed, self._beyond[False])):
            return None
        some = [t for t in self._known.values() if _is_unnamed(t.key) and not t.deletes]
        # Of what is not left alone, too, the moment is one at which nothing is pruned.
        these = [t._replace(id=ADOPTED, until=max(t.until, self._now)) for t in some]
        self._known.update({trouble.key: trouble for trouble in these})
        return these

    def move_up(self, deleted: Collection[int]) -> None:
        """Follow messages without a UIDL whose numbers are others, as some before them are gone."""
        before = {t.key: t for t in self._known.values() if _is_unnamed(t.key)}
        if not before or not deleted:
            return
        for key in before:
            del self._known[key]
            self._new.pop(key, None)
            self._over.add(key)
        tried = self._tried.intersection(before)
        self._tried -= tried
        for key, trouble in before.items():
            if trouble.number in deleted:
                continue
            number = trouble.number - sum(gone < trouble.number for gone in deleted)
            moved = trouble._replace(key=f" {number} {key.rpartition(' ')[2]}", number=number)
            self._known[moved.key] = self._new[moved.key] = moved
            if key in tried:
                self._tried.add(moved.key)
        self._over.difference_update(self._known)

    def note_all_refused(self, keys: Iterable[str], found: int) -> None:
        """Note that these were refused, and nothing was handed over: sooner if that is all.

        Args:
            keys: of messages that were added.
            found: how many messages the maildrop has.
        """
        bad = sum(not trouble.deletes for trouble in self._known.values())
        if bad < found:
            return
        for key in keys:
            trouble = self._known.get(key)
            if trouble is not None and trouble.until > self._now + ALL_LEFT_FOR:
                sooner = trouble._replace(until=self._now + ALL_LEFT_FOR)
                self._known[key] = self._new[key] = sooner

    def pass_over(self, key: str, number: int, reason: str) -> None:
        """Note that a message is not asked for in this session, for what the server says of it.

        It is told, and not remembered: each session sees it anew.
        """
        self._passed_over += 1
        if len(self._passed) < NAMED:
            self._passed.append(MessageTrouble(key, number, 0, 0.0, reason))

    def settle(self, keys: Iterable[str], *, deletes: bool = False) -> None:
        """Note that there is no trouble with these any more."""
        if not self._known:
            return
        for key in keys:
            trouble = self._known.get(key)
            if trouble is not None and trouble.deletes is deletes:
                del self._known[key]
                self._new.pop(key, None)
                self._over.add(key)

    def keep_only(self, listed: Collection[str]) -> None:
        """A session begins: forget the trouble with messages that the server lists no longer."""
        self._passed, self._passed_over = [], 0
        gone = [key for key in self._known if key not in listed]
        for deletes in (False, True):
            self.settle(gone, deletes=deletes)

    def to_record(self) -> Sequence[MessageTrouble]:
        """Return what is new since the last time that this was asked."""
        new, self._new = list(self._new.values()), {}
        return new[:KEPT]

    def to_forget(self) -> Sequence[str]:
        """Return the keys of what is over since the last time that this was asked."""
        over, self._over = list(self._over), set()
        return over

    def sentences(self) -> list[str]:
        """Return what is left undone, a sentence each."""
        sentences = []
        for deletes, what in ((False, "fetched"), (True, "deleted at the server")):
            some = [t for t in self._known.values() if t.deletes is deletes]
            total = len(some) + len(self._beyond[deletes])
            if not deletes:
                some = [*some[:NAMED], *self._passed]
                total += self._passed_over + self._unnamed
            if some:
                count = "1 message" if total == 1 else f"{total} messages"
                named = "; ".join(_named(trouble) for trouble in some[:NAMED])
                more = f"; and {total - NAMED} more" if total > NAMED else ""
                sentences.append(f"{count} cannot be {what}: {named}{more}")
        return sentences


def blame_at(
    at: int, among: Iterable[ListedMessage | SafeMessage], *, deletes: bool
) -> Blame | None:
    """Return which of these messages a session broke at, None if it is none of them.

    Args:
        at: the number of the one whose answer was awaited (``Pop3Session.at``).
        among: the messages.
        deletes: whether they were to be deleted.
    """
    found = next((message for message in among if message.number == at), None)
    return None if found is None else Blame(found.key, found.number, deletes)


def _is_unnamed(key: str) -> bool:
    return key.startswith(" ")


def _named(trouble: MessageTrouble) -> str:
    uidl = "" if trouble.key.startswith(" ") else f" (UIDL {printable(trouble.key, 80)})"
    return f"message {trouble.number}{uidl}: {trouble.reason}"
