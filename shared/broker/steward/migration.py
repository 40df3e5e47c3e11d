"""Gives queues that an earlier version declared the arguments of this one; their messages stay.

RabbitMQ changes no queue's arguments, and renames none. So the messages of a queue go to a queue
beside it, one by one, each confirmed there before it is acknowledged here; the queue is deleted
when nothing is in it, declared anew, and gets them back in their order. Killed at any point, each
message is in one of the two, at worst in both, and the next run goes on from there.

A quorum queue cannot be told to go only if it is empty (540, not implemented; 3.10 to 4.0), so
first nothing may come into it: no stage consumes, its bindings are gone, nobody may declare
(``topology_lock``), and the retry tiers that lead to it are emptied before. What is sent over an
exchange is given back to its sender from then on, and the queue goes half a second later at the
earliest, when all that was on its way has come in and been moved: to take the next message is a
question that the queue answers after all that it got before. Nor may anybody hold messages of it:
RabbitMQ counts who has taken some by ``basic.get`` and not acknowledged them among the consumers of
a quorum queue (``rabbit_fifo``). Nor may RabbitMQ hold messages of it back (``withheld``).
The bindings are taken away again before the last look.

All queues beside others are made before a message is moved: where there may be no more queues,
nothing was begun. Limits: there can come in what another program sends to the queue by its name, or
over a binding that it makes, as does a ``declare`` of a version that knows no lock. What comes in
between the last look and the deletion is lost, and said, but for what comes within the deletion
itself. In a cluster, who holds messages at a node that cannot be reached is counted nowhere.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from amqp import Message
from amqp.exceptions import ChannelError, MessageNacked, NotFound, PreconditionFailed
from kombu.connection import Connection

from shared.broker import topology
from shared.broker.policies import dangers
from shared.broker.steward.copies import copied, explained, known_by, left, waiting
from shared.broker.steward.declared_queues import remember, remembered
from shared.broker.steward.topology_lock import exclusive
from shared.broker.steward.withheld import Withheld
from shared.errors import Refused
from shared.failpoint import reach
from shared.log import printable
from shared.queues import (
    HELD,
    HELD_BACK,
    MOVING,
    QUARANTINE,
    SENDERS,
    QueueSpec,
    Tier,
    plan,
    reachable,
)

_OUTWARDS: Final = ("retry", "work", "failed", "quarantine", "held", "memory")
"""Kinds of queues in the order in which they are emptied: what leads to others first."""
_QUIET: Final = 0.5
"""Seconds for which nothing may have come into a queue that is deleted."""
_ROUNDS: Final = 5
"""How often a queue is emptied of what was in it by then, before it is said that more comes in."""
_MORE: Final = 100
"""Messages that may come in, or come back, while a queue is emptied once."""
_TAKING: Final = (
    "{} consumers take messages from it, or hold some; stop the stages, and whoever looks into it"
)
_UNSEEN: Final = (
    "what RabbitMQ holds back there, out of sight, is known and put back with broker.management_url"
    " only"
)
_COMING: Final = "messages keep coming in, or somebody takes some; stop that, and migrate again"


class DueQueue(NamedTuple):
    """A queue that is to be changed.

    Attributes:
        outdated: whether it has the arguments of an earlier version; else a run that did not come
            to its end has left messages beside it.
        waiting: messages in it, None if it is absent.
        beside: messages beside it, None if there is no such queue.
    """

    spec: QueueSpec
    outdated: bool
    waiting: int | None
    beside: int | None


@dataclass(frozen=True, slots=True)
class Migration:
    """What is to be done at one RabbitMQ.

    Attributes:
        connection: open, of a user who may configure, with publisher confirms.
        tiers: the retry tiers.
        patience: seconds to wait for a confirm.
        say: is told what is done.
        withheld: knows what RabbitMQ holds back in a queue.
    """

    connection: Connection
    tiers: Sequence[Tier]
    patience: float
    say: Callable[[str], object]
    withheld: Withheld
    _balance: Counter[str] = field(default_factory=Counter)
    """How many messages were put into each queue, less those that were taken out of it."""

    def due(self) -> list[DueQueue]:
        """Return the queues that have the arguments of an earlier version, or are being changed."""
        found = []
        for spec in topology.every(self.tiers):
            beside = self._count(spec.name + MOVING)
            outdated = topology.outdated(self.connection, spec)
            if outdated or beside is not None:
                found.append(DueQueue(spec, outdated, self._count(spec.name), beside))
        return found

    def run(self) -> int:
        """Change what is due; return how many queues that were.

        Raises:
            Refused: somebody consumes, or is at it already, or a queue takes nothing.
            ConfigError: a queue has arguments of no version, or this user may not declare it.
        """
        with exclusive(self.connection):
            due = self.due()
            self._require_quiet()
            outdated = [each.spec for each in due if each.outdated]
            emptied = _by_kind([*outdated, *self._sources(outdated)])
            filled = {*emptied, *(each.spec for each in due)}
            back = _by_kind(filled)[::-1]
            resumed = {each.spec for each in due if each.beside and not each.outdated}
            self._remember(spec.name + MOVING for spec in emptied)
            self._make_beside(emptied)
            self._empty(emptied)
            passing = [spec for spec in emptied if topology.passed_on(spec)]
            # Where dead letters go first: after a limit of a queue was lifted, RabbitMQ 3.10 gives
            # it nothing that it has refused, for ever; but a new queue of that name.
            self._replace(_by_kind(spec for spec in outdated if spec not in passing))
            self.withheld.require_none(
                [spec.name for spec in passing], lambda: sum(map(self._drain, emptied))
            )
            self._replace(_by_kind(spec for spec in outdated if spec in passing))
            for spec in back:
                self._fill(spec, resumed=spec in resumed)
            self._clear(back, {each.spec for each in due if each.beside is not None})
            self._release()
            return len(due)

    def _require_quiet(self) -> None:
        for spec in topology.every(self.tiers):
            said = self._declare_passive(spec.name)
            if said is not None and said.consumer_count:
                raise Refused(spec.name, _TAKING.format(said.consumer_count))

    def _sources(self, outdated: Sequence[QueueSpec]) -> list[QueueSpec]:
        """Return the retry tiers from which messages would come into queues that are deleted."""
        inboxes = {spec.name for spec in outdated if spec.kind == "work"}
        named = topology.every(self.tiers)
        known = {spec.name for spec in named}
        for name in remembered(self.connection) - known:
            leads = any(name.startswith(f"{inbox}.retry.") for inbox in inboxes)
            if leads and not name.endswith(MOVING) and self._count(name):
                what = "it is no longer configured, and its messages go back to an inbox that is to"
                raise Refused(name, f"{what} be changed; wait until it is empty")
        return [spec for spec in named if spec.kind == "retry" and spec.back_to in inboxes]

    def _remember(self, names: Iterable[str]) -> None:
        """Write down that these queues may hold messages, so that nobody overlooks them."""
        for spec in topology.every(self.tiers):
            if spec.kind in ("held", "memory") and self._declare_passive(spec.name) is None:
                topology.declare_queue(self.connection, spec)
        remember(self.connection, names, self.patience)

    def _make_beside(self, specs: Sequence[QueueSpec]) -> None:
        """Make the queues for what is in others; none stays where not all can be made."""
        made = []
        try:
            for spec in specs:
                name = spec.name + MOVING
                if self._declare_passive(name) is None:
                    self._make(QueueSpec(name, "quarantine"))
                    made.append(name)
        except PreconditionFailed:
            for name in made:
                with self.connection.channel() as channel:
                    channel.queue_delete(name)
            raise

    def _make(self, spec: QueueSpec) -> None:
        """Make a queue that is in no topology."""
        arguments = topology.arguments(spec)
        with self.connection.channel() as channel:
            channel.queue_declare(spec.name, durable=True, auto_delete=False, arguments=arguments)

    def _empty(self, specs: Sequence[QueueSpec]) -> None:
        """Cut queues off, and put what is in them beside them."""
        for spec in specs:
            moved = self._drain(spec)
            self.say(f"{spec.name}: {moved} messages put into {spec.name}{MOVING}")

    def _replace(self, specs: Sequence[QueueSpec]) -> None:
        """Delete queues, from which everything has been taken, and declare them anew.

        Raises:
            Refused: something comes into one after all.
        """
        if specs:
            time.sleep(_QUIET)
        for spec in specs:
            for _ in range(_ROUNDS):
                if not self._drain(spec):
                    break
                time.sleep(_QUIET)  # what has come in says that there was a way into it
            else:
                raise Refused(spec.name, _COMING)
            self._delete(spec.name)
            topology.declare_queue(self.connection, spec)
            reach("migrate", "declared")

    def _drain(self, spec: QueueSpec) -> int:
        """Take the ways into a queue away, and put what is in it beside it; return how many.

        Raises:
            Refused: more comes in than is taken out.
        """
        total = 0
        for _ in range(_ROUNDS):
            with self.connection.channel() as channel:
                for sender in SENDERS:
                    if reachable(sender, (spec,)):
                        channel.queue_unbind(spec.name, sender, spec.name)
            reach("migrate", "unbound")
            most = (self._count(spec.name) or 0) + _MORE
            moved = self._move(spec.name, spec.name + MOVING, most=most)
            total += moved
            if moved < most:
                return total
        raise Refused(spec.name, _COMING)

    def _fill(self, spec: QueueSpec, *, resumed: bool) -> None:
        """Put back what is beside a queue.

        Args:
            spec: the queue.
            resumed: a run that did not come to its end may have begun to.
        """
        topology.declare_queue(self.connection, spec)
        if self._declare_passive(spec.name + MOVING) is None:
            return
        looked = [name for name in (spec.name, spec.back_to) if name and resumed]
        there = (known for name in looked for known in waiting(self.connection, name))
        moved = self._move(spec.name + MOVING, spec.name, spec.ttl, there=there)
        self.say(f"{spec.name}: has the arguments of this version; {moved} messages put back")

    def _clear(self, specs: Sequence[QueueSpec], before: Container[QueueSpec]) -> None:
        """Delete the queues beside others, from which everything has been put back.

        Args:
            specs: of the others.
            before: those beside which there was one before this run, of which nobody has counted
                what was put into it.
        """
        there = [spec for spec in specs if self._declare_passive(spec.name + MOVING) is not None]
        asked = [
            spec.name + MOVING
            for spec in there
            if self.withheld.ask or spec in before or self._balance[spec.name + MOVING]
        ]
        self.withheld.require_none(asked, lambda: self._put_back(HELD))
        for spec in there:
            self._delete(spec.name + MOVING)

    def _release(self) -> None:
        """Put back into quarantine what a policy has thrown out of it.

        Raises:
            Refused: it would throw that out again.
        """
        self._put_back(HELD)
        if self.withheld.ask is None:
            self.say(f"{HELD}: {_UNSEEN}")
        if not (count := self.withheld.count(HELD)) and self._declare_passive(HELD_BACK) is None:
            return
        self._require_lasting(count or 0)
        self._make(QueueSpec(HELD_BACK, "held"))
        remember(self.connection, [HELD_BACK], self.patience)
        both = (HELD, HELD_BACK)
        for name in both:
            self.withheld.require_none([name], lambda: sum(map(self._put_back, both)))
        self._delete(HELD_BACK)

    def _require_lasting(self, count: int) -> None:
        """Check that no policy throws out what is put back."""
        specs = {spec.name: spec for spec in topology.every(self.tiers)}
        asked = self.withheld.ask
        for name, seen in ({} if asked is None else asked([QUARANTINE, HELD])).items():
            for danger in dangers(specs[name], seen):
                what = f"RabbitMQ holds {count} of its messages back, and as it is they cannot stay"
                raise Refused(HELD, f"{what} in {name}: {danger}; topology declare --policies")

    def _put_back(self, source: str) -> int:
        """Move what is in a queue to quarantine; return how many that were."""
        if not self._count(source):
            return 0
        there = waiting(self.connection, QUARANTINE)
        moved = self._move(source, QUARANTINE, there=there, changed=self._explained)
        if moved:
            self.say(f"{QUARANTINE}: {moved} messages that a policy had thrown out put back")
        return moved

    def _explained(self, message: Message) -> Message:
        return explained(message, QUARANTINE, plan(self.tiers))

    def _move(
        self,
        source: str,
        target: str,
        ttl: float | None = None,
        most: int | None = None,
        there: Iterable[bytes] = (),
        changed: Callable[[Message], Message] | None = None,
    ) -> int:
        """Move the messages of a queue to another; return how many.

        Args:
            source: where they are.
            target: where they go.
            ttl: seconds that they have to wait there in all; None for ever.
            most: how many at the most; None for all.
            there: what messages are known by that may be there already, from a run that was killed.
            changed: returns a message as it is to be there; None for as it is.

        Raises:
            Refused: the other queue does not take them.
        """
        moved, found = 0, set[bytes | None](there)
        with self.connection.channel() as taking, self.connection.channel() as giving:
            taking.auto_decode = False  # a body stays bytes, whatever its sender says of it
            while moved != most and (message := taking.basic_get(source)) is not None:
                copy = copied(message) if changed is None else changed(copied(message))
                known = known_by(copy)
                if known is None or known not in found:
                    self._give(giving, copy, target, None if ttl is None else left(ttl, copy))
                    moved += 1
                    self._balance[target] += 1
                found.add(known)
                reach("migrate", "copied")
                taking.basic_ack(message.delivery_tag)
                self._balance[source] -= 1
                reach("migrate", "taken")
        return moved

    def _give(self, channel: Any, message: Message, target: str, wait: int | None) -> None:
        if wait is not None:
            message = Message(message.body, **message.properties, expiration=str(wait))
        try:
            channel.basic_publish(
                message, "", target, mandatory=True, confirm_timeout=self.patience
            )
        except (MessageNacked, ChannelError) as error:
            why = printable(getattr(error, "reply_text", None) or "it takes no messages")
            raise Refused(target, why) from error

    def _delete(self, name: str) -> None:
        """Delete a queue that is empty.

        Raises:
            Refused: it is not, or somebody takes from it, or messages were lost with it.
        """
        with self.connection.channel() as channel:
            reach("migrate", "deleting")
            said = channel.queue_declare(name, passive=True)
            if said.consumer_count:
                raise Refused(name, _TAKING.format(said.consumer_count))
            if said.message_count:
                raise Refused(name, _COMING)
            gone = channel.queue_delete(name)
            reach("migrate", "deleted")
        if gone:
            what = "messages came in at the moment of its deletion, and are LOST; stop what sends"
            raise Refused(name, f"{gone} {what} to it, and migrate again")

    def _count(self, name: str) -> int | None:
        said = self._declare_passive(name)
        return None if said is None else int(said.message_count)

    def _declare_passive(self, name: str) -> Any:
        """Return what the broker says of a queue, None where there is none of this name."""
        with self.connection.channel() as channel:
            try:
                return channel.queue_declare(name, passive=True)
            except NotFound:
                return None


def described(due: DueQueue) -> str:
    """Return one line on a queue that is to be changed."""
    here = "absent" if due.waiting is None else f"{due.waiting} messages"
    put = "" if due.beside is None else f", {due.beside} in {due.spec.name}{MOVING}"
    return f"{due.spec.name}: {here}{put}"


def _by_kind(specs: Iterable[QueueSpec]) -> list[QueueSpec]:
    return sorted(specs, key=lambda spec: (_OUTWARDS.index(spec.kind), spec.name))
