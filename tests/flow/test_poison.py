"""A message that kills its process each time it is taken ends in quarantine, whole and alone."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.fetcher.identity import identify
from shared.broker.embedded_steward import EmbeddedSteward
from shared.broker.steward import KombuSteward
from shared.faultpoint import VARIABLE
from shared.queues import DELIVERY_LIMIT, QUARANTINE, Tier
from tests.corpus.messages import sample_messages
from tests.flow.connector import STAGES, below_prefix
from tests.flow.forked import ForkedConnector
from tests.flow.oracle import Oracle, Tally
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.rabbitmq import shared_rabbitmq

TIERS = (Tier("1s", 1.0),)
MESSAGES = 12
POISON = 4
"""The index of the message that kills."""


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Dovecot]:
    (tmp_path / "provider").mkdir()
    with dovecot(tmp_path / "provider", users={"sales": "secret"}) as server:
        yield server


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_what_kills_its_parser_ends_in_quarantine(
    tmp_path: Path, provider: Dovecot, broker: str
) -> None:
    server = shared_rabbitmq() if broker == "rabbitmq" else None
    url = None if server is None else server.url(server.vhost())
    (tmp_path / "product").mkdir()
    with contextlib.closing(ForkedConnector(tmp_path / "product")) as product:
        messages = sample_messages(MESSAGES, seed=77)
        provider.put_all("sales", messages)
        oracle = Oracle()
        oracle.accept(("sales", message) for message in messages)
        product.configure(
            [account(provider)],
            f"maildir://{tmp_path}/mail/{{local}}",
            url,
            retry={"tiers": ["1s"]},
        )
        assert product.cli("topology", "declare").returncode == 0
        poison = identify("sales", messages[POISON])
        victim = "run" if url is None else "parser"
        if url is not None:
            product.start(*(stage for stage in STAGES if stage != victim))
        deaths = lives(product, url, victim, poison)

        def stored() -> list[Path]:
            return list((tmp_path / "mail" / "sales" / "new").glob("*"))

        product.wait(lambda: len(stored()) >= MESSAGES - 1, "the neighbours")
        quarantined = product.json("quarantine", "list")
        out = product.folder / "out.eml"
        exported = product.cli("quarantine", "export", poison, "-o", str(out))
        assert exported.returncode == 0, exported.stderr

    # The first life may be one without it, if the fetcher was slow.
    assert deaths >= DELIVERY_LIMIT
    # In one process with the parser, the fetcher dies before it knows that its message is queued,
    # and queues another copy: the broker makes one of them.
    assert [kept["id"] for kept in quarantined] == [poison]
    assert all("without being settled" in kept["reason"] for kept in quarantined)
    assert out.read_bytes() == messages[POISON]
    tally = oracle.tally(
        (("sales", below_prefix(path.read_bytes())) for path in stored()),
        quarantined=[("sales", out.read_bytes())],
    )
    assert tally == Tally(MESSAGES, MESSAGES - 1, quarantined=1)


def account(provider: Dovecot) -> dict[str, object]:
    return {
        "name": "sales",
        "host": provider.host,
        "port": provider.pop3,
        "tls": "none",
        "username": "sales",
        "password": "secret",
        "poll_every": "0.1s",
        "keep": "delete",
        "mailbox": "sales@corp.example",
    }


def lives(product: ForkedConnector, url: str | None, victim: str, poison: str) -> int:
    """Start the process again each time it is killed, until it lives on; return how often."""
    steward: EmbeddedSteward | KombuSteward
    if url is None:
        steward = EmbeddedSteward(product.folder / "data" / "queue.db", TIERS)
    else:
        steward = KombuSteward(url, TIERS)
    deaths = 0
    with contextlib.closing(steward):
        while not steward.depths()[QUARANTINE]:
            product.start(victim, **{VARIABLE: f"{poison}.handled"})
            process = product.processes[victim]
            product.wait(
                lambda p=process: p.poll() is not None or bool(steward.depths()[QUARANTINE]),
                "another death",
            )
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL
                deaths += 1
    return deaths
