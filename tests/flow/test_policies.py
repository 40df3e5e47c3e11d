"""Policies that somebody sets on everything: what is kept is kept, or it is said that it is not."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp import Connection, Message
from amqp.exceptions import MessageNacked

from services.health import Health
from services.policy_watch import PolicyWatch
from services.postmaster.invocation import Invocation
from services.postmaster.opening import open_management
from shared.broker.management import Management
from shared.broker.policies import POLICIES, DescribedQueue, dangers
from shared.broker.steward.steward import KombuSteward
from shared.broker.topology import protected
from shared.log import MailLog
from shared.log_lines import configure
from shared.queues import DECLARED, HELD, MARK, QUARANTINE, QueueSpec, Tier, plan
from tests.clock import ManualClock
from tests.servers.process import wait_until
from tests.servers.rabbitmq import PASSWORD, USER, RabbitServer, rabbitmq
from tests.unit.postmaster.conftest import CONFIG, Office

TIERS = (Tier("1h", 3600.0),)
SPECS = {spec.name: spec for spec in plan(TIERS)}
KEPT = sorted(name for name, spec in SPECS.items() if spec.kind in ("failed", "quarantine"))
SENT = 6
Harm = dict[str, dict[str, object]]
HARM: Harm = {
    "length": {"max-length": 2},
    "bytes": {"max-length-bytes": 12},
    "age": {"message-ttl": 100},
    "looks": {"delivery-limit": 2},
    "elsewhere": {"message-ttl": 100, "dead-letter-exchange": "amq.fanout"},
}
WORSE: Harm = {"oldest": {"max-length": 2, "overflow": "drop-head"}, "unused": {"expires": 200}}
"""What no argument of a queue helps against."""

EVERY = HARM | WORSE
OPERATORS: Harm = {h: HARM[h] for h in ("length", "bytes", "age", "looks")} | {
    "unused": {"expires": 3_600_000}
}
LASTING = (
    "pickup.failed",
    "quarantine",
    "parsed.failed",
    "incoming.failed",
    "incoming.retry.1h",
    "parsed.retry.1h",
    "pickup.retry.1h",
)
"""Queues in which a message stays for as long as a test runs."""


@dataclass
class Place:
    """A virtual host with our queues, as this version declares them."""

    server: RabbitServer
    vhost: str

    def __post_init__(self) -> None:
        with closing(KombuSteward(self.server.url(self.vhost), TIERS)) as steward:
            steward.declare()

    @property
    def management(self) -> Management:
        return Management(management_url(self.server), self.server.url(self.vhost))

    def seen(self) -> Mapping[str, DescribedQueue]:
        return self.management.queues(SPECS)

    def await_policy(self, name: str) -> None:
        """Wait until RabbitMQ says of every queue that this policy counts."""

        def counts() -> bool:
            return all(any(name in p for p in seen.policies) for seen in self.seen().values())

        wait_until(counts, f"the policy {name}", 30)

    def await_policy_at(self, queue: str) -> None:
        """Wait until RabbitMQ says of one queue that the policy of somebody else's counts."""
        wait_until(lambda: "policy all" in self.seen()[queue].policies, "the policy", 30)

    def await_ours(self) -> None:
        """Wait until RabbitMQ says of every queue that there is that one of ours counts."""
        ours = {policy.name for policy in POLICIES}

        def counts() -> bool:
            queues = self.server.api("GET", f"queues/{self.vhost}")
            return all(row.get("policy") in ours for row in queues)

        wait_until(counts, "a policy of ours on every queue", 30)

    def impose(
        self, definition: object, pattern: str = ".*", *, operator: bool = False, name: str = "all"
    ) -> None:
        """Let somebody set a policy."""
        kind = "operator-policies" if operator else "policies"
        policy = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        self.server.api("PUT", f"{kind}/{self.vhost}/{name}", policy | {"priority": 500})

    def connect(self) -> Connection:
        host = f"127.0.0.1:{self.server.port}"
        return Connection(host, virtual_host=self.vhost, confirm_publish=True)

    def put(self, queue: str) -> set[str]:
        """Send messages to a queue; return the ids of those that it took."""
        taken = set()
        with self.connect() as connection:
            channel = connection.channel()
            for number in range(SENT):
                id_ = f"{queue}-{number}"
                message = Message("hello", message_id=id_, delivery_mode=2)
                with suppress(MessageNacked):
                    channel.basic_publish(message, "", queue, confirm_timeout=30)
                    taken.add(id_)
        return taken

    def look(self, queue: str) -> set[str]:
        """Look at the messages of a queue, and give them back; return their ids."""
        with self.connect() as connection:
            channel = connection.channel()
            got = iter(lambda: channel.basic_get(queue), None)
            return {message.properties["message_id"] for message in got}

    def sees(self, queue: str, ids: set[str]) -> bool:
        return self.look(queue) == ids

    def count(self) -> int:
        """Return how many messages there are, those that RabbitMQ holds back among them."""
        queues = self.server.api("GET", f"queues/{self.vhost}")
        return sum(row.get("messages", 0) for row in queues if row["name"] != DECLARED)

    def everywhere(self) -> set[str]:
        """Return the ids of all messages in all queues for the operator."""
        return {id_ for queue in (*KEPT, HELD) for id_ in self.look(queue)}


def management_url(server: RabbitServer, user: str = USER, password: str = PASSWORD) -> str:
    return f"http://{user}:{password}@127.0.0.1:{server.management_port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A node that says what is in effect several times a second, and not every five seconds."""
    often = "collect_statistics_interval = 300\n"
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), config=often) as running:
        running.ctl("eval", "application:set_env(rabbit, quorum_tick_interval, 300).")
        yield running


@pytest.fixture
def place(server: RabbitServer, vhost: str) -> Place:
    return Place(server, vhost)


@pytest.mark.parametrize("harm", ["length", "age", "looks"])
def test_the_arguments_alone_keep_what_is_kept(place: Place, harm: str) -> None:
    place.impose(HARM[harm])
    place.await_policy("all")
    taken = {id_ for queue in KEPT for id_ in place.put(queue)}
    assert len(taken) >= 2 * len(KEPT)
    for _ in range(4):
        place.everywhere()
    wait_until(lambda: place.count() == len(taken), "as many as were taken", 30)
    if harm in ("length", "bytes"):  # others end where RabbitMQ holds them, and nobody sees them
        assert place.everywhere() == taken


def ours(seen: DescribedQueue) -> bool:
    return bool({f"policy {policy.name}" for policy in POLICIES} & set(seen.policies))


def test_our_policies_displace_those_of_others(place: Place) -> None:
    harmed = dict(zip(EVERY, LASTING, strict=True))
    for harm, queue in harmed.items():
        place.impose(EVERY[harm], f"^{queue}$", name=harm)
    assert place.management.declare() == [policy.name for policy in POLICIES]
    assert place.management.declare() == []
    wait_until(lambda: all(ours(seen) for seen in place.seen().values()), "ours", 30)
    assert not any(dangers(SPECS[name], seen) for name, seen in place.seen().items())
    assert place.management.displaced(SPECS) == []
    place.await_ours()
    taken = {queue: place.put(queue) for queue in LASTING}
    assert all(len(ids) == SENT for ids in taken.values())
    for _ in range(4):
        for queue, ids in taken.items():
            wait_until(partial(place.sees, queue, ids), f"all of {queue}")


def test_the_mark_is_replaced_under_our_policies(place: Place) -> None:
    place.management.declare()
    place.await_ours()
    with closing(KombuSteward(place.server.url(place.vhost), TIERS)) as steward:
        steward.set_mark("postmaster", lambda _: '{"us": "first"}')
        steward.set_mark("postmaster", lambda b: (b or b"").decode().replace("first", "second"))
        wait_until(lambda: steward.mark() == b'{"us": "second"}', "the second mark")


@pytest.mark.parametrize("queue", [MARK, HELD])
def test_what_a_policy_could_do_to_a_queue_of_ours_is_said(place: Place, queue: str) -> None:
    place.impose({"expires": 3_600_000}, f"^{queue}$")
    spec = {spec.name: spec for spec in protected(TIERS)}[queue]
    said = f"{queue}: policy all: expires 3600000: deletes it"
    wait_until(
        lambda: any(line.startswith(said) for line in place.management.dangers([spec])), said
    )


def test_what_an_operator_policy_could_do_is_known(place: Place) -> None:
    for harm, queue in zip(OPERATORS, LASTING, strict=False):
        place.impose(OPERATORS[harm], f"^{queue}$", operator=True, name=harm)
    place.management.declare()
    wait_until(lambda: all(ours(seen) for seen in place.seen().values()), "ours", 30)
    seen = place.seen()
    assert seen.keys() == SPECS.keys()
    found = {harm: dangers(SPECS[q], seen[q]) for harm, q in zip(OPERATORS, LASTING, strict=False)}
    said = {harm: lines[0].partition(":")[0] if lines else "" for harm, lines in found.items()}
    # Where it is full it refuses: nothing is lost by that.
    harmful = {
        harm: f"policy kept and operator policy {harm}" for harm in ("age", "looks", "unused")
    }
    assert said == {"length": "", "bytes": ""} | harmful


def test_the_size_of_an_inbox_stays_what_somebody_has_set(place: Place) -> None:
    mine = {"pattern": "^incoming$", "definition": {"max-length-bytes": 5}, "apply-to": "queues"}
    place.server.api("PUT", f"policies/{place.vhost}/backlog", mine)
    place.management.declare()
    place.impose({"max-length": 1, "overflow": "drop-head"})
    expected = {"max-length-bytes": 5, "overflow": "reject-publish"}
    wait_until(lambda: place.seen()["incoming"].effective == expected, "the size", 30)


def test_a_queue_of_an_earlier_version_says_that_it_throws_away() -> None:
    seen = DescribedQueue({"x-delivery-limit": 10**9}, {"delivery-limit": 3}, ("policy all",))
    (line,) = dangers(QueueSpec("pickup.failed", "failed"), seen)
    assert line == (
        "policy all: delivery-limit 3: what was handed out, or looked at, more often is thrown"
        " away; remedy: topology declare --policies"
    )


@pytest.fixture
def office(tmp_path: Path, capfd: pytest.CaptureFixture[str], place: Place) -> Office:
    return visit(place, tmp_path, capfd)


def visit(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Office:
    """Return the commands of an operator there."""
    config = tmp_path / "connector.toml"
    url = place.server.url(place.vhost)
    broker = f'[broker]\nurl = "{url}"\nmanagement_url = "{management_url(place.server)}"\n'
    config.write_text(CONFIG.format(data=tmp_path) + broker)

    def no_broker() -> Any:
        raise AssertionError("not needed")

    return Office(config, tmp_path, capfd, no_broker, no_broker)


def test_the_operator_is_told(office: Office, place: Place) -> None:
    assert office("topology", "declare").status == 0  # five retry tiers
    place.impose({"message-ttl": 60_000})
    place.await_policy("all")
    shown = office("topology", "show", "--json")
    assert len(shown.json) == 23
    assert (
        "warning: quarantine: policy all: message-ttl 60000: what waits for so long (ms) goes to"
        " quarantine.held; remedy: topology declare --policies\n"
    ) in shown.err
    declared = office("topology", "declare", "--policies")
    assert (declared.status, declared.err) == (0, "")
    assert declared.out == "declared: 26 queues\npolicies: backlog, kept, mark\n"
    assert "warning" not in office("topology", "show").err


def test_nothing_is_lost_by_looking(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], server: RabbitServer, vhost: str
) -> None:
    before = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
    server.api("PUT", f"queues/{vhost}/pickup.failed", {"durable": True, "arguments": before})
    place = Place(server, vhost)
    office = visit(place, tmp_path, capfd)
    put = place.put("pickup.failed")
    place.impose({"delivery-limit": 2})
    place.await_policy("all")
    for _ in range(4):
        refused = office("failed", "list")
        assert refused.status == 1
        assert "incoming.failed was not looked into: policy all (delivery-limit 2)" in refused.err
    assert office("topology", "declare", "--policies").status == 0
    for _ in range(4):
        assert {row["id"] for row in office("failed", "list", "--json").json} == put


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_what_a_policy_counts_is_not_looked_at(office: Office, place: Place, limit: int) -> None:
    assert office("topology", "declare").status == 0
    put = {queue: place.put(queue) for queue in KEPT}
    place.impose({"delivery-limit": limit})
    place.await_policy("all")
    before = place.count()
    (office.data / "out").mkdir()
    for _ in range(2):
        for command in (
            ("failed", "list"),
            ("failed", "show", "pickup"),
            ("failed", "requeue", "--all"),
            ("failed", "drop", "--all", "--yes"),
            ("quarantine", "list", "--json"),
            ("quarantine", "export", "--all", "-o", str(office.data / "out")),
        ):
            refused = office(*command)
            assert refused.status == 1, command
            assert f"policy all (delivery-limit {limit})" in refused.err
            assert "remedy: topology declare --policies" in refused.err
    assert place.count() == before
    assert office("topology", "declare", "--policies").status == 0
    place.await_ours()
    for name, queues in (("quarantine", [QUARANTINE]), ("failed", sorted({*KEPT} - {QUARANTINE}))):
        listed = {row["id"] for row in office(name, "list", "--json").json}
        assert listed == {id_ for queue in queues for id_ in put[queue]}


def test_a_look_counts_once(office: Office, place: Place) -> None:
    assert office("topology", "declare").status == 0
    place.put("pickup.failed")
    for _ in range(3):
        assert len(office("failed", "list", "--json").json) == SENT
    with place.connect() as connection:
        found = connection.channel().basic_get("pickup.failed")
        assert found.properties["application_headers"]["x-delivery-count"] == 3


def test_what_no_list_shows_is_said(office: Office, place: Place) -> None:
    assert office("topology", "declare").status == 0
    empty = office("quarantine", "list")
    assert (empty.out, empty.err) == ("Quarantine is empty.\n", "")
    place.put(HELD)
    for folder, title in (("quarantine", "quarantine"), ("failed", "Failed Mail")):
        listed = office(folder, "list")
        assert listed.out == f"What can be seen of {title} is empty.\n"
        assert f"not listed: quarantine.held holds {SENT} messages that a policy" in listed.err
        assert "topology migrate puts back what it threw out" in listed.err
        assert office(folder, "list", "--json").json == []
    assert "warning: quarantine.held holds" in office("topology", "show").err


def test_what_rabbitmq_holds_back_is_said(office: Office, place: Place) -> None:
    assert office("topology", "declare").status == 0
    place.impose({"message-ttl": 100}, "^quarantine(.held)?$")
    place.await_policy_at(QUARANTINE)
    place.put(QUARANTINE)

    def said() -> bool:
        listed = office("quarantine", "list")
        return (
            listed.out == "What can be seen of quarantine is empty.\n"
            and f"not listed: quarantine.held: RabbitMQ holds {SENT} of its" in listed.err
        )

    wait_until(said, "a word on what is held back", 30)


def test_a_queue_of_another_program_is_named_and_left(office: Office, place: Place) -> None:
    foreign = {"x-queue-type": "quorum", "x-delivery-limit": 20}
    with place.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("pickup.failed")
        channel.queue_declare("pickup.failed", durable=True, auto_delete=False, arguments=foreign)
    what = "pickup.failed: it exists already, with other properties than any version"
    for command, status in (("declare", 2), ("migrate", 2), ("show", 0)):
        said = office("topology", command)
        assert (said.status, what in said.err) == (status, True), (command, said)
        assert "run topology declare" in said.err
    assert f"would refuse: queue {what}" in office("topology", "migrate", "--dry-run").out
    assert place.management.queues(["pickup.failed"])["pickup.failed"].arguments == foreign


def test_what_is_not_known_is_said_once(office: Office) -> None:
    lines = office.config.read_text().splitlines()
    office.config.write_text("\n".join(line for line in lines if "management" not in line))
    err = office("topology", "show").err
    assert err.count("whether a policy could lose mail is not known") == 1
    refused = office("topology", "declare", "--policies")
    assert refused.status != 0
    assert "broker.management_url: it is not set; expected http://" in refused.err


def test_who_may_not_is_told_what_is_missing(office: Office, place: Place) -> None:
    place.server.api("PUT", "users/low", {"password": "secret", "tags": ""})
    place.server.api("PUT", "users/watch", {"password": "secret", "tags": "monitoring"})
    for user in ("low", "watch"):
        rights = {"configure": "^$", "write": "^$", "read": "^$"}
        place.server.api("PUT", f"permissions/{place.vhost}/{user}", rights)
    text = office.config.read_text()
    for user, password, expected in (
        ("low", "secret", "policymaker (to declare policies)"),
        ("watch", "secret", "policymaker (to declare policies)"),
        ("watch", "wrong", "needs another password"),
    ):
        url = management_url(place.server, user, password)
        office.config.write_text(text.replace(management_url(place.server), url))
        done = office("topology", "declare", "--policies")
        assert done.status != 0
        assert expected in done.err
        assert password not in done.err
        assert "Traceback" not in done.err
    assert "warning" in office("topology", "show").err  # and shows the queues all the same


async def test_a_process_says_so_when_it_starts_and_when_it_is_asked(
    office: Office, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Invocation({}, office.config).settings()
    clock = ManualClock()
    log = MailLog("parser", lines=configure("INFO"))
    management = open_management(settings)
    assert management is not None
    watch = PolicyWatch(partial(management.dangers, plan(TIERS)), log, clock)
    vitals = Health(_Connected(), clock, log.metrics, "0")  # type: ignore[arg-type]
    vitals.warnings.append(lambda: watch.found)
    vitals.started = True
    await watch.look()
    assert vitals.answer("/readyz")[2] == b"ok\n"
    place.impose({"expires": 3_600_000})
    place.await_policy("all")
    for _ in range(2):
        await watch.look()
    status, _, body = vitals.answer("/readyz")
    assert status == 200
    assert body.count(b"\n") == 1 + len(watch.found)
    assert b"warning: pickup.failed: policy all: expires 3600000: deletes it" in body
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [line["what"] for line in lines if line["event"] == "a policy could lose mail"]
    assert told == list(watch.found)


class _Connected:
    connected = True
    blocked = None
    unsubscribed = ()
    unroutable = ()
    unconfirmed = 0.0
