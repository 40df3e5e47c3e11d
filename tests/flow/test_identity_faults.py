"""What might make two of one message: nothing is doubled, and nothing is left out.

Two fetchers at one mailbox, UIDLs renumbered, copies, a requeue done twice.
"""

import asyncio
from collections.abc import Iterator

import pytest

from shared.broker import Send
from shared.message import Envelope, Poll
from shared.queue_publisher import QueuePublisher
from shared.queues import PICKUP, POLL, Tier, failed_queue
from tests.corpus.messages import sample_messages
from tests.flow.audit import MailboxMessage, Tally
from tests.flow.connector import STAGES, below_prefix
from tests.flow.forked import ForkedConnector
from tests.flow.place import Place
from tests.flow.queues import opened, steward
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.proxy import Proxy, proxy
from tests.stewards import back

TIERS = (Tier("1s", 1.0),)
RETRY: dict[str, object] = {"tiers": ["1s"]}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    # One session for each mailbox at a time.
    users = dict.fromkeys(("two", "again", "twins", "sales"), "secret")
    folder = tmp_path_factory.mktemp("provider")
    with dovecot(folder, users, extra="mail_max_userip_connections = 1") as server:
        yield server


def test_two_fetchers_and_many_poll_jobs_at_one_mailbox(place: Place, broker: str | None) -> None:
    """They are never at it together: this server refuses a second session."""
    product = place.product
    with proxy(place.provider.pop3) as network:
        account = place.account("two", port=network.port, poll_every="1h")
        place.configure(account, url=broker, retry=RETRY)
        assert product.cli("topology", "declare").returncode == 0
        product.start(*STAGES)
        product.processes["another fetcher"] = product.processes.pop("fetcher")
        product.start("fetcher")
        product.wait(lambda: product.count("fetcher", "started") == 2, "two fetchers")
        network.rate = 1_000_000
        place.put("two", sample_messages(150, seed=1))
        asyncio.run(poll_until_empty(place, broker, network))
        product.wait(place.all_well, "all mail")
        assert product.stop("fetcher") == product.stop("another fetcher") == 0
    assert product.count("fetcher", "fetched") == 150
    assert product.count("fetcher", "account failed") == 0


async def poll_until_empty(place: Place, url: str | None, network: Proxy) -> None:
    """Queue a poll job again and again, so that both fetchers get some while one is at it."""
    job = Envelope("poll-two", "two", Poll(), 0.0)
    async with opened(place.product, url, TIERS, "fetcher") as broker, asyncio.timeout(120):
        outbox = QueuePublisher(broker, POLL)
        while place.provider.files("two"):
            await outbox.put(job)


def test_renumbered_uidls_and_copies_are_suppressed(place: Place) -> None:
    messages = sample_messages(20, seed=2)
    place.put("again", messages)
    place.configure(place.account("again", keep="forever"))
    assert place.once()[1]["delivered"] == 20
    place.provider.renumber("again")
    place.provider.put_all("again", messages[:5])  # copies, under new UIDLs
    status, summary = place.once()
    assert status == 0
    assert (summary["fetched"], summary["delivered"], summary["suppressed"]) == (0, 0, 25)
    assert place.all_well()


def test_copies_that_come_together_are_delivered_once_and_all_deleted(place: Place) -> None:
    messages = sample_messages(100, seed=3)
    place.put("twins", messages)
    place.provider.put_all("twins", [*messages, *messages[::-1]])
    place.configure(place.account("twins"))
    status, summary = place.once()
    assert status == 0
    assert (summary["fetched"], summary["suppressed"]) == (100, 200)
    assert place.all_well()
    assert place.provider.files("twins") == []


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    with postfix(mailboxes=("sales",)) as server:
        yield server


@pytest.fixture
def local(server: Postfix) -> Postfix:
    for path in server.maildir("sales"):
        path.unlink()
    return server


@pytest.fixture
def failed(place: Place, local: Postfix, broker: str | None) -> list[str]:
    """Twenty messages in Failed Mail, by their ids; what refused them would take them now."""
    product = place.product
    local.answers["sales@corp.example"] = "550 5.1.1 no such user here"
    product.configure([place.account("sales")], local.url, broker, retry=RETRY)
    place.put("sales", sample_messages(20, seed=4))
    product.start("run")
    product.wait(lambda: product.count("run", "failed") == 20, "failed mail")
    del local.answers["sales@corp.example"]
    return [kept["id"] for kept in product.json("failed", "list")]


def arrived(local: Postfix) -> list[MailboxMessage]:
    return [("sales", below_prefix(p.read_bytes())) for p in local.maildir("sales")]


def all_delivered_once(place: Place, local: Postfix) -> None:
    """Wait for all of them, and for whatever may come after them."""
    product = place.product
    product.wait(lambda: len(local.maildir("sales")) >= 20, "all mail")
    assert product.stop("run") == 0
    assert product.json("failed", "list") == []
    assert place.audit.tally(arrived(local)) == Tally(20, 20)


def test_a_requeue_done_twice_one_after_the_other(
    place: Place, local: Postfix, failed: list[str]
) -> None:
    product = place.product
    assert product.json("failed", "requeue", failed[0]) == {"requeued": 1}
    product.wait(lambda: len(local.maildir("sales")) == 1, "the first")
    again = product.cli("failed", "requeue", failed[0])
    assert again.returncode == 1
    assert f"no message '{failed[0]}' in Failed Mail" in again.stderr
    assert product.json("failed", "requeue", "--all") == {"requeued": 19}
    assert product.json("failed", "requeue", "--all") == {"requeued": 0}
    all_delivered_once(place, local)


def test_a_requeue_done_by_two_at_once(place: Place, local: Postfix, failed: list[str]) -> None:
    product = place.product
    while product.json("failed", "list"):  # what one of them looks at, the other does not see
        both = [f"failed requeue --all {'--json' * n}" for n in range(2)]
        product.start(*both)
        # Who finds that the other one was faster says so.
        assert {product.processes.pop(name).wait(60) for name in both} <= {0, 1}
    all_delivered_once(place, local)


def test_a_requeue_done_again_because_the_first_was_killed_in_the_middle(
    place: Place, local: Postfix, failed: list[str], broker: str | None
) -> None:
    """Over RabbitMQ it leaves messages in both queues: published, and not acknowledged."""
    product = place.product
    with steward(product, broker, TIERS) as looking:
        kept = list(looking.browse(failed_queue(PICKUP)))
    copies = [copy for k in kept if (copy := back(k)) is not None]
    assert len(copies) == 20
    asyncio.run(publish(product, broker, copies))
    assert product.json("failed", "requeue", "--all") == {"requeued": 20}
    product.wait(lambda: product.count("run", "suppressed") == 20, "the second of each")
    all_delivered_once(place, local)


async def publish(product: ForkedConnector, url: str | None, sends: list[Send]) -> None:
    async with opened(product, url, TIERS, "parser") as broker:
        await broker.publish(*sends)
