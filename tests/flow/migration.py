"""A virtual host whose queues an earlier version declared, with messages of every kind in them.

Each run of ``topology migrate`` is a process of its own, which may be killed (SIGKILL) at a step.
"""

import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from amqp import Connection, Message

from shared import failpoint
from shared.broker import topology
from shared.broker.steward import withheld
from shared.broker.steward.steward import KombuSteward
from shared.queues import (
    DECLARED,
    HELD,
    INCOMING,
    QUARANTINE,
    SENDERS,
    Tier,
    plan,
    reachable,
)
from shared.wire import bundle
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer

TIERS = (Tier("1h", 3600.0),)
SPECS = {spec.name: spec for spec in topology.every(TIERS)}
NAMES = sorted(spec.name for spec in plan(TIERS))
WORK = [name for name, spec in SPECS.items() if spec.kind == "work"]
CHANGED = {name for name, spec in SPECS.items() if topology.earlier(spec)}
RETRY = "incoming.retry.1h"
MANY = 3
Held = dict[str, list[tuple[dict[str, Any], bytes]]]


@dataclass
class Place:
    """A virtual host with the queues of an earlier version, and messages of every kind in them."""

    server: RabbitServer
    vhost: str

    @property
    def url(self) -> str:
        return self.server.url(self.vhost)

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        host = f"127.0.0.1:{self.server.port}"
        with Connection(host, virtual_host=self.vhost, confirm_publish=True) as connection:
            channel = connection.channel()
            channel.auto_decode = False
            yield channel

    def build(self) -> None:
        with self.channel() as channel:
            for sender in SENDERS:
                channel.exchange_declare(sender, "direct", durable=True, auto_delete=False)
            for name, spec in SPECS.items():
                if name == HELD:
                    continue  # there was none
                before = next(iter(topology.earlier(spec)), topology.arguments(spec))
                channel.queue_declare(name, durable=True, auto_delete=False, arguments=before)
                for sender in SENDERS:
                    if reachable(sender, (spec,)):
                        channel.queue_bind(name, sender, name)
            channel.basic_publish(Message(json.dumps(NAMES), delivery_mode=2), "", DECLARED)
            for name, spec in SPECS.items():
                if spec.kind in ("failed", "quarantine", "work"):
                    for number in range(MANY):
                        channel.basic_publish(mail(f"{name}-{number}"), "", name)
            odd = {"content_encoding": "rot13", "delivery_mode": 2}
            channel.basic_publish(Message(b"\xff no id", **odd), "", QUARANTINE)
            both = bundle([("b1", b"one"), ("b2", b"two")])
            channel.basic_publish(Message(both, message_id="b1", delivery_mode=2), "", INCOMING)
            self.poison(channel)
            channel.basic_publish(mail("waits"), "", RETRY)

    def poison(self, channel: Any) -> None:
        """Let the broker put a message into quarantine, with what it writes of that."""
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1}
        target = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUARANTINE}
        channel.queue_declare("hot", durable=True, auto_delete=False, arguments=arguments | target)
        channel.basic_publish(mail("poison"), "", "hot")

        def gone() -> bool:
            if (message := channel.basic_get("hot")) is not None:
                channel.basic_reject(message.delivery_tag, requeue=True)
            return bool(channel.queue_declare(QUARANTINE, passive=True).message_count == MANY + 2)

        wait_until(gone, "the poison in quarantine")
        channel.queue_delete("hot")

    def migrate(self, fault: str = "") -> int | None:
        """Run it in a process of its own; return the exit status."""
        process = multiprocessing.get_context("forkserver").Process(
            target=_migrate, args=(self.url, fault)
        )
        process.start()
        process.join(60)
        return process.exitcode

    def held(self) -> Held:
        """Return what is in each queue; it stays there."""
        found: Held = {}
        names = SPECS.keys() & self.arguments().keys()
        with self.channel() as channel:
            for name in names:
                with self.channel() as looking:
                    said = channel.queue_declare(name, passive=True)
                    got = [looking.basic_get(name) for _ in range(said.message_count)]
                    found[name] = [(told(message), bytes(message.body)) for message in got]
        return found

    def waiting(self, queue: str) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int:
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).consumer_count)

    def arguments(self) -> dict[str, Any]:
        queues = self.server.api("GET", f"queues/{self.vhost}")
        return {queue["name"]: queue["arguments"] for queue in queues}


def mail(name: str) -> Message:
    at = datetime.now(UTC) - timedelta(seconds=3600 if name == "waits" else 60)
    headers = {"account": "sales", "failed-at": at.isoformat(timespec="seconds"), "size": 7}
    return Message(
        f"body of {name}".encode(),
        message_id=name,
        content_type="application/msgpack",
        delivery_mode=2,
        application_headers=headers,
    )


def told(message: Any) -> dict[str, Any]:
    """Return the properties of a message, less what a queue adds for whoever takes it."""
    properties = dict(message.properties)
    headers = dict(properties.pop("application_headers", {}))
    added = ("x-delivery-count", "x-acquired-count")
    kept = {name: value for name, value in headers.items() if name not in added}
    return properties | {"headers": kept}


def impatient() -> None:
    """Let this process believe that RabbitMQ holds nothing back, as nothing is full here."""
    vars(withheld)["RETRIED"] = 0.1


def _migrate(url: str, fault: str) -> None:
    impatient()
    failpoint.arm({failpoint.VARIABLE: fault})
    steward = KombuSteward(url, TIERS)
    steward.migrate(print)
    steward.close()


def without_what_came_back(before: Held) -> Held:
    """Return what is to be there afterwards, without what has waited out its tier meanwhile."""
    return {n: held for n, held in before.items() if n not in (RETRY, INCOMING, HELD, DECLARED)}


def right(place: Place, before: Held) -> None:
    """Check that all is there, as it was, in its order, and once."""
    wait_until(lambda: not place.waiting(RETRY), "the end of a wait that is over")
    arguments = place.arguments()
    assert arguments == {n: topology.arguments(s) for n, s in SPECS.items()}
    after = place.held()
    for name, expected in without_what_came_back(before).items():
        assert after[name] == expected, name
    names = {name for _, body in after[DECLARED] for name in json.loads(body)}
    assert names >= set(NAMES)
    # What has waited for as long as its tier is came back to the inbox meanwhile.
    back = [message for message in after[INCOMING] if message[0].get("message_id") == "waits"]
    here = [message for message in after[INCOMING] if message not in back]
    assert sorted(map(repr, here)) == sorted(map(repr, before[INCOMING]))
    assert len(back) + len(after[RETRY]) == 1


@contextlib.contextmanager
def KombuStewardAt(url: str) -> Iterator[KombuSteward]:  # noqa: N802
    steward = KombuSteward(url, TIERS)
    yield steward
    steward.close()


def sent(channel: Any, message: Message, sender: str = "fetcher", queue: str = INCOMING) -> bool:
    """Return whether a queue has taken a message that a stage sends."""
    returned: list[object] = []
    channel.events["basic_return"] = {lambda *said: returned.append(said)}
    channel.basic_publish(message, sender, queue, mandatory=True, confirm_timeout=30)
    return not returned
