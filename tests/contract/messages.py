"""What the contract suite sends, takes and waits for."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace

import pytest

from shared import wire
from shared.broker import INSTANCE, Broker, Delivery, Header, Send
from shared.message import Envelope, Fetched, Hop, Inline, Summary
from tests.servers.rabbitmq import RabbitServer

PATIENCE = 60.0
"""Seconds after which a condition that does not come true fails the test."""

MAIL = Envelope(
    "f" * 64,
    "sales",
    Fetched(Inline(b"Subject: hello\r\n\r\nbody\r\n"), "u1", "pop:995", Summary("a@b", "hello")),
    1_700_000_000.0,
    attempt=7,
    first_failure=1_700_000_100.0,
    trail=(Hop("fetcher", 1_700_000_000.0),),
)

FAILURE: dict[str, Header] = {
    "account": "sales",
    "reason": "550 no such user",
    "stage": "parser",
    "inbox": "incoming",
    "attempts": 7,
    "first-failure": "2023-11-14T22:15:00+00:00",
    "failed-at": "2023-11-14T22:20:00+00:00",
}


def send(number: int, queue: str = "incoming", body: bytes | None = None) -> Send:
    content = b"body %d" % number if body is None else body
    return Send(queue, content, f"id-{number}", {"account": "sales", "size": len(content)})


def failed(number: int, queue: str = "incoming.failed") -> Send:
    body = wire.encode(replace(MAIL, id=f"id-{number}"))
    return Send(queue, body, f"id-{number}", FAILURE)


async def take(deliveries: AsyncGenerator[Delivery, None], count: int = 1) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(deliveries) for _ in range(count)]


async def one(deliveries: AsyncGenerator[Delivery, None]) -> Delivery:
    (delivery,) = await take(deliveries)
    return delivery


async def eventually(true: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def has_depth(broker: Broker, queue: str, depth: int) -> None:
    async def true() -> bool:
        return (await broker.depths([queue]))[queue] == depth

    await eventually(true, f"{depth} messages in {queue}")


def as_sent(headers: Mapping[str, Header]) -> dict[str, Header]:
    """Return headers as they were sent, without the name of the connector."""
    return {name: value for name, value in headers.items() if name != INSTANCE}


def publish(server: RabbitServer, vhost: str, queue: str) -> None:
    """Publish what is no message of ours to a queue of the deliverer's, as a person does."""
    message = {"properties": {}, "payload": "x", "payload_encoding": "string"}
    server.api("POST", f"exchanges/{vhost}/deliverer/publish", message | {"routing_key": queue})
