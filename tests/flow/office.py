"""The command line over a real RabbitMQ, with a virtual host of its own."""

import asyncio
import base64
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.broker import Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from tests.servers.rabbitmq import RabbitServer, shared_rabbitmq
from tests.unit.postmaster.conftest import CONFIG, TIERS, Office


@contextlib.contextmanager
def rabbitmq_office(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[tuple[Office, "Neighbour"]]:
    """Yield a configuration with its commands, and somebody else at the same virtual host."""
    server = shared_rabbitmq()
    vhost = server.vhost()
    url = server.url(vhost)
    config = tmp_path / "connector.toml"
    config.write_text(CONFIG.format(data=tmp_path) + f'[broker]\nurl = "{url}"')
    config.chmod(0o600)
    office = Office(
        config,
        tmp_path,
        capfd,
        lambda: RabbitBroker(
            url, sender="postmaster", name="operator@test", tiers=TIERS, version="0"
        ),
        lambda: KombuSteward(url, TIERS),
    )
    yield office, Neighbour(server, vhost, url)
    server.drop_vhost(vhost)


class Neighbour:
    """Somebody with an account for the management UI, and ideas of their own."""

    def __init__(self, server: RabbitServer, vhost: str, url: str) -> None:
        self._server = server
        self._vhost = vhost
        self.url = url

    def policy(self, pattern: str, **definition: object) -> None:
        """Set a policy on all queues that match."""
        body = {"pattern": pattern, "apply-to": "queues", "definition": definition}
        self._server.api("PUT", f"policies/{self._vhost}/theirs", body)

    def get(
        self, queue: str, count: int = 1, mode: str = "ack_requeue_true"
    ) -> Sequence[dict[str, Any]]:
        """Click "Get messages"."""
        wanted = {"count": count, "ackmode": mode, "encoding": "base64"}
        found = self._server.api("POST", f"queues/{self._vhost}/{queue}/get", wanted)
        assert isinstance(found, list)
        return found

    def publish(self, queue: str, body: bytes, **properties: object) -> None:
        """Click "Publish message"."""
        self._server.api(
            "POST",
            f"exchanges/{self._vhost}/amq.default/publish",
            {
                "properties": properties,
                "routing_key": queue,
                "payload": base64.b64encode(body).decode(),
                "payload_encoding": "base64",
            },
        )

    def move(self, origin: str, queue: str, *, kept: bool) -> None:
        """Move a message by "Get" and "Publish", with its properties or without any."""
        (found,) = self.get(origin, mode="ack_requeue_false")
        properties = found["properties"] if kept else {}
        self.publish(queue, base64.b64decode(found["payload"]), **properties)


def put(office: Office, *sends: Send) -> None:
    """Publish messages as a stage does."""

    async def publish() -> None:
        broker = office.broker()
        await broker.open()
        await broker.publish(*sends)
        await broker.close()

    asyncio.run(publish())
