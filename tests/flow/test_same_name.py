"""Two connectors that both kept the usual name, in one virtual host, each with its own state.

None of the first one's mail is delivered by the second, which waits and says so; and its ways out.
"""

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.queues import PICKUP
from tests.flow.forked import ForkedConnector
from tests.flow.lost_state import ready
from tests.flow.rabbitmq_site import Site
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import free_port

NAMES = ("first", "second")
RED = "nothing is taken from the queues: they were filled with another state database until "


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Dovecot]:
    folder = tmp_path / "provider"
    folder.mkdir()
    with dovecot(folder, dict.fromkeys(NAMES, "secret")) as server:
        yield server


class Two:
    """Both of them, with an account of the same name, and the mail that they have delivered."""

    def __init__(self, folder: Path, provider: Dovecot, url: str, stack: contextlib.ExitStack):
        self.provider = provider
        self.folder = folder
        self.port = free_port()
        self.products: dict[str, ForkedConnector] = {}
        for name in NAMES:
            (folder / name).mkdir()
            product = stack.enter_context(closing(ForkedConnector(folder / name)))
            account = {
                "name": "sales",
                "host": "127.0.0.1",
                "port": provider.pop3,
                "tls": "none",
                "username": name,
                "password": "secret",
                "mailbox": "sales@corp.example",
                "keep": "forever",
                "poll_every": "1s",
            }
            listen = {"listen": f"127.0.0.1:{self.port}"} if name == "second" else {}
            product.configure(
                [account],
                f"maildir://{folder}/{name}/mail",
                url,
                retry={"tiers": ["1s"]},
                monitor=listen,
            )
            self.products[name] = product

    def put(self, name: str, count: int) -> None:
        self.provider.put(
            name, *(f"Subject: {n}\r\n\r\nto {name}\r\n".encode() for n in range(count))
        )

    def stored(self, name: str) -> list[bytes]:
        return [p.read_bytes() for p in (self.folder / name / "mail").glob("**/new/*")]


@pytest.fixture
def two(tmp_path: Path, provider: Dovecot, site: Site) -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        yield Two(tmp_path, provider, site.url, stack)


def test_the_second_takes_nothing_of_the_first(two: Two, site: Site) -> None:
    first, second = two.products["first"], two.products["second"]
    two.put("first", 6)
    two.put("second", 3)
    assert first.once()[0] == 0
    assert len(two.stored("first")) == 6
    first.start("fetcher", "parser", "rewriter")
    two.provider.put("first", *(b"Subject: %d\r\n\r\nwaits for first\r\n" % n for n in range(5)))
    with closing(site.steward()) as steward:
        first.wait(lambda: steward.depths()[PICKUP] == 5, "mail that waits")

    assert second.once()[0] == 1
    second.start("run")
    second.wait(lambda: ready(two.port).startswith(RED), "the second to wait")
    assert second.stop("run") == 0
    second.start("deliverer")
    second.wait(lambda: ready(two.port).startswith(RED), "its deliverer to wait")
    assert sum(RED in e["event"] for e in second.events("deliverer")) == 1
    first.start("deliverer")
    first.wait(lambda: len(two.stored("first")) == 11, "what waited")
    assert second.stop("deliverer") == 0
    for stage in ("fetcher", "parser", "rewriter", "deliverer"):
        assert first.count(stage, "accounts are held") == 0, "a newcomer stops nobody"
        assert first.stop(stage) == 0
    assert all(b"first" in message for message in two.stored("first"))
    assert two.stored("second") == []

    text = second.config.read_text()
    second.config.write_text(text.replace("[broker]", '[broker]\ninstance = "second"'))
    assert second.cli("account", "fetch-again", "--all", "--undelivered").returncode == 0
    assert second.once()[0] == 0
    assert len(two.stored("second")) == 3
    assert all(b"to second" in message for message in two.stored("second"))
