"""A thousand messages of mixed sizes, from a real Dovecot to real mail servers, on both brokers.

Every message arrives exactly once, and what arrives equals what was sent, byte for byte, below the
lines that were put on top; a DKIM signature still verifies at the far end.
"""

from collections.abc import Iterator
from pathlib import Path

import dkim
import pytest

from tests.corpus.messages import dkim_signed, sample_messages
from tests.flow.connector import STAGES, Connector, below_prefix, digests, lf
from tests.flow.place import account
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.rabbitmq import shared_rabbitmq

COUNT = 1_000
LARGEST = 30_000_000


@pytest.fixture(scope="module")
def sent() -> list[bytes]:
    signed, _ = dkim_signed()
    return [*sample_messages(COUNT - 1, seed=7, max_size=LARGEST), signed]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, sent: list[bytes]) -> Iterator[Dovecot]:
    """A provider that keeps everything, so that each test fetches all of it."""
    base = tmp_path_factory.mktemp("provider")
    with dovecot(base, users={"sales": "secret"}) as server:
        server.put_all("sales", sent)
        yield server


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Dovecot]:
    (tmp_path / "local").mkdir()
    with dovecot(tmp_path / "local", users={"sales": "secret"}) as server:
        yield server


def once(provider: Dovecot) -> dict[str, object]:
    """Return an account that is polled once in a test, over TLS, and keeps its mail."""
    tls: dict[str, object] = {"tls": "implicit", "ca_file": str(provider.ca_file)}
    return account(provider, port=provider.pop3s, poll_every="1h", keep="forever") | tls


def check(stored: list[bytes], sent: list[bytes]) -> None:
    """Each message once, unchanged, and the signature holds."""
    arrived = [below_prefix(message) for message in stored]
    assert digests(arrived) == digests(map(lf, sent))
    _, dns = dkim_signed()
    (far,) = [s for s, a in zip(stored, arrived, strict=True) if a == lf(sent[-1])]
    assert dkim.verify(far.replace(b"\n", b"\r\n"), dnsfunc=dns)


def stages_over_rabbitmq(product: Connector, provider: Dovecot, delivery: str) -> None:
    """Start one process per stage, the last stage first."""
    server = shared_rabbitmq()
    product.configure([once(provider)], delivery, server.url(server.vhost()))
    assert product.cli("topology", "declare").returncode == 0
    product.start(*reversed(STAGES))


def embedded(product: Connector, provider: Dovecot, delivery: str) -> None:
    """Run all in one process until everything is drained."""
    product.configure([once(provider)], delivery)
    status, summary = product.once(timeout=600)
    expected = {"accounts": 1, "fetched": COUNT, "delivered": COUNT, "suppressed": 0, "failed": 0}
    assert expected.items() <= summary.items(), product.tail()
    assert status == 0


@pytest.mark.parametrize("run", [stages_over_rabbitmq, embedded])
def test_to_postfix(run, provider: Dovecot, sent: list[bytes], product: Connector) -> None:  # type: ignore[no-untyped-def]
    with postfix(mailboxes=("sales",)) as server:
        run(product, provider, server.url)
        product.wait(lambda: len(server.maildir("sales")) >= COUNT, "all mail", 300)
        settled(product)
        check(stored_by(server), sent)


@pytest.mark.parametrize("run", [stages_over_rabbitmq, embedded])
def test_to_dovecot_lmtp(  # type: ignore[no-untyped-def]
    run, provider: Dovecot, local: Dovecot, sent: list[bytes], product: Connector
) -> None:
    run(product, provider, f"lmtp://{local.host}:{local.lmtp}?tls=none")
    product.wait(lambda: len(local.files("sales")) >= COUNT, "all mail", 300)
    settled(product)
    check(local.messages("sales"), sent)


def settled(product: Connector) -> None:
    """Stop the processes in good order: whatever was in hand is settled, nothing comes after."""
    for name in list(product.processes):
        assert product.stop(name) == 0, product.tail()


def stored_by(server: Postfix) -> list[bytes]:
    return [path.read_bytes() for path in server.maildir("sales")]
