"""A connector's data directory over the embedded broker, and the command line to look into it."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.command_line import main
from shared import wire
from shared.broker import Broker, Header, Send, Steward, Stored
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.clock import SystemClock
from shared.message import Addressed, Envelope, Fetched, Hop, Inline, Payload, Raw, Spooled, Summary
from shared.queues import Tier
from shared.spool import Spool
from tests.ids import id_of

RAW = b"From: Ann <ann@example.net>\r\nSubject: hello\r\n\r\nbody\n.\r\n\xff\r\n"
FIRST_SEEN = 1_700_000_000.0
TIERS = (Tier("30s", 30), Tier("5m", 300), Tier("30m", 1800), Tier("2h", 7200), Tier("6h", 21600))

CONFIG = """
data_dir = "{data}"
[delivery]
url = "maildir://{data}/mail/{{mailbox}}"
[[account]]
name = "sales"
host = "localhost"
username = "sales"
password = "hunter2"
mailbox = "sales@corp.example"
"""


def _id(name: str, payload: Payload | None) -> str:
    """Return the id of a message; one that is in the spool has that of its blob."""
    if isinstance(payload, Fetched | Addressed) and isinstance(payload.raw, Spooled):
        return payload.raw.key
    return id_of(name)


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Office:
    """One configuration, its data directory, and the commands."""

    config: Path
    data: Path
    capture: pytest.CaptureFixture[str]
    broker: Callable[[], Broker]
    steward: Callable[[], Steward]

    def __call__(self, *arguments: str) -> Printed:
        """Run a command with this configuration."""
        self.capture.readouterr()
        status = main(["--config", str(self.config), *arguments])
        out, err = self.capture.readouterr()
        assert "Traceback" not in out + err
        return Printed(status, out, err)

    def put(
        self,
        id_: str,
        *,
        queue: str = "pickup.failed",
        payload: Payload | None = None,
        body: bytes | None = None,
        **headers: Header,
    ) -> None:
        """Put a message where the operator finds it, as the runner does."""
        if body is None:
            body = wire.encode(
                Envelope(
                    _id(id_, payload),
                    "sales",
                    addressed() if payload is None else payload,
                    FIRST_SEEN,
                    attempt=3,
                    first_failure=FIRST_SEEN + 10,
                    trail=(Hop("fetcher", FIRST_SEEN), Hop("parser", FIRST_SEEN + 1)),
                )
            )
        known: dict[str, Header] = {
            "account": "sales",
            "from": "ann@example.net",
            "subject": "hello",
            "reason": "550 5.1.1 no such user",
            "stage": "deliverer",
            "inbox": queue.partition(".")[0],
            "attempts": 3,
            "first-failure": "2023-11-14T22:13:30+00:00",
        }
        plain = {key.strip("_").replace("_", "-"): value for key, value in headers.items()}
        asyncio.run(self._publish(Send(queue, body, id_, {**known, **plain})))

    async def _publish(self, send: Send) -> None:
        broker = self.broker()
        await broker.open()
        try:
            await broker.publish(send)
        finally:
            await broker.close()

    def spooled(self, key: str, data: bytes) -> Spooled:
        """Put a raw message into the spool."""

        async def put() -> None:
            blob = await self.spool.create()
            await blob.write(data)
            await blob.commit(key)

        asyncio.run(put())
        return Spooled(key, len(data), data[: data.index(b"\r\n\r\n") + 4])

    @property
    def spool(self) -> Spool:
        return Spool(f"file://{self.data}/spool")

    def queue(self, name: str) -> Sequence[Stored]:
        """Return what is in a queue."""
        steward = self.steward()
        try:
            return list(steward.browse(name))
        finally:
            steward.close()

    def ids(self, name: str) -> list[str]:
        return [message.message_id for message in self.queue(name)]


def addressed(raw: Raw | None = None) -> Addressed:
    return Addressed(
        Inline(RAW) if raw is None else raw,
        "uidl-1",
        "pop.example.net:995",
        Summary(subject="hello"),
        "ann@example.net",
        ("sales@corp.example", "info@corp.example"),
        "default",
        b"Delivered-To: sales@corp.example\r\n",
    )


def fetched(raw: bytes = RAW) -> Fetched:
    return Fetched(Inline(raw), "uidl-1", "pop.example.net:995")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as through a pipe, whatever the terminal is that the tests are run from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def office(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Office:
    data = tmp_path / "data"
    config = tmp_path / "connector.toml"
    config.write_text(CONFIG.format(data=data))
    config.chmod(0o600)
    queues = data / "queue.db"
    return Office(
        config,
        data,
        capfd,
        lambda: EmbeddedBroker(queues, tiers=TIERS, name="test"),
        lambda: EmbeddedSteward(queues, TIERS, SystemClock()),
    )
