"""Real mail servers that do not take what they are given, or not now; others get theirs meanwhile.

Greylisting and a mailbox over quota, TLS that fails, one recipient of three whom nobody knows.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.queues import Tier
from tests.corpus.messages import sample_messages
from tests.flow.addressed import put_addressed
from tests.flow.audit import MailboxMessage, Tally
from tests.flow.connector import below_prefix
from tests.flow.place import Place
from tests.flow.queues import opened
from tests.servers.dovecot import Dovecot, dovecot, quota
from tests.servers.postfix import Postfix, postfix
from tests.servers.proxy import Proxy, proxy

MESSAGES = 4
TIERS = (Tier("1s", 1.0),)
USERS = ("grey", "secure", "full", "roomy")
THREE = ("roomy", "nobody-here", "full")
"""The recipients of some messages."""

FILLER = b"Subject: filler\r\n\r\n" + b"x" * 70 + b"\r\n" + b"y" * 80_000 + b"\r\n"
COOLDOWN = 300.0
"""Seconds for which a destination is left alone, at the longest."""


@pytest.fixture
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(USERS, "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Dovecot]:
    """Takes LMTP; one of its mailboxes is full."""
    with dovecot(tmp_path, {"full": "x", "roomy": "x"}, extra=quota("78K")) as server:
        server.put("full", FILLER)
        yield server


@pytest.fixture
def local() -> Iterator[Postfix]:
    with postfix(mailboxes=("grey", "secure")) as server:
        server.answers["grey@corp.example"] = "451 4.7.1 Greylisted, come back later"
        yield server


@pytest.fixture
def network(local: Postfix) -> Iterator[Proxy]:
    with proxy(local.port) as between:
        between.corrupt_at = 700  # in the handshake
        yield between


def test_each_is_served_when_it_can_be(
    place: Place, local: Postfix, home: Dovecot, network: Proxy
) -> None:
    product = place.product
    configure(place, local, home, network)
    for seed, user in enumerate(USERS):
        place.put(user, sample_messages(MESSAGES, seed, max_size=3_000))
    product.start("run")
    put_to_three(place)
    reasons = {"Greylisted": 4, "TLS failed": 4, ".2.2": 8}
    for reason, count in reasons.items():
        product.wait(lambda r=reason, n=count: len(waiting(place, r)) == n, reason)
    product.wait(lambda: len(home.files("roomy")) == 2 * MESSAGES, "the neighbour's mail")
    product.wait(lambda: product.count("run", "failed") == MESSAGES, "failed mail")
    assert local.maildir("grey") == local.maildir("secure") == []
    product.wait(lambda: retries(place, "grey") >= 3 * MESSAGES, "more than a breaker stands")
    # A reply about one recipient is no reason to leave all others of that server alone.
    assert waiting(place, "destination grey is not tried for a while") == set()
    assert len(home.files("full")) == 1

    del local.answers["grey@corp.example"]
    network.corrupt_at = None
    for path in (*home.files("full"), home.maildir("full") / "maildirsize"):
        path.unlink()
    product.clock.advance(COOLDOWN)
    product.wait(lambda: len(arrived(local, home)) >= 6 * MESSAGES, "the rest")
    failed = [("nobody-here", raw) for _, raw in place.exported()]
    assert product.stop("run") == 0, product.tail()
    tally = place.audit.tally(arrived(local, home), failed=failed)
    print(tally)
    assert tally == Tally(7 * MESSAGES, 6 * MESSAGES, failed=MESSAGES)


def configure(place: Place, local: Postfix, home: Dovecot, network: Proxy) -> None:
    secure = f"smtp://127.0.0.1:{network.port}?ca_file={local.certificates.ca}"
    urls = {"grey": local.url, "secure": secure, "home": f"lmtp://127.0.0.1:{home.lmtp}?tls=none"}
    at = {"full": "home", "roomy": "home"}
    place.configure(
        *(place.account(user, destination=at.get(user, user)) for user in USERS),
        url=None,
        retry={"tiers": ["1s"]},
        **{f"destinations.{name}": {"url": url} for name, url in urls.items()},
    )


def put_to_three(place: Place) -> None:
    messages = sample_messages(MESSAGES, seed=10, max_size=3_000)
    place.audit.accept((name, message) for message in messages for name in THREE)

    async def put() -> None:
        async with opened(place.product, None, TIERS, "rewriter") as broker:
            await put_addressed(broker, "home", THREE, messages)

    asyncio.run(put())


def waiting(place: Place, reason: str) -> set[str]:
    """Return the messages that were put off for a reason."""
    events = place.product.events("run")
    return {e["id"] for e in events if e["event"] == "retrying" and reason in e["reason"]}


def retries(place: Place, account: str) -> int:
    """Return how often messages of an account were put off."""
    events = place.product.events("run")
    return sum(e["event"] == "retrying" and e["account"] == account for e in events)


def arrived(local: Postfix, home: Dovecot) -> list[MailboxMessage]:
    files = [(name, path) for name in ("grey", "secure") for path in local.maildir(name)]
    files += [(name, path) for name in ("full", "roomy") for path in home.files(name)]
    return [(n, below_prefix(p.read_bytes())) for n, p in files if b"filler" not in p.read_bytes()]
