"""Large messages through a spool in S3, and the S3 server killed in the middle: nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.audit import Audit, Tally
from tests.flow.connector import STAGES, Connector, below_prefix, connector
from tests.flow.place import account
from tests.servers.dovecot import Dovecot
from tests.servers.postfix import Postfix
from tests.servers.rabbitmq import shared_rabbitmq
from tests.servers.s3 import BUCKET, S3Server, s3

RECIPIENT = "sales@corp.example"
HALF = 15
MARK = "spool/ledger"
"""The mark of the state database, which is no mail."""


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "s3").mkdir()
    with s3(tmp_path / "s3") as server:
        yield server


@pytest.fixture
def product(
    tmp_path: Path, provider: Dovecot, local: Postfix, storage: S3Server
) -> Iterator[Connector]:
    (tmp_path / "product").mkdir()
    options: dict[str, dict[str, object]] = {"spool.options": {"endpoint_url": storage.endpoint}}
    server = shared_rabbitmq()
    with connector(tmp_path / "product") as installation:
        installation.configure(
            [account(provider, poll_every="1s", mailbox=RECIPIENT)],
            local.url,
            server.url(server.vhost()),
            retry={"tiers": ["1s"]},
            spool={"url": f"s3://{BUCKET}/spool", "inline_limit": "64KiB"},
            **options,
        )
        assert installation.cli("topology", "declare").returncode == 0
        yield installation


def large(number: int) -> bytes:
    """Return a message of some hundred KB; the last of a half has 20 MB."""
    line = b"%03d and so on, and so on, and so on, and so on, and so on\r\n" % number
    count = 350_000 if number % HALF == HALF - 1 else 2_000 + 100 * number
    return (
        b"Subject: %d\r\nMessage-ID: <%d@large.example>\r\n\r\n" % (number, number) + line * count
    )


def reasons(product: Connector, stage: str, event: str) -> str:
    """Return why a stage logged an event, each time."""
    return "\n".join(e["reason"] for e in product.events(stage) if e["event"] == event)


def test_an_outage_of_s3_in_the_middle_loses_nothing(
    product: Connector,
    provider: Dovecot,
    local: Postfix,
    storage: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = [large(number) for number in range(2 * HALF)]
    audit = Audit()
    audit.accept(("sales", message) for message in messages)
    local.answers[RECIPIENT] = "451 4.7.1 not yet"
    provider.put_all("sales", messages[:HALF])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(storage.credentials))
    product.start(*STAGES)
    product.wait(lambda: len(set(storage.keys()) - {MARK}) == HALF, "every message in the bucket")
    product.wait(lambda: provider.files("sales") == [], "an empty maildrop")
    product.wait(lambda: product.count("deliverer", "retrying") > 0, "a delivery that waits")

    storage.kill()
    provider.put_all("sales", messages[HALF:])
    del local.answers[RECIPIENT]
    refused = "Could not connect to the endpoint"
    product.wait(lambda: refused in reasons(product, "fetcher", "account failed"), "no fetching")
    product.wait(lambda: refused in reasons(product, "deliverer", "retrying"), "no delivering")
    assert local.maildir("sales") == []
    assert len(provider.files("sales")) == HALF

    storage.start()
    product.once()  # the account would be polled again after a minute
    product.wait(lambda: len(local.maildir("sales")) >= 2 * HALF, "all mail")
    product.wait(lambda: provider.files("sales") == [], "an empty maildrop")
    for stage in STAGES:
        assert product.stop(stage) == 0, product.tail()
    delivered = [("sales", below_prefix(path.read_bytes())) for path in local.maildir("sales")]
    assert audit.tally(delivered) == Tally(accepted=2 * HALF, delivered=2 * HALF)
    assert storage.keys() == [MARK]
