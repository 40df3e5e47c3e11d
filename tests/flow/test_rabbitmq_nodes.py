"""Several nodes of a broker: whichever is there is used, at the start and after each loss.

Two ways to one node stand for two nodes here; ``scripts/test-cluster`` has three of them.
"""

import asyncio
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest

from shared.broker import Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.errors import BrokerUnavailable
from tests.flow.rabbitmq_site import PATIENCE, TIERS, Site, eventually
from tests.servers.process import free_port
from tests.servers.proxy import Proxy, proxy

NAME = "rabbit.example"


@pytest.fixture
def ways(site: Site) -> Iterator[tuple[Proxy, Proxy]]:
    with proxy(site.server.port) as first, proxy(site.server.port) as second:
        yield first, second


def down(way: Proxy) -> None:
    """Let nobody through any more."""
    way.server = free_port()
    way.cut()


def urls(site: Site, *ways: Proxy) -> list[str]:
    return [site.url.replace(f":{site.server.port}", f":{way.port}") for way in ways]


def _more(way: Proxy, connections: int) -> bool:
    return way.connections > connections


async def test_a_node_that_is_there_is_used(site: Site, ways: tuple[Proxy, Proxy]) -> None:
    down(ways[0])
    nodes = urls(site, *ways)
    broker = RabbitBroker(
        nodes, sender="parser", name="t", tiers=TIERS, version="0", report=site.report
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await broker.open()
        await broker.publish(Send("parsed", b"y", "m0"))
        for number, (dead, live) in enumerate((ways[::-1], ways), 1):
            live.server = site.server.port
            tried = partial(_more, live, live.connections)
            down(dead)
            await eventually(tried, "the other to be tried")
            await eventually(lambda: broker.connected, "the broker to be back")
            await broker.publish(Send("parsed", b"y", f"m{number}"))
    finally:
        await broker.close()
    assert await site.held("parsed") == {"m0": 1, "m1": 1, "m2": 1}


async def test_a_name_is_looked_up_for_each_connection(
    site: Site, ways: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    leads_to = ways[0]
    look_up = socket.getaddrinfo

    def moving(host: str, port: object, *rest: Any, **named: Any) -> Any:
        if host != NAME:
            return look_up(host, cast(int, port), *rest, **named)
        return look_up("127.0.0.1", leads_to.port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    broker = site.make(url=site.url.replace("127.0.0.1", NAME))
    try:
        await broker.open()
        leads_to = ways[1]
        down(ways[0])
        await eventually(partial(_more, ways[1], 1), "both connections, at the new address")
        await eventually(lambda: broker.connected, "the broker to be back")
        await broker.publish(Send("parsed", b"y", "m1"))
    finally:
        await broker.close()
    assert await site.held("parsed") == {"m1": 1}


def test_an_operator_uses_a_node_that_is_there(site: Site, ways: tuple[Proxy, Proxy]) -> None:
    for dead, live in (ways, ways[::-1]):
        live.server = site.server.port
        down(dead)
        steward = KombuSteward(urls(site, *ways), TIERS)
        assert steward.depths()["parsed"] == 0
        steward.close()
    down(live)
    with pytest.raises(BrokerUnavailable) as caught:
        KombuSteward(urls(site, *ways), TIERS).depths()
    assert all(str(way.port) in str(caught.value) for way in ways)
    assert "guest:guest" not in str(caught.value)
