"""Mail that RabbitMQ holds back, out of sight of AMQP: nothing deletes it, and it comes back."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from amqp import Message
from amqp.exceptions import MessageNacked

from shared.broker.management import Management
from shared.broker.steward import withheld
from shared.broker.steward.steward import KombuSteward
from shared.errors import Refused
from shared.queues import DECLARED, HELD, HELD_BACK, MOVING, QUARANTINE
from tests.flow.forked import ForkedConnector
from tests.flow.migration import SPECS, TIERS, Place, impatient
from tests.servers.process import wait_until
from tests.servers.rabbitmq import PASSWORD, USER, RabbitServer, rabbitmq

FAILED = "pickup.failed"
SENT = 40
"""More than RabbitMQ passes on at a time."""
RETRYING = 0.5
"""Seconds after which RabbitMQ tries again here, in place of 180."""
REJECT: dict[str, object] = {"overflow": "reject-publish"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A node that counts, and tries again, more often than others."""
    often = "collect_statistics_interval = 300\n"
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), config=often) as running:
        running.ctl("eval", "application:set_env(rabbit, quorum_tick_interval, 300).")
        retrying = f"dead_letter_worker_publisher_confirm_timeout, {RETRYING * 1000:.0f}"
        running.ctl("eval", f"application:set_env(rabbit, {retrying}).")
        yield running


class Withholding(Place):
    """With policies of somebody else's."""

    def impose(self, name: str, queue: str, definition: dict[str, object]) -> None:
        policy = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "queues"}
        self.server.api("PUT", f"policies/{self.vhost}/{name}", policy | {"priority": 5})

        def counts() -> bool:
            seen = self.management.queues([queue]).get(queue)
            return seen is None or f"policy {name}" in seen.policies

        wait_until(counts, f"the policy {name}", 30)

    def lift(self, *names: str) -> None:
        for name in names:
            self.server.api("DELETE", f"policies/{self.vhost}/{name}")
        wait_until(lambda: not self.ruled(), "no policy", 30)

    def ruled(self) -> bool:
        return any(row.get("policy") for row in self.server.api("GET", f"queues/{self.vhost}"))

    @property
    def management(self) -> Management:
        return Management(management_url(self.server), self.url)

    def steward(self, *, asked: bool = True) -> KombuSteward:
        return KombuSteward(self.url, TIERS, ask=self.management.queues if asked else None)

    def put(self, queue: str, count: int = SENT) -> set[str]:
        ids = {f"{queue}-kept-{number}" for number in range(count)}
        with self.channel() as channel:
            for id_ in sorted(ids):
                message = Message("hello", message_id=id_, delivery_mode=2)
                channel.basic_publish(message, "", queue, confirm_timeout=30)
        return ids

    def purge(self, queue: str) -> None:
        """Take away what no policy lets expire: it was there before, and is in front."""
        with self.channel() as channel:
            channel.queue_purge(queue)

    def await_withheld(self, queue: str, count: int) -> None:
        def counted() -> bool:
            seen = self.management.queues([queue])
            return queue in seen and seen[queue].withheld == count

        wait_until(counted, f"{count} held back in {queue}", 30)

    def count(self) -> int:
        """Return how many messages there are, those that are held back among them."""
        rows = self.server.api("GET", f"queues/{self.vhost}")
        return sum(row.get("messages", 0) for row in rows if not row["name"].startswith(DECLARED))

    def ids(self) -> set[str]:
        found = self.held()
        return {
            str(told["message_id"])
            for queue in found
            for told, _ in found[queue]
            if told.get("message_id")
        }


def management_url(server: RabbitServer) -> str:
    return f"http://{USER}:{PASSWORD}@127.0.0.1:{server.management_port}"


@pytest.fixture
def place(server: RabbitServer, vhost: str, monkeypatch: pytest.MonkeyPatch) -> Withholding:
    """A virtual host with the queues of an earlier version."""
    monkeypatch.setattr(withheld, "RETRIED", 8 * RETRYING)
    monkeypatch.setattr(withheld, "COUNTED", 1.5)
    found = Withholding(server, vhost)
    found.build()
    return found


def withhold(place: Withholding) -> set[str]:
    """Let RabbitMQ hold mail back in ``incoming``; return its ids."""
    place.purge("incoming")
    place.impose("full", QUARANTINE, {"max-length": 0} | REJECT)
    with place.channel() as channel, suppress(MessageNacked):
        while True:
            channel.basic_publish(Message("filler"), "", QUARANTINE, confirm_timeout=30)
    place.impose("age", "incoming", {"message-ttl": 50})
    ids = place.put("incoming")
    place.await_withheld("incoming", SENT)
    return ids


@pytest.mark.parametrize("asked", [True, False])
def test_no_queue_is_deleted_in_which_mail_is_held_back(place: Withholding, asked: bool) -> None:
    ids = withhold(place)
    ids |= place.ids()
    place.lift("age", "full")
    with closing(place.steward(asked=asked)) as steward:
        steward.migrate(print)
    assert place.ids() == ids
    assert not steward.outdated()


def test_what_stays_held_back_stops_it(place: Withholding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withheld, "RETRIED", 0.0)
    monkeypatch.setattr(withheld, "COUNTED", 0.0)
    withhold(place)
    before, kept = place.count(), place.arguments()["incoming"]
    said = r"incoming: RabbitMQ holds \d+ of .* quarantine does not take them"
    with closing(place.steward()) as steward, pytest.raises(Refused, match=said):
        steward.migrate(print)
    assert place.arguments()["incoming"] == kept
    wait_until(lambda: place.count() == before, "as many as there were", 30)


@pytest.mark.parametrize("asked", [True, False])
def test_what_expires_while_it_is_beside_its_queue_is_not_lost(
    place: Withholding, asked: bool
) -> None:
    """``HELD`` takes one at a time, so most of it is held back."""
    ids = place.ids() | place.put(FAILED)
    place.impose("full", HELD, {"max-length": 1} | REJECT)
    place.impose("age", FAILED + MOVING, {"message-ttl": 1})
    with closing(place.steward(asked=asked)) as steward:
        steward.migrate(print)
    assert place.ids() == ids
    assert not steward.outdated()


def test_what_was_thrown_out_of_the_last_queue_comes_back(place: Withholding) -> None:
    """And says why it is there itself: in what RabbitMQ says of that there would be a cycle."""
    with closing(place.steward()) as steward:
        steward.migrate(print)
        for queue in (FAILED, QUARANTINE):
            place.purge(queue)
        place.impose("age", ".*", {"message-ttl": 50})
        wait_until(place.ruled, "the policy")
        ids = place.put(FAILED)
        place.await_withheld(HELD, SENT)
        said = rf"{HELD}: RabbitMQ holds {SENT} .* policy age: message-ttl .* topology declare"
        with pytest.raises(Refused, match=said):
            steward.migrate(print)
        place.lift("age")
        (warned,) = place.management.dangers(SPECS.values())
        assert warned.startswith(f"{HELD}: RabbitMQ holds {SENT} of its messages back, out of")
        steward.migrate(print)
        assert place.management.dangers(SPECS.values()) == []
        assert HELD_BACK not in place.arguments()
        found = {s.message_id: str(s.headers["reason"]) for s in steward.browse(QUARANTINE)}
    assert found.keys() == ids
    assert all("for longer than a policy of RabbitMQ allows" in said for said in found.values())
    assert not any("x-death" in told["headers"] for told, _ in place.held()[QUARANTINE])


def test_a_limit_of_queues_is_said_before_anything_is_moved(
    place: Withholding, product: ForkedConnector, tmp_path: Path
) -> None:
    before = place.ids()
    limit = len(place.arguments()) + 4
    place.server.api("PUT", f"vhost-limits/{place.vhost}/max-queues", {"value": limit})
    product.configure([], f"maildir://{tmp_path}/mail", place.url, retry={"tiers": ["1h"]})
    product.first_of_commands = impatient
    refused = product.cli("topology", "migrate")
    assert refused.returncode == 1
    assert "no more queues: PRECONDITION_FAILED - cannot declare queue" in refused.stderr
    assert "its operator raises the limit" in refused.stderr
    assert not any(name.endswith(MOVING) for name in place.arguments())
    assert place.ids() == before
    assert product.cli("topology", "declare").returncode == 0
    place.server.api("PUT", f"vhost-limits/{place.vhost}/max-queues", {"value": -1})
    assert product.cli("topology", "migrate").returncode == 0
