"""Destinations that fail, each in its own way and all at once: none of them holds up another.

In the end everything is delivered. Twice comes only what a destination took without saying so.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.audit import MailboxMessage, Tally
from tests.flow.connector import below_prefix, lf
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import free_port
from tests.servers.proxy import Proxy, proxy
from tests.servers.smtp import DROP, HANG, SmtpServer, smtp_server

MESSAGES = 8
STORM = 25
"""Temporary refusals, one after the other."""

DROPS = 3
"""Messages that are taken without a word."""

COOLDOWN = 300.0
"""Seconds for which a destination is left alone, at the longest."""

FAULTY = ("dead", "hanging", "storm", "dropping", "refusing")
"""Accounts that deliver to a destination of the same name, which fails in that way."""


@dataclass
class Destination:
    """A mail server in a thread of its own, and the network before it."""

    server: SmtpServer
    network: Proxy
    loop: asyncio.AbstractEventLoop

    def drop_all(self) -> None:
        """Close every connection that the server has."""

        def close() -> None:
            for writer in self.server.writers:
                writer.transport.abort()

        self.loop.call_soon_threadsafe(close)


@contextlib.contextmanager
def destination() -> Iterator[Destination]:
    loop = asyncio.new_event_loop()
    serving = smtp_server()
    server = loop.run_until_complete(serving.__aenter__())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with proxy(server.port) as network:
            yield Destination(server, network, loop)
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(("fine", *FAULTY), "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


@pytest.fixture
def servers() -> Iterator[dict[str, Destination]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(destination()) for name in FAULTY}


def test_each_fails_by_itself(place: Place, servers: dict[str, Destination]) -> None:
    product = place.product
    begin(servers)
    configure(place, servers)
    for seed, name in enumerate(("fine", *FAULTY)):
        place.put(name, sample_messages(MESSAGES, seed, max_size=20_000))
    product.start("run")

    def received(name: str) -> int:
        return len(servers[name].server.received)

    product.wait(lambda: received("storm") == MESSAGES, "the end of the storm")
    product.wait(lambda: received("dropping") == MESSAGES + DROPS, "what was dropped")
    product.wait(lambda: received("refusing") == MESSAGES, "what was refused")
    product.wait(lambda: left_alone(place, "dead"), "the breaker to open")
    place.put("fine", sample_messages(MESSAGES, seed=20))
    product.wait(lambda: len(place.stored()) == 2 * MESSAGES, "what has a sound destination")
    assert received("dead") == received("hanging") == 0

    tried = servers["dead"].network.connections
    servers["dead"].network.server = servers["dead"].server.port
    servers["hanging"].drop_all()
    product.wait(lambda: received("hanging") == MESSAGES, "what hung")
    assert servers["dead"].network.connections == tried  # the breaker is still open
    product.clock.advance(COOLDOWN)
    product.wait(lambda: received("dead") == MESSAGES, "the breaker to close")

    product.wait(lambda: product.count("run", "failed") == 2, "failed mail")
    failed = place.exported()
    assert product.stop("run") == 0, product.tail()
    far = [message for name in FAULTY for message in taken(name, servers[name].server)]
    tally = place.audit.tally([*place.stored(), *far], failed=failed)
    print(tally)
    count = MESSAGES * (2 + len(FAULTY))
    assert tally == Tally(count, count - 2, duplicates=DROPS, failed=2)


def begin(servers: dict[str, Destination]) -> None:
    """Let each of them fail in its way."""
    servers["dead"].network.server = free_port()  # nobody listens there
    servers["hanging"].server.answer("DATA", HANG)
    servers["storm"].server.answer("RCPT", *["451 4.3.2 not now"] * STORM)
    servers["dropping"].server.answer("END", *[DROP] * DROPS)
    servers["refusing"].server.answer("END", *["554 5.7.1 we do not like it"] * 2)


def configure(place: Place, servers: dict[str, Destination]) -> None:
    tables = {f"destinations.{name}": table(at) for name, at in servers.items()}
    accounts = [place.account(name, destination=name) for name in FAULTY]
    place.configure(place.account("fine"), *accounts, url=None, retry={"tiers": ["0.2s"]}, **tables)


def table(place: Destination) -> dict[str, object]:
    return {"url": f"smtp://127.0.0.1:{place.network.port}?tls=none", "connections": 1}


def left_alone(place: Place, name: str) -> bool:
    retries = (e for e in place.product.events("run") if e["event"] == "retrying")
    return any(
        e["reason"].startswith(f"destination {name} is not tried for a while") for e in retries
    )


def taken(name: str, server: SmtpServer) -> Iterator[MailboxMessage]:
    """Yield the messages that a server took, whether or not it said so."""
    for message in server.received:
        if message.accepted or name == "dropping":
            yield name, below_prefix(lf(message.data))
