"""Puts back into quarantine what a policy of somebody else's has thrown out of it.

What quarantine loses by a policy goes to the queue ``HELD``; what expires there as well RabbitMQ
holds back, out of sight, and hands over only to the queue that ``HELD`` passes messages on to
(``HELD_BACK``). So that queue is made for a while.

Known limits: where RabbitMQ's management API may not be asked, nobody knows whether anything is
held back, and that queue is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from amqp import Message

from shared.broker import topology
from shared.broker.policies import dangers
from shared.broker.steward.copies import explained, waiting
from shared.broker.steward.declared_queues import remember
from shared.broker.steward.whole_queues import WholeQueues
from shared.broker.steward.withheld import Withheld
from shared.errors import MigrationRefused
from shared.queues import HELD, HELD_BACK, QUARANTINE, QueueSpec, Tier, plan
from shared.words import counted

_UNSEEN: Final = (
    "what RabbitMQ holds back there, out of sight, is known and put back with broker.management_url"
    " only"
)


@dataclass(frozen=True, slots=True)
class ThrownOut:
    """What a policy has thrown out of quarantine.

    Attributes:
        queues: of the RabbitMQ.
        tiers: the retry tiers.
        withheld: knows what RabbitMQ holds back in a queue.
        say: is told what is done.
    """

    queues: WholeQueues
    tiers: Sequence[Tier]
    withheld: Withheld
    say: Callable[[str], object]

    def put_back(self, source: str = HELD) -> int:
        """Move what is in a queue to quarantine; return how many that were."""
        if not self.queues.count(source):
            return 0
        there = waiting(self.queues.connection, QUARANTINE)
        moved = self.queues.move(source, QUARANTINE, there=there, changed=self._explained)
        if moved:
            messages = counted(moved, "message")
            self.say(f"{QUARANTINE}: {messages} that a policy had thrown out put back")
        return moved

    def count(self) -> int:
        """Return how many messages there are to put back, as far as anybody knows."""
        seen = sum(self.queues.count(name) or 0 for name in (HELD, HELD_BACK))
        return seen + (self.withheld.count(HELD) or 0)

    def put_all_back(self) -> None:
        """Put back what can be seen, and what RabbitMQ holds back.

        Raises:
            Refused: a policy would throw that out again.
        """
        self.put_back()
        if self.withheld.ask is None:
            self.say(f"{HELD}: {_UNSEEN}")
        if not (count := self.withheld.count(HELD)) and self.queues.count(HELD_BACK) is None:
            return
        self._require_lasting(count or 0)
        self.queues.make(QueueSpec(HELD_BACK, "held"))
        remember(self.queues.connection, [HELD_BACK])
        both = (HELD, HELD_BACK)
        for name in both:
            self.withheld.require_none([name], lambda: sum(map(self.put_back, both)))
        self.queues.delete(HELD_BACK)

    def _explained(self, message: Message) -> Message:
        return explained(message, QUARANTINE, plan(self.tiers))

    def _require_lasting(self, count: int) -> None:
        """Check that no policy throws out what is put back."""
        specs = {spec.name: spec for spec in topology.every(self.tiers)}
        asked = self.withheld.ask
        for name, seen in ({} if asked is None else asked([QUARANTINE, HELD])).items():
            for danger in dangers(specs[name], seen):
                what = f"RabbitMQ holds {count} of its messages back, and as it is they cannot stay"
                raise MigrationRefused(HELD, f"{what} in {name}: {danger}")
