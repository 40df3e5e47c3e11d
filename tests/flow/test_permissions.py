"""Each service's RabbitMQ user: what it must do it can, and what it must not is refused.

The users are those of deploy/rabbitmq/definitions.json, with passwords by deploy/init-secrets, on
a real broker. What is refused is refused by the broker, not by us: these clients are bare.
"""

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from amqp import Channel, Connection, Message
from amqp.exceptions import AccessRefused, AMQPError

from services.postmaster import mail_folder
from shared.broker.steward.steward import KombuSteward
from shared.queues import (
    DECLARED,
    HELD,
    MARK,
    PICKUP,
    POLL,
    QUARANTINE,
    SENDERS,
    Tier,
    failed_queue,
    plan,
)
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer, rabbitmq
from tests.stewards import its_id

ROOT = Path(__file__).resolve().parents[2]
TIERS = (Tier("30s", 30.0),)
QUEUES = tuple(spec.name for spec in plan(TIERS))
INBOXES = {"fetcher": "poll", "parser": "incoming", "rewriter": "parsed", "deliverer": "pickup"}
READABLE = {
    **{service: (inbox,) for service, inbox in INBOXES.items()},
    "fetcher": (POLL, MARK),
    "deliverer": (PICKUP, MARK),
    "postmaster": (*QUEUES, DECLARED, HELD),
    "monitor": (),
}
EXCHANGES = (*SENDERS, "amq.direct", "")
"""Where somebody may try to publish; the empty name is the default exchange."""


class Deployment:
    """A broker with the definitions of the deployment loaded, and the secrets to use it."""

    def __init__(self, server: RabbitServer, secrets: Path) -> None:
        self.server = server
        self.secrets = secrets

    def password(self, user: str) -> str:
        return (self.secrets / user / "broker-password").read_text()

    def connect(self, user: str, password: str = "") -> Connection:
        connection = Connection(
            f"127.0.0.1:{self.server.port}",
            userid=user,
            password=password or self.password(user),
            confirm_publish=True,
            connect_timeout=10,
        )
        connection.connect()
        return connection

    def steward(self, user: str) -> KombuSteward:
        url = f"amqp://{user}:{self.password(user)}@127.0.0.1:{self.server.port}/"
        return KombuSteward(url, TIERS)

    def refused(self, user: str, action: Callable[[Any], object]) -> bool:
        """Return whether the broker refuses what is done on a channel of this user's."""
        with suppress(AMQPError), self.connect(user) as connection:
            try:
                action(connection.channel())
            except AccessRefused:
                return True
        return False

    def api(self, user: str, path: str, body: object = None, method: str | None = None) -> Any:
        credentials = base64.b64encode(f"{user}:{self.password(user)}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.management_port}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def make_secrets(folder: Path, *own: Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "deploy/init-secrets", "make", folder, *own], check=True, timeout=60
    )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    secrets = tmp_path_factory.mktemp("secrets")
    make_secrets(secrets)
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq") / "node") as server:
        definitions = json.loads((secrets / "rabbitmq/definitions.json").read_text())
        server.api("POST", "definitions", definitions)
        found = Deployment(server, secrets)
        steward = found.steward("declare")
        steward.declare()
        steward.close()
        yield found


def consume(channel: Channel, queue: str) -> None:
    channel.basic_consume(queue, callback=lambda _: None)


@pytest.mark.parametrize("action", [Channel.basic_get, consume, Channel.queue_purge])
@pytest.mark.parametrize("user", READABLE)
def test_a_user_takes_from_its_own_queues_and_no_other(
    deployment: Deployment, user: str, action: Callable[[Channel, str], object]
) -> None:
    def refused(queue: str) -> bool:
        return deployment.refused(user, lambda channel: action(channel, queue))

    assert {q for q in (*QUEUES, DECLARED, HELD, MARK) if not refused(q)} == set(READABLE[user])


@pytest.mark.parametrize("user", READABLE)
def test_a_user_publishes_to_the_exchange_of_its_name_alone(
    deployment: Deployment, user: str
) -> None:
    def refused(exchange: str) -> bool:
        return deployment.refused(
            user, lambda channel: channel.basic_publish(Message(b""), exchange, "nowhere")
        )

    own = {user} if user in SENDERS else set()
    assert {exchange for exchange in EXCHANGES if not refused(exchange)} == own


@pytest.mark.parametrize("user", READABLE)
def test_a_user_changes_nothing_of_the_topology(deployment: Deployment, user: str) -> None:
    attempts: list[Callable[[Any], object]] = [
        lambda channel: channel.queue_declare("new"),
        lambda channel: channel.queue_delete(POLL),
        lambda channel: channel.exchange_declare("new", "direct"),
        lambda channel: channel.exchange_delete(user),
        lambda channel: channel.queue_bind(POLL, "fetcher", "more"),
        lambda channel: channel.queue_unbind(POLL, "fetcher", "more"),
    ]
    assert [deployment.refused(user, attempt) for attempt in attempts] == [True] * len(attempts)


def test_the_topology_is_whole_after_all_these_attempts(deployment: Deployment) -> None:
    names = {queue["name"] for queue in deployment.api("monitor", "queues")}
    assert names == {*QUEUES, DECLARED, HELD, MARK}


def test_a_wrong_password_is_refused(deployment: Deployment) -> None:
    with pytest.raises(AccessRefused):
        deployment.connect("parser", deployment.password("rewriter"))


@pytest.mark.parametrize("user", [*SENDERS, "declare"])
def test_no_service_sees_the_management_api(deployment: Deployment, user: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        deployment.api(user, "queues")


def test_the_monitor_can_look_and_not_touch(deployment: Deployment) -> None:
    assert deployment.api("monitor", "overview")["object_totals"]["queues"] == len(QUEUES) + 3
    with pytest.raises(urllib.error.HTTPError, match="401"):
        deployment.api("monitor", "users")


@pytest.mark.parametrize("queue", [failed_queue(PICKUP), QUARANTINE])
def test_who_monitors_counts_what_is_kept_and_cannot_take_it(
    deployment: Deployment, queue: str
) -> None:
    with deployment.connect("deliverer") as connection:
        message = Message(b"body", message_id="kept", application_headers={"reason": "550 no"})
        connection.channel().basic_publish(message, "deliverer", queue)
    path = f"queues/%2F/{queue}"
    attempts: list[tuple[str, str, object]] = [
        ("POST", f"{path}/get", {"count": 1, "ackmode": mode, "encoding": "auto"})
        for mode in ("ack_requeue_true", "ack_requeue_false", "reject_requeue_false")
    ]
    attempts += [("DELETE", f"{path}/contents", None), ("DELETE", path, None)]
    for method, where, body in attempts:
        with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
            deployment.api("monitor", where, body, method)

    def counted() -> bool:
        return bool(deployment.api("monitor", path).get("messages") == 1)

    wait_until(counted, "the count of messages", 20)
    steward = deployment.steward("postmaster")
    folder = mail_folder.QUARANTINED if queue == QUARANTINE else mail_folder.FAILED
    assert [m.message_id for m in mail_folder.browse(steward, folder)] == ["kept"]
    assert steward.drop(queue, ["kept"], its_id) == ["kept"]
    steward.close()


def test_secrets_are_strong_different_and_made_once(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    make_secrets(tmp_path)
    assert {path: path.read_bytes() for path in files} == before
    brokers = [text for path, text in before.items() if path.name == "broker-password"]
    assert len(set(brokers)) == len(brokers) == 7
    assert all(len(text) >= 43 for path, text in before.items() if path.suffix != ".json")


def test_secrets_belong_to_who_reads_them(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert modes.pop("rabbitmq/definitions.json") == 0o444
    assert set(modes.values()) == {0o400}
    if os.geteuid() == 0:
        assert (tmp_path / "parser/broker-password").stat().st_uid == 10001
        assert (tmp_path / "postgres/database-password").stat().st_uid == 0


def test_each_service_has_a_database_password_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "fetcher").mkdir()
    (tmp_path / "fetcher/database-password").write_text("the owner's, by an earlier version")
    make_secrets(tmp_path)
    owners = {str(path.parent.name) for path in tmp_path.glob("*/database-password")}
    assert owners == {"postgres", "schema"}
    own = {path.parent.name: path.read_text() for path in tmp_path.glob("*/state-password")}
    assert set(own) == {"fetcher", "deliverer", "postmaster"}
    assert len({*own.values(), (tmp_path / "schema/database-password").read_text()}) == 4
    for role, password in own.items():
        assert (tmp_path / f"schema/{role}-password").read_text() == password


def test_rabbitmq_gets_hashes_alone(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    text = (tmp_path / "rabbitmq/definitions.json").read_text()
    for user in json.loads(text)["users"]:
        password = (tmp_path / user["name"] / "broker-password").read_text()
        raw = base64.b64decode(user["password_hash"])
        assert raw[4:] == hashlib.sha256(raw[:4] + password.encode()).digest()
        assert password not in text


def test_the_operators_own_secrets_follow_his_folder(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "accounts").mkdir(parents=True)
    (own / "accounts/sales").write_text("first\n")
    (own / "accounts/info").write_text("other\n")
    make_secrets(tmp_path / "made", own)
    (own / "accounts/sales").write_text("second\n")
    (own / "accounts/info").unlink()
    make_secrets(tmp_path / "made", own)
    accounts = tmp_path / "made/fetcher/accounts"
    assert {path.name: path.read_text() for path in accounts.iterdir()} == {"sales": "second\n"}
    assert not (tmp_path / "made/deliverer/accounts").exists()
