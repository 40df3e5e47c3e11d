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
nothing was begun.

Known limits: there can come in what another program sends to the queue by its name, or over a
binding that it makes, as does a ``declare`` of a version that knows no lock. What comes in between
the last look and the deletion is lost, and said, but for what comes within the deletion itself. In
a cluster, who holds messages at a node that cannot be reached is counted nowhere.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from amqp.exceptions import PreconditionFailed

from shared.broker import topology
from shared.broker.steward.copies import waiting
from shared.broker.steward.declared_queues import remember, remembered
from shared.broker.steward.thrown_out import ThrownOut
from shared.broker.steward.topology_lock import exclusive
from shared.broker.steward.whole_queues import COMING, WholeQueues, taking
from shared.broker.steward.withheld import Withheld
from shared.errors import ConfigError, MigrationRefused, Refused
from shared.failpoint import reach
from shared.queues import HELD, MOVING, QUARANTINE, SENDERS, QueueSpec, Tier, reachable
from shared.words import counted

_OUTWARDS: Final = ("retry", "work", "failed", "quarantine", "held", "memory")
"""Kinds of queues in the order in which they are emptied: what leads to others first."""
_QUIET: Final = 0.5
"""Seconds for which nothing may have come into a queue that is deleted."""
_ROUNDS: Final = 5
"""How often a queue is emptied of what was in it by then, before it is said that more comes in."""
_MORE: Final = 100
"""Messages that may come in, or come back, while a queue is emptied once."""


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
        queues: of the RabbitMQ.
        tiers: the retry tiers.
        say: is told what is done.
        withheld: knows what RabbitMQ holds back in a queue.
    """

    queues: WholeQueues
    tiers: Sequence[Tier]
    say: Callable[[str], object]
    withheld: Withheld

    @property
    def _thrown_out(self) -> ThrownOut:
        return ThrownOut(self.queues, self.tiers, self.withheld, self.say)

    def due(self) -> list[DueQueue]:
        """Return the queues that have the arguments of an earlier version, or are being changed."""
        found = []
        for spec in topology.every(self.tiers):
            beside = self.queues.count(spec.name + MOVING)
            outdated = topology.outdated(self.queues.connection, spec)
            if outdated or beside is not None:
                found.append(DueQueue(spec, outdated, self.queues.count(spec.name), beside))
        return found

    def run(self) -> int:
        """Change what is due; return how many queues that were.

        Raises:
            Refused: somebody consumes, or is at it already, or a queue takes nothing.
            ConfigError: a queue has arguments of no version, or this user may not declare it.
        """
        with exclusive(self.queues.connection):
            due = self.due()
            self._require_known()
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
            self._thrown_out.put_all_back()
            return len(due)

    def preview(self) -> list[str]:
        """Return what ``run`` would do, or why it would refuse: each begins with a verb."""
        due = self.due()
        lines = [f"change {described(each)}" for each in due]
        try:
            self._require_known()
            named = {each.spec for each in due}
            for spec in self._sources([each.spec for each in due if each.outdated]):
                if spec not in named:
                    inside = counted(self.queues.count(spec.name) or 0, "message")
                    why = f"as it leads to {spec.back_to}"
                    lines.append(f"empty {spec.name}, {why}, and fill it again: {inside}")
        except (ConfigError, Refused) as error:
            lines.append(f"refuse: {error}")
        if held := self._thrown_out.count():
            lines.append(f"put {counted(held, 'message')} of {HELD} back into {QUARANTINE}")
        return lines

    def _require_known(self) -> None:
        """Refuse where a queue is of no version: what another program has made is not ours."""
        for spec in topology.every(self.tiers):
            if topology.is_foreign(self.queues.connection, spec):
                raise ConfigError(f"queue {spec.name}", topology.FOREIGN)

    def _require_quiet(self) -> None:
        for spec in topology.every(self.tiers):
            said = self.queues.declare_passive(spec.name)
            if said is not None and said.consumer_count:
                raise MigrationRefused(spec.name, taking(said.consumer_count))

    def _sources(self, outdated: Sequence[QueueSpec]) -> list[QueueSpec]:
        """Return the retry tiers from which messages would come into queues that are deleted."""
        inboxes = {spec.name for spec in outdated if spec.kind == "work"}
        named = topology.every(self.tiers)
        known = {spec.name for spec in named}
        for name in remembered(self.queues.connection) - known:
            leads = any(name.startswith(f"{inbox}.retry.") for inbox in inboxes)
            if leads and not name.endswith(MOVING) and self.queues.count(name):
                what = "it is no longer configured, and its messages go back to an inbox that is to"
                raise MigrationRefused(name, f"{what} be changed; wait until it is empty")
        return [spec for spec in named if spec.kind == "retry" and spec.back_to in inboxes]

    def _remember(self, names: Iterable[str]) -> None:
        """Write down that these queues may hold messages, so that nobody overlooks them."""
        for spec in topology.every(self.tiers):
            if spec.kind in ("held", "memory") and self.queues.declare_passive(spec.name) is None:
                topology.declare_queue(self.queues.connection, spec)
        remember(self.queues.connection, names)

    def _make_beside(self, specs: Sequence[QueueSpec]) -> None:
        """Make the queues for what is in others; none stays where not all can be made."""
        made = []
        try:
            for spec in specs:
                name = spec.name + MOVING
                if self.queues.declare_passive(name) is None:
                    self.queues.make(QueueSpec(name, "quarantine"))
                    made.append(name)
        except PreconditionFailed:
            for name in made:
                with self.queues.connection.channel() as channel:
                    channel.queue_delete(name)
            raise

    def _empty(self, specs: Sequence[QueueSpec]) -> None:
        """Cut queues off, and put what is in them beside them."""
        for spec in specs:
            moved = self._drain(spec)
            self.say(f"{spec.name}: {counted(moved, 'message')} put into {spec.name}{MOVING}")

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
                raise MigrationRefused(spec.name, COMING)
            self.queues.delete(spec.name)
            topology.declare_queue(self.queues.connection, spec)
            reach("migrate", "declared")

    def _drain(self, spec: QueueSpec) -> int:
        """Take the ways into a queue away, and put what is in it beside it; return how many.

        Raises:
            Refused: more comes in than is taken out.
        """
        total = 0
        for _ in range(_ROUNDS):
            with self.queues.connection.channel() as channel:
                for sender in SENDERS:
                    if reachable(sender, (spec,)):
                        channel.queue_unbind(spec.name, sender, spec.name)
            reach("migrate", "unbound")
            most = (self.queues.count(spec.name) or 0) + _MORE
            moved = self.queues.move(spec.name, spec.name + MOVING, most=most)
            total += moved
            if moved < most:
                return total
        raise MigrationRefused(spec.name, COMING)

    def _fill(self, spec: QueueSpec, *, resumed: bool) -> None:
        """Put back what is beside a queue.

        Args:
            spec: the queue.
            resumed: a run that did not come to its end may have begun to.
        """
        topology.declare_queue(self.queues.connection, spec)
        if self.queues.declare_passive(spec.name + MOVING) is None:
            return
        looked = [name for name in (spec.name, spec.back_to) if name and resumed]
        there = (known for name in looked for known in waiting(self.queues.connection, name))
        moved = self.queues.move(spec.name + MOVING, spec.name, spec.ttl, there=there)
        put_back = f"{counted(moved, 'message')} put back"
        self.say(f"{spec.name}: has the arguments of this version; {put_back}")

    def _clear(self, specs: Sequence[QueueSpec], before: Container[QueueSpec]) -> None:
        """Delete the queues beside others, from which everything has been put back.

        Args:
            specs: of the others.
            before: those beside which there was one before this run, of which nobody has counted
                what was put into it.
        """
        there = [
            spec for spec in specs if self.queues.declare_passive(spec.name + MOVING) is not None
        ]
        asked = [
            spec.name + MOVING
            for spec in there
            if self.withheld.ask or spec in before or self.queues.balance[spec.name + MOVING]
        ]
        self.withheld.require_none(asked, self._thrown_out.put_back)
        for spec in there:
            self.queues.delete(spec.name + MOVING)


def described(due: DueQueue) -> str:
    """Return one line on a queue that is to be changed."""
    here = "absent" if due.waiting is None else counted(due.waiting, "message")
    put = "" if due.beside is None else f", {due.beside} in {due.spec.name}{MOVING}"
    return f"{due.spec.name}: {here}{put}"


def _by_kind(specs: Iterable[QueueSpec]) -> list[QueueSpec]:
    return sorted(specs, key=lambda spec: (_OUTWARDS.index(spec.kind), spec.name))
