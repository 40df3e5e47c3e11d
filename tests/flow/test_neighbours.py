"""Destinations that hang, beside one that does not: its mail arrives while they are still hanging.

The bad ones' mail comes first, and more than twice as much of it as a deliverer has places.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from services.deliverer.servers.fair_share import IN_HAND
from shared.queues import Tier
from tests.flow.addressed import put_addressed
from tests.flow.connector import Connector
from tests.flow.queues import opened
from tests.servers.process import free_port
from tests.servers.smtp import HANG, Action, SmtpServer, smtp_server

TIERS = (Tier("30s", 30.0), Tier("5m", 300.0))
GOOD = 40
BAD = {"dot": IN_HAND + 100, "hello": 200, "greeting": 200, "dead": 200}
"""Messages for each of the bad ones: more than twice as many as a deliverer has places."""
PATIENCE = 60.0
"""Seconds; those that hang, hang for longer."""

HANGS = {"greeting": "GREETING", "hello": "EHLO", "dot": "END"}
"""The destinations that hang, and what each never answers."""


def hangs_at(key: str) -> Callable[[str, int], Action | None]:
    """Return the rule of a server that never answers this."""
    return lambda asked, _: HANG if asked.replace("LHLO", "EHLO") == key else None


@pytest.fixture(params=[False, True], ids=["smtp", "lmtp"])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, SmtpServer]]:
    """A good destination, and one for each way to hang, by name."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(
                smtp_server(lmtp=request.param, rule=hangs_at(key))
            )
            for name, key in {"good": "nothing", **HANGS}.items()
        }


async def waited(true: Callable[[], bool], what: str, product: Connector) -> None:
    """Wait for a condition in the loop that the servers live in."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no {what}\n{product.tail()}") from None


async def test_mail_passes_by_those_that_hang(
    product: Connector, broker: str | None, servers: dict[str, SmtpServer]
) -> None:
    urls = {name: server.url for name, server in servers.items()}
    urls["dead"] = f"smtp://127.0.0.1:{free_port()}"
    product.configure(
        [],
        urls["good"],
        broker,
        retry={"tiers": [tier.label for tier in TIERS]},
        **{f"destinations.{name}": {"url": url} for name, url in urls.items()},
    )
    product.cli("topology", "declare")
    async with opened(product, broker, TIERS, "rewriter") as rewriter:
        for name, count in {**BAD, "good": GOOD}.items():
            head = b"Subject: %s " % name.encode()
            messages = [head + b"%d\r\n\r\nhello\r\n" % n for n in range(count)]
            await asyncio.gather(
                *(put_addressed(rewriter, name, [name], [message]) for message in messages)
            )
    product.start("deliverer")

    good = servers["good"]
    await waited(lambda: len(good.received) >= GOOD, "mail at the good one", product)

    assert len({message.data for message in good.received}) == len(good.received) == GOOD
    hanging = {name: servers[name] for name in HANGS}
    assert all(server.connections for server in hanging.values())
    assert not any(message.accepted for server in hanging.values() for message in server.received)
