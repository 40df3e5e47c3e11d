"""The spool without a file that a message refers to, and without room for the next one.

A message whose file is gone is kept, with the reason, and the operator is told at once; it is never
acknowledged away. While the spool is full, large messages stay at the provider and small ones flow.
"""

import contextlib
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.corpus.messages import fields, sample_messages
from tests.flow.audit import Audit, Tally
from tests.flow.connector import STAGES, below_prefix, digests, lf
from tests.flow.forked import ForkedConnector
from tests.flow.place import account
from tests.ids import identify
from tests.servers.disk import memory_disk
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import free_port
from tests.servers.rabbitmq import shared_rabbitmq

BROKERS = ("embedded", "rabbitmq")
SIZE = 300_000
"""Bytes of a large message; two fit on the small disk."""


@dataclass
class Site:
    """The product with its spool in a folder of its own.

    Attributes:
        url: of RabbitMQ, None for the embedded broker.
        monitor: the port at which the process that delivers is monitored.
    """

    product: ForkedConnector
    provider: Dovecot
    folder: Path
    url: str | None
    monitor: int

    @property
    def processes(self) -> tuple[str, ...]:
        return ("run",) if self.url is None else STAGES

    def process(self, stage: str) -> str:
        return "run" if self.url is None else stage

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def mail(self) -> Path:
        return self.folder / "mail"

    def configure(self, give_up_after: str) -> None:
        self.product.configure(
            [account(self.provider)],
            f"maildir://{self.mail}/{{local}}",
            self.url,
            retry={"tiers": ["1s"], "give_up_after": give_up_after},
            spool={"inline_limit": "64KiB", "url": str(self.spool)},
        )
        assert self.product.cli("topology", "declare").returncode == 0

    def start(self, *names: str) -> None:
        for name in names:
            listen = f"127.0.0.1:{self.monitor if name == self.process('deliverer') else 0}"
            self.product.start(name, POP3_CONNECTOR__MONITOR__LISTEN=listen)

    def counted(self, stage: str, what: str) -> float:
        """Return how often monitoring has been told that a stage finds the spool so."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/metrics") as answer:
            text = answer.read().decode()
        labels = f'{{stage="{stage}",what="{what}"}}'
        (value,) = re.findall(
            rf"^pop3_connector_spool_failures_total{re.escape(labels)} (.+)$", text, re.MULTILINE
        )
        return float(value)

    def stored(self) -> list[Path]:
        return list((self.mail / "sales").glob("new/*"))

    def delivered(self) -> list[tuple[str, bytes]]:
        return [("sales", below_prefix(path.read_bytes())) for path in self.stored()]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with dovecot(tmp_path_factory.mktemp("provider"), {"sales": "secret"}) as server:
        yield server


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest, tmp_path: Path, provider: Dovecot) -> Iterator[Site]:
    server = shared_rabbitmq() if request.param == "rabbitmq" else None
    url = None if server is None else server.url(server.vhost())
    with contextlib.closing(ForkedConnector(tmp_path)) as product:
        yield Site(product, provider, tmp_path, url, free_port())
        for name in tuple(product.processes):
            assert product.stop(name) == 0, product.tail()
            assert product.count(name, "handler crashed") == 0, product.tail()


def large(mark: str) -> bytes:
    line = b"0123456789abcdef" * 4 + b"\r\n"
    return fields(mark) + b"\r\n" + line * (SIZE // len(line))


def test_a_message_whose_file_is_gone_is_kept_and_the_operator_is_told(site: Site) -> None:
    site.configure(give_up_after="1h")
    site.mail.write_bytes(b"a file where the folder should be: nothing is delivered yet")
    messages = [large("gone"), *sample_messages(8, seed=5), large("there")]
    audit = Audit()
    audit.accept(("sales", message) for message in messages)
    site.provider.put_all("sales", messages)
    site.start(*site.processes)
    product, deliverer = site.product, site.process("deliverer")
    product.wait(lambda: not site.provider.files("sales"), "an empty maildrop")
    id_ = identify("sales", messages[0])
    (blob,) = (path for path in site.spool.glob("??/*") if path.read_bytes() == messages[0])
    assert site.counted("deliverer", "missing") == 0
    blob.rename(site.folder / "backup")
    site.mail.unlink()

    product.wait(lambda: len(site.stored()) == len(messages) - 1, "the others")
    product.wait(lambda: site.counted("deliverer", "missing") >= 2, "the alarm")
    said = [e for e in product.events(deliverer) if e["event"] == "blob missing"]
    assert {(e["id"], e["account"], e["level"]) for e in said} == {(id_, "sales", "error")}
    assert product.json("failed", "list") == []

    assert product.stop(deliverer) == 0
    site.configure(give_up_after="1s")
    site.start(deliverer)
    product.wait(lambda: product.count(deliverer, "failed") == 1, "Failed Mail")
    (kept,) = product.json("failed", "list")
    assert kept["id"] == id_
    assert re.match(rf"the spool has no blob '{id_}' \(given up after ", kept["reason"])
    tally = audit.tally(site.delivered(), failed=[("sales", messages[0])])
    assert tally == Tally(len(messages), len(messages) - 1, failed=1)

    (site.folder / "backup").rename(blob)
    assert product.cli("failed", "requeue", kept["id"]).returncode == 0
    product.wait(lambda: len(site.stored()) == len(messages), "the rest")
    assert audit.tally(site.delivered()) == Tally(len(messages), len(messages))


def test_while_the_spool_is_full_small_messages_flow_and_large_ones_stay(site: Site) -> None:
    with memory_disk(site.spool, "1m") as disk:
        site.configure(give_up_after="1h")
        disk.fill()
        small = [m for m in sample_messages(20, seed=6) if len(m) < 60_000]
        big = [large("one"), large("two")]
        audit = Audit()
        audit.accept(("sales", message) for message in (*big, *small))
        site.provider.put_all("sales", [big[0], *small[:8], big[1], *small[8:]])
        site.start(*site.processes)
        product, fetcher = site.product, site.process("fetcher")
        product.wait(lambda: len(site.stored()) >= len(small), "the small ones")
        polls = product.count(fetcher, "account failed")
        product.wait(lambda: product.count(fetcher, "account failed") > polls + 1, "more polls")
        assert digests(site.provider.messages("sales")) == digests(big)
        assert digests(raw for _, raw in site.delivered()) == digests(map(lf, small))
        (event, *_) = [e for e in product.events(fetcher) if e["event"] == "spool unavailable"]
        assert "No space left on device" in event["why"]
        assert (event["account"], event["level"]) == ("sales", "error")
        assert list((site.spool / "tmp").glob("*")) == []

        disk.free()
        product.wait(lambda: not site.provider.files("sales"), "an empty maildrop")
        everything = len(small) + len(big)
        product.wait(lambda: len(site.stored()) == everything, "the large ones")
        assert audit.tally(site.delivered()) == Tally(everything, everything)
        for name in tuple(product.processes):
            assert product.stop(name) == 0, product.tail()
