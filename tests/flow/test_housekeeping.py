"""Sweeping the spool beside a real RabbitMQ: nothing that a message refers to is ever deleted."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shared.broker import Broker, Delivery, Steward
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.message import Fetched, Spooled
from tests.contract.messages import PATIENCE
from tests.deliveries import singly
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer
from tests.unit.postmaster.conftest import CONFIG, RAW, TIERS, Office, fetched

YEAR = 365 * 86_400.0
PLACES = {
    "0aincoming": "incoming",
    "0bpickup": "pickup",
    "0cretry": "parsed.retry.6h",
    "0dfailed": "pickup.failed",
    "0equarantine": "quarantine",
}
"""A blob for each kind of queue, and the queue with the message that refers to it."""


@pytest.fixture
def office(
    server: RabbitServer,
    vhost: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Office:
    # Nothing here is on its way between two queues, so both looks may follow at once.
    monkeypatch.setattr("shared.broker.steward.steward.SETTLING", 0.0)
    url = server.url(vhost)
    config = tmp_path / "connector.toml"
    config.write_text(CONFIG.format(data=tmp_path) + f'[broker]\nurl = "{url}"')

    def broker() -> Broker:
        return RabbitBroker(url, sender="postmaster", name="test", tiers=TIERS, version="0")

    def steward() -> Steward:
        return KombuSteward(url, TIERS)

    found = Office(config, tmp_path, capfd, broker, steward)
    assert found("topology", "declare").status == 0
    for key, queue in PLACES.items():
        found.put(f"id-{key}", queue=queue, payload=large(key), inbox="incoming")
        blob(found, key)
    blob(found, "0forphan")
    return found


def large(key: str) -> Fetched:
    return replace(fetched(), raw=Spooled(key, len(RAW), RAW[:20]))


def blob(office: Office, key: str) -> None:
    """Put a blob into the spool that was written a year ago."""
    office.spooled(key, RAW)
    path = office.data / "spool" / key[:2] / key[2:]
    written = path.stat().st_mtime - YEAR
    os.utime(path, (written, written))


def keys(office: Office) -> list[str]:
    return sorted(each["key"] for each in office("spool", "list", "--json").json)


@asynccontextmanager
async def consuming(make: Callable[[], Broker], queue: str) -> AsyncGenerator[Delivery, None]:
    """Hold the first message of a queue in hand, as a stage does."""
    broker = make()
    await broker.open()
    deliveries = singly(broker.consume(queue, 1))
    async with asyncio.timeout(PATIENCE):
        delivery = await anext(deliveries)
    yield delivery
    await deliveries.aclose()
    await broker.close()


class Pauses:
    """Does something else in place of the pauses of a sweep; no other sleep is as long as these.

    Args:
        between: in place of the pause between its two looks.
        waiting: in place of the first in which it waits for somebody else to be done.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        between: Callable[[], None] = lambda: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.count = 0
        self.waits = 0
        self._between = between
        self._waiting = waiting
        monkeypatch.setattr("shared.broker.steward.steward.SETTLING", 45.0)
        monkeypatch.setattr("shared.broker.steward.look.STEPPED_BACK", (40.0, 40.0))
        monkeypatch.setattr("shared.broker.steward.steward.time.sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        if seconds == 45.0:
            self.count += 1
            self._between()
        elif seconds == 40.0:
            self.waits += 1
            if self.waits == 1:
                self._waiting()


def test_what_any_queue_refers_to_is_kept_and_every_message_stays(office: Office) -> None:
    shown = office("spool", "sweep", "--dry-run", "--json").json
    assert [each["key"] for each in shown["orphans"]] == ["0forphan"]
    assert len(keys(office)) == len(PLACES) + 1
    printed = office("spool", "sweep", "--json")
    assert (printed.status, printed.json["deleted"]) == (0, 1)
    assert keys(office) == sorted(PLACES)
    depths = {row["queue"]: row["messages"] for row in office("topology", "show", "--json").json}
    assert dict.fromkeys(PLACES.values(), 1) == {q: n for q, n in depths.items() if n}


async def test_it_refuses_while_a_stage_has_messages_in_hand(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = Pauses(monkeypatch, lambda: None)
    async with consuming(office.broker, "incoming"):
        refused = await asyncio.to_thread(office, "spool", "sweep")
    assert (refused.status, refused.out) == (1, "")
    assert "stages are running, as the consumers of these queues: incoming (1)" in refused.err
    assert pauses.count == 0  # at once, not after the first look
    assert len(await asyncio.to_thread(keys, office)) == len(PLACES) + 1

    swept = await asyncio.to_thread(office, "spool", "sweep", "--json")
    assert swept.json["deleted"] == 1
    assert await asyncio.to_thread(keys, office) == sorted(PLACES)


async def test_force_sweeps_all_the_same(office: Office) -> None:
    async with consuming(office.broker, "pickup"):
        swept = await asyncio.to_thread(office, "spool", "sweep", "--force", "--json")
    assert [each["key"] for each in swept.json["orphans"]] == ["0bpickup", "0forphan"]


@pytest.mark.parametrize("force", [(), ("--force",)])
async def test_it_refuses_while_others_have_what_is_for_the_operator_in_hand(
    office: Office, monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...]
) -> None:
    monkeypatch.setattr("shared.broker.steward.look.LOOKING", 0.0)
    async with consuming(office.broker, "quarantine"):
        refused = await asyncio.to_thread(office, "spool", "sweep", *force)
    assert (refused.status, refused.out) == (1, "")
    assert "quarantine: others have had its messages in hand" in refused.err
    assert len(await asyncio.to_thread(keys, office)) == len(PLACES) + 1


async def test_it_refuses_if_a_stage_is_started_meanwhile(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = consuming(office.broker, "pickup")
    loop = asyncio.get_running_loop()

    def start() -> None:
        asyncio.run_coroutine_threadsafe(stage.__aenter__(), loop).result()

    pauses = Pauses(monkeypatch, start)
    refused = await asyncio.to_thread(office, "spool", "sweep")
    await stage.__aexit__(None, None, None)
    assert pauses.count == 1
    assert (refused.status, refused.out) == (1, "")
    assert "pickup (1)" in refused.err
    assert len(await asyncio.to_thread(keys, office)) == len(PLACES) + 1


async def test_what_somebody_else_has_in_hand_is_waited_for(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else holds a message for a moment, without being a consumer of a work queue."""
    holding = consuming(office.broker, "parsed.retry.6h")
    loop = asyncio.get_running_loop()

    def let_go() -> None:
        asyncio.run_coroutine_threadsafe(holding.__aexit__(None, None, None), loop).result()
        wait_until(lambda: office.ids("parsed.retry.6h") != [], "the message to be back")

    pauses = Pauses(monkeypatch, waiting=let_go)
    await holding.__aenter__()
    swept = await asyncio.to_thread(office, "spool", "sweep", "--json")
    assert (pauses.count, pauses.waits > 0) == (1, True)
    assert [each["key"] for each in swept.json["orphans"]] == ["0forphan"]


def test_it_refuses_where_a_queue_is_missing(office: Office) -> None:
    text = office.config.read_text()
    office.config.write_text(text + '\n[retry]\ntiers = ["7s"]\n')
    printed = office("spool", "sweep", "--force")
    assert (printed.status, printed.out) == (1, "")
    assert "there are no queues incoming.retry.7s, " in printed.err
    assert len(keys(office)) == len(PLACES) + 1


def test_a_user_who_may_not_look_deletes_nothing(
    office: Office, server: RabbitServer, vhost: str
) -> None:
    permissions = {"configure": "^$", "write": "^postmaster$", "read": r"^.*\.failed$"}
    url = server.user("blind", "secret", vhost, permissions)
    text = office.config.read_text()
    office.config.write_text(text.replace(server.url(vhost), url))
    printed = office("spool", "sweep")
    assert (printed.status, printed.out) == (2, "")
    assert "access refused" in printed.err
    assert len(keys(office)) == len(PLACES) + 1
