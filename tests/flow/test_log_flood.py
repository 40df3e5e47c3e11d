"""Servers that refuse everything fill no disk with log lines, and no message is lost sight of."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.flow.connector import Connector
from tests.servers.pop3 import Pop3Server, Say
from tests.servers.smtp import smtp_server

COUNT = 300
REFUSED = 100
LINES = 20
ACCOUNT = {
    "name": "sales",
    "host": "127.0.0.1",
    "tls": "none",
    "username": "sales",
    "password": "secret",
    "keep": "forever",
    "mailbox": "sales@corp.example",
}


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Connector]:
    """An installation that writes no more log lines than it does for a user."""
    with closing(Connector(tmp_path)) as installation:
        yield installation


@pytest.mark.parametrize(
    ("reply", "event", "command"),
    [
        ("550 5.1.1 no such user here", "failed", ("failed", "list")),
        ("451 4.3.0 not now", "retrying", ("topology", "show")),
    ],
)
async def test_a_destination_that_refuses_all_and_a_server_that_refuses_many(
    product: Connector, reply: str, event: str, command: tuple[str, ...]
) -> None:
    messages = [b"Subject: %d\r\n\r\nhello %d\r\n" % (n, n) for n in range(COUNT)]
    provider = Pop3Server(
        messages,
        [f"u{n}" for n in range(COUNT)],
        says={f"RETR {n + 1}": Say(b"-ERR not this one\r\n") for n in range(REFUSED)},
    )
    async with provider.serving(), smtp_server() as destination:
        destination.rule = lambda key, _: reply if key.startswith("RCPT ") else None
        product.configure(
            [ACCOUNT | {"port": provider.port}],
            f"smtp://127.0.0.1:{destination.port}?tls=none",
            retry={"tiers": ["1h"]},
        )
        product.start("run --once")
        assert await asyncio.to_thread(product.processes["run --once"].wait, 120) == 1
    events = Counter(e["event"] for e in product.events("run --once"))
    assert events["fetched"] == COUNT - REFUSED
    assert events[event] == events["message refused"] == LINES + 1
    left_out = {e["event"]: e["left_out"] for e in product.events("run --once") if "left_out" in e}
    assert left_out == {event: COUNT - REFUSED - LINES, "message refused": REFUSED - LINES}
    found = await asyncio.to_thread(product.json, *command)
    kept = len(found) if event == "failed" else sum(q["messages"] for q in found)
    assert kept == COUNT - REFUSED
