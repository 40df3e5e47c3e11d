"""Two connectors in one virtual host of RabbitMQ: each gets its own mail, and it is said."""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from amqp import Connection, Message

from shared.broker import Delivery, Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.queues import INCOMING, POLL
from tests.deliveries import singly
from tests.flow.forked import ForkedConnector
from tests.flow.rabbitmq_site import PATIENCE, QUIET, TIERS, Site, eventually, one
from tests.servers.dovecot import Dovecot, dovecot

STAGING, LIVE = ("staging", "beta"), ("live",)
ROUNDS = 20
MANY = 40
"""Messages, enough to share entries."""


@contextlib.asynccontextmanager
async def broker(site: Site, names: tuple[str, ...]) -> AsyncGenerator[RabbitBroker, None]:
    broker = RabbitBroker(
        site.url,
        sender="postmaster",
        name=names[0],
        tiers=TIERS,
        version="0",
        names=names,
        report=site.report,
    )
    async with asyncio.timeout(PATIENCE):
        await broker.open()
    yield broker
    await broker.close()


async def taken(broker: RabbitBroker, queue: str, count: int) -> Counter[str]:
    """Return the ids that come, settled: so many at least, and all until none comes."""
    found: Counter[str] = Counter()
    deliveries = singly(broker.consume(queue, 50))
    with contextlib.suppress(TimeoutError):
        while True:
            wait = QUIET if found.total() >= count else PATIENCE
            delivery: Delivery = await asyncio.wait_for(anext(deliveries), wait)
            found[delivery.message_id] += 1
            await broker.settle(delivery)
    await deliveries.aclose()
    return found


async def test_a_message_waits_for_its_own_connector(site: Site) -> None:
    with Connection(
        f"127.0.0.1:{site.server.port}", virtual_host=site.vhost, confirm_publish=True
    ) as old:
        old.channel().basic_publish(Message(b"x", message_id="nameless"), "fetcher", INCOMING)
    async with broker(site, LIVE) as live, broker(site, STAGING) as staging:
        sends = [Send(INCOMING, b"x", f"{n}", {"account": "sales"}) for n in range(MANY)]
        await live.publish(*sends)
        await staging.publish(Send(INCOMING, b"x", "own"))
        found = await taken(staging, INCOMING, 2)
        assert found == Counter(["nameless", "own"])
        # They go round meanwhile, and none of them leaves.
        consuming = staging.consume(INCOMING, 10)
        nothing = asyncio.ensure_future(anext(consuming))
        await eventually(lambda: len(site.reports) >= 1, "a word of it")
        assert not nothing.done()
        nothing.cancel()
        assert await taken(live, INCOMING, MANY) == Counter(str(n) for n in range(MANY))
    (line,) = [line for line in site.reports if "another connector" in line]
    assert "'connector': 'live'" in line
    assert "'queue': 'incoming'" in line


async def test_a_poll_job_goes_back(site: Site) -> None:
    async with broker(site, LIVE) as live, broker(site, STAGING) as staging:
        await live.publish(Send(POLL, b"x", "poll-sales"))
        consuming = staging.consume(POLL, 10)
        nothing = asyncio.ensure_future(anext(consuming))
        await eventually(lambda: site.reported("another connector"), "a word of it")
        assert await taken(live, POLL, 1) == Counter(["poll-sales"])
        assert not nothing.done()
        nothing.cancel()


async def test_what_the_connector_was_called_before_is_its_own(site: Site) -> None:
    async with broker(site, ("beta",)) as before, broker(site, STAGING) as staging:
        await before.publish(Send(INCOMING, b"x", "a"))
        delivery = await one(singly(staging.consume(INCOMING, 1)))
        assert delivery.message_id == "a"
        await staging.settle(delivery)


def test_who_else_is_there_is_known(site: Site) -> None:
    def declare(names: tuple[str, ...]) -> list[str]:
        with closing(KombuSteward(site.url, TIERS, names=names)) as steward:
            steward.declare()
            assert steward.strays() == {}
            return list(steward.neighbours())

    assert declare(("pop3-connector",)) == []  # by the fixture, too
    assert declare(LIVE) == ["pop3-connector"]
    assert declare((*LIVE, "pop3-connector")) == []
    assert declare(("beta", "pop3-connector")) == ["live"]
    assert declare((*STAGING, "pop3-connector")) == ["live"]


def with_own(name: str, number: int, before: bytes | None) -> str:
    return json.dumps({**json.loads(before or b"{}"), name: number})


def test_connectors_that_write_their_marks_at_once_lose_none(site: Site) -> None:
    """Each takes what is there, adds its own, and is never told that there is nothing."""
    begun = threading.Barrier(3)
    with closing(site.steward()) as steward:
        steward.set_mark("fetcher", partial(with_own, "live", 0))

    def writes(name: str) -> None:
        with closing(site.steward()) as steward:
            begun.wait(PATIENCE)
            for n in range(1, ROUNDS + 1):
                steward.set_mark("fetcher", partial(with_own, name, n))
                time.sleep(0.01)

    def reads() -> list[bytes | None]:
        with closing(site.steward()) as steward:
            begun.wait(PATIENCE)
            return [steward.mark() for _ in range(ROUNDS)]

    with ThreadPoolExecutor() as pool:
        *writing, reading = (
            *(pool.submit(writes, name) for name in ("live", "staging")),
            pool.submit(reads),
        )
        found = reading.result()
        for one in writing:
            one.result()
    assert None not in found
    with closing(site.steward()) as steward:
        assert json.loads(steward.mark() or b"{}") == {"live": ROUNDS, "staging": ROUNDS}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Dovecot]:
    folder = tmp_path / "provider"
    folder.mkdir()
    with dovecot(folder, {"live": "secret", "staging": "secret"}) as server:
        yield server


def test_mail_of_two_connectors_gets_to_its_own_mailboxes(
    tmp_path: Path, provider: Dovecot, site: Site
) -> None:
    both: dict[str, ForkedConnector] = {}
    with contextlib.ExitStack() as stack:
        for name in ("live", "staging"):
            folder = tmp_path / name
            folder.mkdir()
            product = both[name] = stack.enter_context(closing(ForkedConnector(folder)))
            account = {
                "name": "sales",
                "host": "127.0.0.1",
                "port": provider.pop3,
                "tls": "none",
                "username": name,
                "password": "secret",
                "mailbox": "sales@corp.example",
                "keep": "delete",
                "poll_every": "1s",
            }
            product.configure(
                [account], f"maildir://{folder}/mail", site.url, retry={"tiers": ["1s"]}
            )
            text = product.config.read_text()
            product.config.write_text(text.replace("[broker]", f'[broker]\ninstance = "{name}"'))
            messages = [f"Subject: {n}\r\n\r\nfor {name}\r\n".encode() for n in range(12)]
            provider.put(name, *messages)
        for product in both.values():
            assert product.cli("topology", "declare").returncode == 0
        said = both["live"].cli("topology", "show").stderr
        assert "the connector staging uses this virtual host, too" in said
        for product in both.values():
            product.start("run")

        def stored(name: str) -> list[bytes]:
            return [p.read_bytes() for p in (tmp_path / name / "mail").glob("**/new/*")]

        both["live"].wait(lambda: all(len(stored(name)) >= 12 for name in both), "all mail", 300)
        for name, product in both.items():
            assert product.stop("run") == 0
            assert len(stored(name)) == 12
            assert all(f"for {name}".encode() in message for message in stored(name))
        assert sum(p.count("run", "messages of another connector") for p in both.values()) > 0
