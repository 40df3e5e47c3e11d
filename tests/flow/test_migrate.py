"""Queues of an earlier version get the arguments of this one, and no message is lost on the way.

Each run is a process of its own; most are killed (SIGKILL) at a step, and begun again.
"""

import contextlib
import itertools
import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp import Channel, Connection, Message
from amqp.exceptions import AMQPNotImplementedError

from shared.broker.steward import migration, topology_lock, whole_queues, withheld
from shared.errors import BrokerUnavailable, ConfigError, Refused
from shared.queues import (
    DECLARED,
    HELD,
    INCOMING,
    PARSED,
    QUARANTINE,
    RETRIED,
)
from tests.flow.forked import ForkedConnector
from tests.flow.migration import (
    CHANGED,
    MANY,
    SPECS,
    WORK,
    KombuStewardAt,
    Place,
    impatient,
    mail,
    right,
    sent,
)
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer

FAILED = "pickup.failed"
STEPS = ("unbound", "copied", "taken", "deleting", "deleted", "declared", "taken")


@pytest.fixture
def place(server: RabbitServer, vhost: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(withheld, "RETRIED", 0.1)
    found = Place(server, vhost)
    found.build()
    return found


@pytest.mark.parametrize("fault", ["", "copied#4", "copied#45", "deleting", "deleted", "deleted#9"])
def test_it_is_killed_and_begun_again(place: Place, fault: str) -> None:
    before = place.held()
    if fault:
        assert place.migrate(f"migrate.{fault}") == -signal.SIGKILL
    assert place.migrate() == 0
    right(place, before)
    with KombuStewardAt(place.url) as steward:
        assert steward.outdated() == []
        assert steward.strays() == {}
        assert steward.declare() == []


def test_it_is_killed_time_and_again(place: Place) -> None:
    before = place.held()
    died = 0
    for number, step in enumerate(itertools.islice(itertools.cycle(STEPS), 60), 1):
        if place.migrate(f"migrate.{step}#{number % 3 + 1}") == 0:
            break
        died += 1
    assert died >= len(STEPS)
    assert place.migrate() == 0
    right(place, before)


def test_nothing_is_changed_by_a_dry_run(place: Place) -> None:
    with KombuStewardAt(place.url) as steward:
        before = place.arguments()
        lines = steward.outdated()
    named = {line.partition(":")[0].partition(", and")[0] for line in lines}
    emptied = {f"empty {inbox}.retry.1h, as it leads to {inbox}" for inbox in RETRIED}
    assert named == {*(f"change {name}" for name in CHANGED), *emptied}
    assert f"change pickup.failed: {MANY} messages" in lines
    assert place.arguments() == before


def test_it_waits_for_the_stages_to_stop(place: Place) -> None:
    with place.channel() as consuming, KombuStewardAt(place.url) as steward:
        consuming.basic_consume("parsed", callback=print)
        with pytest.raises(Refused, match=r"parsed: 1 consumer .* stop the stages"):
            steward.migrate(print)
    assert place.arguments().keys() == SPECS.keys() - {HELD}


def test_a_removed_tier_is_waited_for(place: Place) -> None:
    """Its messages would come back into an inbox in the moment in which that is deleted."""
    removed = "incoming.retry.9h"
    with place.channel() as channel, KombuStewardAt(place.url) as steward:
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare(removed, durable=True, auto_delete=False, arguments=arguments)
        channel.basic_publish(mail("late"), "", removed)
        channel.basic_publish(Message(json.dumps([removed]), delivery_mode=2), "", DECLARED)
        with pytest.raises(Refused, match=r"incoming\.retry\.9h: .* wait until it is empty"):
            steward.migrate(print)
        assert place.waiting(removed) == 1


def test_two_do_not_meet(place: Place) -> None:
    host = f"127.0.0.1:{place.server.port}"
    with (
        Connection(host, virtual_host=place.vhost) as other,
        KombuStewardAt(place.url) as steward,
    ):
        other.channel().queue_declare("topology.migrating", exclusive=True, durable=False)
        for change in (partial(steward.migrate, print), steward.declare):
            with pytest.raises(BrokerUnavailable, match="another topology migrate is running"):
                change()


def test_a_declare_in_the_middle_binds_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a start of the stages does at each step, while one of them sends on."""
    before = place.held()[INCOMING]
    monkeypatch.setattr(topology_lock, "_PATIENCE", 0.0)
    seen: set[str] = set()
    taken: list[str] = []
    with place.channel() as sending, KombuStewardAt(place.url) as steward:

        def step(_: str, name: str) -> None:
            if name not in seen or name == "deleting":
                with KombuStewardAt(place.url) as other, contextlib.suppress(BrokerUnavailable):
                    other.declare()
            seen.add(name)
            id_ = f"new-{len(taken)}"
            if sent(sending, mail(id_)):
                taken.append(id_)

        for module in (migration, whole_queues):
            monkeypatch.setattr(module, "reach", step)
        assert steward.migrate(print) == len(CHANGED)
    assert seen >= set(STEPS)
    assert taken  # before it is cut off, and again when it is back
    ids = [each[0].get("message_id") for each in place.held()[INCOMING]]
    assert {*taken, *(each[0].get("message_id") for each in before)} <= set(ids)


EAGER = (("fetcher", INCOMING),) * 4 + (("parser", PARSED),) * 2 + (("deliverer", FAILED),) * 2
"""Who sends on, while queues are changed, and where to."""


def test_eager_senders_lose_nothing_and_nothing_comes_twice(place: Place) -> None:
    """Each takes what was given back to it for unsent, and sends it again; migrate is killed."""
    before = place.held()
    ended = threading.Event()
    with ThreadPoolExecutor(len(EAGER)) as clients:
        senders = [
            clients.submit(_send_on, place, *to, f"eager-{number}", ended)
            for number, to in enumerate(EAGER)
        ]
        try:
            for fault in ("unbound#3", "copied#20", "deleting#2", "deleted", "copied#30"):
                assert place.migrate(f"migrate.{fault}") == -signal.SIGKILL
            assert place.migrate() == 0
            # What was given back is taken, now that there is a way again.
            count = _waiting(place)
            wait_until(lambda: _waiting(place) > count + 2 * len(EAGER), "more to be sent")
        finally:
            ended.set()
        sent_ids = [sender.result() for sender in senders]
    after = place.held()
    for queue in {queue for _, queue in EAGER}:
        ids = Counter(str(told["message_id"]) for told, _ in after[queue])
        of_ours = zip(EAGER, sent_ids, strict=True)
        expected = Counter(id_ for (_, to), ids in of_ours if to == queue for id_ in ids)
        expected.update(str(told["message_id"]) for told, _ in before[queue])
        ids.pop("waits", None)
        assert ids == expected, queue


def _waiting(place: Place) -> int:
    return sum(map(place.waiting, {queue for _, queue in EAGER}))


def _send_on(place: Place, sender: str, queue: str, name: str, ended: threading.Event) -> list[str]:
    """Send, each until it is taken, and return the ids."""
    ids: list[str] = []
    with place.channel() as channel:
        while not ended.is_set():
            ids.append(f"{name}-{len(ids)}")
            while not sent(channel, mail(ids[-1]), sender, queue):
                ended.wait(0.02)
            ended.wait(0.1)
    return ids


@pytest.mark.parametrize("beside", ["", ".moving"])
def test_what_another_client_holds_keeps_a_queue_from_being_deleted(
    place: Place, beside: str
) -> None:
    """RabbitMQ counts who holds messages of a quorum queue among its consumers."""
    before = place.held()
    if beside:
        assert place.migrate("migrate.copied#45") == -signal.SIGKILL  # when most is put back
    with place.channel() as looking, KombuStewardAt(place.url) as steward:
        queue = next(q for q in (f"incoming{beside}", f"poll{beside}") if place.waiting(q))
        assert looking.basic_get(queue) is not None
        with pytest.raises(Refused, match=rf"{queue}: 1 consumer takes .*, or holds some; stop"):
            steward.migrate(print)
    assert place.migrate() == 0
    right(place, before)


def test_rabbitmq_deletes_no_queue_only_if_it_is_empty(place: Place) -> None:
    """Should it do so one day, that is the way to delete one."""
    with pytest.raises(AMQPNotImplementedError), place.channel() as channel:
        channel.queue_delete("parsed", if_empty=True)


def test_what_keeps_coming_in_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that needs no binding, and is as fast as we are."""
    monkeypatch.setattr(migration, "_MORE", 3)
    sent_ids = itertools.count()
    with place.channel() as sending, KombuStewardAt(place.url) as steward:

        def step(_: str, name: str) -> None:
            if name == "copied":
                sending.basic_publish(mail(f"eager-{next(sent_ids)}"), "", "pickup.failed")

        monkeypatch.setattr(whole_queues, "reach", step)
        with pytest.raises(Refused, match=r"pickup\.failed: .*messages keep coming in"):
            steward.migrate(print)
    both = place.waiting("pickup.failed") + place.waiting("pickup.failed.moving")
    assert both == MANY + next(sent_ids)


def test_what_is_lost_with_a_queue_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.channel() as sending, KombuStewardAt(place.url) as steward:

        def late(self: Any, name: str, *args: Any, **named: Any) -> Any:
            if name == "parsed.failed":
                sending.basic_publish(mail("late"), "", name)
            return delete(self, name, *args, **named)

        delete = Channel.queue_delete
        monkeypatch.setattr(Channel, "queue_delete", late)
        with pytest.raises(Refused, match=r"parsed\.failed: .*1 messages came in .* LOST"):
            steward.migrate(print)


def test_a_declare_after_a_killed_migration_asks_for_the_rest_of_it(place: Place) -> None:
    assert place.migrate("migrate.deleting") == -signal.SIGKILL
    with KombuStewardAt(place.url) as steward:
        with pytest.raises(ConfigError, match=r"moving: .* has not come to its end; run it again"):
            steward.declare()
        steward.migrate(print)
        assert steward.declare() == []


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_it_goes_nowhere_else_by_its_headers(place: Place, name: str) -> None:
    before = len(place.held()[QUARANTINE])
    odd = mail("copied")
    odd.properties["application_headers"] = {name: [QUARANTINE]}
    with place.channel() as channel:
        channel.basic_publish(odd, "", "pickup.failed")
    before += 1  # by whoever sent it
    with KombuStewardAt(place.url) as steward:
        steward.migrate(print)
    after = place.held()
    assert len(after["pickup.failed"]) == MANY + 1
    assert len(after[QUARANTINE]) == before


def test_an_upgrade_goes_on_with_the_queues_as_they_are(
    place: Place, product: ForkedConnector, tmp_path: Path
) -> None:
    product.configure([], f"maildir://{tmp_path}/mail", place.url, retry={"tiers": ["1h"]})
    product.first_of_commands = impatient
    declared = product.cli("topology", "declare")
    assert declared.returncode == 0
    assert declared.stderr.count("topology migrate") == 1
    product.start("run")
    product.wait(lambda: product.count("run", "started") == 1, "the start")
    wait_until(lambda: all(map(place.consumers, WORK)), "stages that consume")
    assert product.count("run", "queues were declared by an earlier version") == 1
    refused = product.cli("topology", "migrate")
    assert refused.returncode == 1
    assert "stop the stages" in refused.stderr
    assert product.stop("run") == 0
    dry = product.cli("topology", "migrate", "--dry-run")
    assert f"would change pickup.failed: {MANY} messages\n" in dry.stdout
    assert "would empty incoming.retry.1h, as it leads to incoming, and fill it" in dry.stdout
    migrated = product.cli("topology", "migrate")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert migrated.stdout.endswith(f"changed: {len(CHANGED)} queues\n")
    assert product.cli("topology", "declare").stderr == ""
    assert product.cli("topology", "migrate", "--dry-run").stdout == "would change nothing\n"
    with place.channel() as channel:
        channel.basic_publish(mail("thrown out"), "", HELD)
    dry = product.cli("topology", "migrate", "--dry-run")
    assert dry.stdout == "would put 1 message of quarantine.held back into quarantine\n"
    back = product.cli("topology", "migrate").stdout
    assert "quarantine: 1 message that a policy had thrown out put back\n" in back


def test_what_a_policy_threw_out_of_quarantine_is_put_back(place: Place) -> None:
    assert place.migrate() == 0
    before = place.held()[QUARANTINE]
    with place.channel() as channel:
        channel.basic_publish(mail("thrown out"), "", HELD)
    assert place.migrate() == 0
    after = place.held()
    assert [p["message_id"] for p, _ in after[QUARANTINE][len(before) :]] == ["thrown out"]
    assert after[HELD] == []
