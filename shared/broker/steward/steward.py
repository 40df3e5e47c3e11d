"""The operator's side of RabbitMQ, over kombu: declare, count, look, move, drop. Blocking.

It looks into a queue by taking its messages without acknowledging them (``look``). What it
moves is confirmed at its destination before it is acknowledged here: interrupted at any point, a
message may be in both places, and is never in none. So it is with a bundle, an entry of several
messages, of which some are moved or dropped: the others get entries of their own in the same queue.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from shared.broker import CONNECTOR, Onward, Send, Stored, topology, unnoticed
from shared.broker.steward import mark as steward_mark
from shared.broker.steward.declared_queues import NAMED, remember, remembered
from shared.broker.steward.entries import PendingMoves, QueueEntry, stored_in
from shared.broker.steward.look import Look, looking
from shared.broker.steward.migration import Migration
from shared.broker.steward.node import Node
from shared.broker.steward.outgoing import outgoing
from shared.broker.steward.topology_lock import exclusive, require_none_moving
from shared.broker.steward.whole_queues import WholeQueues, declare_passive, require_answer
from shared.broker.steward.withheld import Ask, Withheld
from shared.errors import Refused
from shared.log import Report, printable, silent
from shared.queues import DECLARED, HELD, MARK, POLL, Tier, plan, reachable

T = TypeVar("T")

SENDER: Final = "postmaster"
SETTLING: Final = 45.0
"""Seconds after which a message that nobody could see can be seen: a stage that was told to stop
finishes what it has in hand within 30, and a retry tier passes a message on in milliseconds."""
_OUTWARDS: Final = ("failed", "quarantine", "retry", "work")
"""Kinds of queues in the order in which messages move without a stage, by an operator or a timer:
looked into in this order, one that moves meanwhile is seen in either place."""
_KEPT: Final = ("failed", "quarantine")
_TURN: Final = 0.01
_RETURNING: Final = 100
"""Turns to wait until a quorum queue, which takes things back in its own time, has done so."""


class KombuSteward:
    """A ``shared.broker.Steward`` over RabbitMQ 3.10 or later. It connects when first needed.

    To look into a work queue counts as handing its messages out once; failed queues and quarantine
    are declared so that it does not matter how often somebody looks.

    Args:
        urls: ``amqp://user:password@host:port/vhost``, or ``amqps://``; or one for each node.
        tiers: the retry tiers of the topology.
        ca_file: the authority that TLS trusts; the system's store if None.
        report: is told of what this waits for, and of mail in queues that carry none.
        names: of this connector: the one that it has, then those that it had before.
        require_harmless: raises where a look into the queue of this name would lose messages.
        ask: returns queues as RabbitMQ describes them; None where nobody may be asked.

    Raises:
        ConfigError: the URL or the file is wrong.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        tiers: Sequence[Tier],
        ca_file: str | None = None,
        report: Report = silent,
        names: Sequence[str] = (CONNECTOR,),
        require_harmless: Callable[[str], object] = str,
        ask: Ask | None = None,
    ) -> None:
        self._node = Node(urls, ca_file, SENDER)
        self._report = report
        self._tiers = tiers
        self._names = names
        self._require_harmless = require_harmless
        self._ask = ask
        self._queues = plan(tiers)
        self._reach = frozenset(reachable(SENDER, self._queues))

    def declare(self) -> Sequence[str]:
        """See ``Steward.declare``.

        Raises:
            ConfigError: as there; or a ``migrate`` was begun, and has not come to its end.
            BrokerUnavailable: the broker does not answer, or a ``migrate`` is running.
        """
        with self._node.translate_errors("the topology"):
            connection = self._node.connection()
            with exclusive(connection):
                require_none_moving(connection, self._tiers)
                outdated = topology.declare(connection, self._tiers)
                names = (*(spec.name for spec in self._queues), HELD, NAMED + self._names[0])
                remember(connection, names, self._report)
                steward_mark.declare(connection, self._report)
            return outdated

    def outdated(self) -> Sequence[str]:
        """See ``Steward.outdated``."""
        with self._node.translate_errors("the topology"):
            return self._migration(str).preview()

    def foreign(self) -> Sequence[str]:
        """See ``Steward.foreign``."""
        with self._node.translate_errors("the topology"):
            connection = self._node.connection()
            specs = topology.every(self._tiers)
            return [spec.name for spec in specs if topology.is_foreign(connection, spec)]

    def migrate(self, say: Callable[[str], None]) -> int:
        """See ``Steward.migrate``.

        Raises:
            Refused: as there.
            ConfigError: access is refused, or a queue has arguments of no version.
            BrokerUnavailable: the broker does not answer. Whatever was raised, each message is in
                its queue or beside it, and ``migrate`` goes on from there.
        """
        with self._node.translate_errors("the topology"):
            return self._migration(say).run()

    def _migration(self, say: Callable[[str], object]) -> Migration:
        withheld = Withheld(self._ask, say)
        return Migration(WholeQueues(self._node.connection()), self._tiers, say, withheld)

    def depths(self) -> Mapping[str, int | None]:
        """See ``Steward.depths``; a queue that does not answer is BrokerUnavailable, too."""
        return {spec.name: self._depth(spec.name) for spec in self._queues}

    def strays(self) -> Mapping[str, int]:
        """See ``Steward.strays``."""
        counts = {name: self._depth(name) for name in self._beside()}
        return {name: count for name, count in counts.items() if count}

    def looked_into(self) -> Sequence[str]:
        """See ``Steward.looked_into``: only a command consumes what no stage does."""
        unworked = [spec.name for spec in self._queues if spec.kind != "work"]
        found = ((name, self._declare_passive(name)) for name in (*unworked, *self._beside()))
        return [name for name, said in found if said is not None and said.consumer_count]

    def neighbours(self) -> Sequence[str]:
        """See ``Steward.neighbours``."""
        with self._node.translate_errors(f"queue {DECLARED}"):
            found = remembered(self._node.connection())
        names = {name.removeprefix(NAMED) for name in found if name.startswith(NAMED)}
        return sorted(names.difference(self._names))

    def mark(self) -> bytes | None:
        """Return the mark of who filled the queues, None where there is none.

        Raises:
            ConfigError: an older version declared the topology, or this user may not look.
            BrokerUnavailable: the broker does not answer.
        """
        with self._node.translate_errors(f"queue {MARK}"):
            return steward_mark.read(self._node.connection())

    def set_mark(self, sender: str, change: Callable[[bytes | None], str]) -> None:
        """Put a mark in the place of the one that is there, over the exchange of a sender.

        Args:
            sender: whose.
            change: returns the mark, given the one that is there.

        Raises:
            ConfigError: an older version declared the topology, or this user may not write it.
            BrokerUnavailable: the broker does not take it.
        """
        with self._node.translate_errors(f"queue {MARK}"):
            steward_mark.write(self._node.connection(), sender, change, self._report)

    def browse(self, queue: str) -> Iterator[Stored]:
        """See ``Steward.browse``; nobody else can reach the messages until the iteration ends.

        Raises:
            ConfigError: there is no such queue.
            BrokerUnavailable: the broker does not answer, or others look into it for too long.
        """
        yield from self._browse(queue, alone=self._is_kept(queue))

    def everything(self) -> Iterator[Stored]:
        """See ``Steward.everything``.

        It looks twice, ``SETTLING`` seconds apart. Queues that were declared once, and are no
        longer, count too. Of those who do so at once, each sees all: they wait for each other.
        """
        busy = frozenset(self.consumers())
        yield from self._look_everywhere(busy)
        self.close()  # a proxy in between may end what says nothing for so long
        time.sleep(SETTLING)
        yield from self._look_everywhere(busy.union(self.consumers()))

    def consumers(self) -> Mapping[str, int]:
        """See ``Steward.consumers``: those of the work queues."""
        work = [spec.name for spec in self._queues if spec.kind == "work"]
        found = {name: self._declare_passive(name) for name in work}
        counts = {name: int(said.consumer_count) for name, said in found.items() if said}
        return {name: count for name, count in counts.items() if count}

    def move(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        onward: Onward,
        moved: Callable[[Stored], None] = unnoticed,
    ) -> int:
        """See ``Steward.move``.

        Raises:
            ConfigError: there is no such queue.
            Refused: a destination takes no messages, or does not exist.
            BrokerUnavailable: the broker does not answer. Whatever was raised, what was not moved
                by then is where it was.
        """
        count = 0

        def decide(stored: Stored) -> Send | None:
            sent = onward(stored)
            if sent is not None and sent.queue not in self._reach:
                raise Refused(printable(sent.queue), "no mail can be moved there")
            return sent

        for entry in self._take(queue, message_ids, decide, lambda sent: sent):
            for stored, _ in entry.taken:
                count += 1
                moved(stored)
        return count

    def drop(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        note: Callable[[Stored], T | None],
    ) -> list[T]:
        """See ``Steward.drop``."""
        entries = self._take(queue, message_ids, note, lambda _: None)
        return [said for entry in entries for _, said in entry.taken]

    def close(self) -> None:
        """See ``Steward.close``."""
        self._node.close()

    def _take(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        decide: Callable[[Stored], T | None],
        sent: Callable[[T], Send | None],
    ) -> Iterator[QueueEntry[T]]:
        """Acknowledge entries, when all that is to follow from their messages is confirmed.

        Args:
            queue: where they are.
            message_ids: the ids of the messages that are asked about, None for all.
            decide: returns what becomes of a message, None for one that stays.
            sent: returns what is published in its place, None for nothing.

        Yields:
            Each entry of which a message was taken.
        """
        wanted = None if message_ids is None else frozenset(message_ids)
        with (
            self._looking(queue, alone=self._is_kept(queue)) as look,
            self._node.translate_errors(f"queue {queue}"),
            outgoing(self._node.connection(), SENDER) as out,
        ):
            pending: PendingMoves[T] = PendingMoves(look, out)
            try:
                for message in look.messages():
                    entry: QueueEntry[T] = QueueEntry(message, [], [])
                    for stored in stored_in(message, queue, self._queues):
                        asked = wanted is None or stored.message_id in wanted
                        entry.decide(stored, decide(stored) if asked else None)
                    if entry.taken:
                        pending.add(entry, sent)
                    if pending.is_full:
                        yield from pending.settle()
            except Refused:
                yield from pending.settle()
                raise
            yield from pending.settle()

    def _browse(self, queue: str, *, alone: bool) -> Iterator[Stored]:
        with self._looking(queue, alone=alone) as look:
            for message in look.messages():
                yield from stored_in(message, queue, self._queues)

    def _look_everywhere(self, busy: Container[str]) -> Iterator[Stored]:
        """Look into each queue that carries mail; ``busy`` are those that stages consume."""
        for spec in sorted(self._queues, key=lambda spec: _OUTWARDS.index(spec.kind)):
            if spec.name != POLL and self._depth(spec.name) is not None:
                yield from self._browse(spec.name, alone=spec.name not in busy)
        for name in self._beside():
            if self._depth(name) is not None:
                yield from self._browse(name, alone=True)

    def _beside(self) -> list[str]:
        """Return the names of queues that were declared once, and are in no topology now."""
        named = {spec.name for spec in self._queues}
        with self._node.translate_errors(f"queue {DECLARED}"):
            others = remembered(self._node.connection()) - named
        return sorted(name for name in others if not name.startswith(NAMED))

    def _is_kept(self, queue: str) -> bool:
        return any(spec.name == queue and spec.kind in _KEPT for spec in self._queues)

    def _depth(self, queue: str) -> int | None:
        found = self._declare_passive(queue)
        if found is None:
            return None
        if not found.message_count and not found.consumer_count:
            with self._node.translate_errors(f"queue {queue}"):
                require_answer(self._node.connection(), queue)
        return int(found.message_count)

    def _declare_passive(self, queue: str) -> Any:
        """Return what the broker says of a queue, None where there is none of this name."""
        with self._node.translate_errors(f"queue {queue}"):
            return declare_passive(self._node.connection(), queue)

    @contextmanager
    def _looking(self, queue: str, *, alone: bool) -> Iterator[Look]:
        """Look into a queue; what is not taken goes back, and is there again at the end."""
        self._require_harmless(queue)
        look: Look | None = None
        try:
            with (
                self._node.translate_errors(f"queue {queue}"),
                looking(
                    self._node.connection(), queue, SENDER, alone=alone, report=self._report
                ) as look,
            ):
                yield look
        finally:
            if look is not None and look.found and self._node.connected:
                self._await_return(queue, look.found - look.taken)

    def _await_return(self, queue: str, left: int) -> None:
        for _ in range(_RETURNING):
            found = self._declare_passive(queue)
            if found is None or int(found.message_count) >= left:
                return
            time.sleep(_TURN)
