"""What is in a queue and is no envelope of this version: in each queue, over both brokers.

Bytes that are none, and an envelope with a field of the wrong type, end in quarantine as they are.
One of a newer version goes round the first retry tier, as it is, until a newer worker takes it.
Their neighbours do not notice.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgpack
import pytest

from shared import wire
from shared.broker import Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed, Payload, Spooled, Summary
from shared.queues import INCOMING, PARSED, PICKUP, QUARANTINE, RETRIED, Tier
from tests.corpus.messages import sample_messages
from tests.flow import queues
from tests.flow.audit import Audit, Tally
from tests.flow.connector import STAGES, Connector, below_prefix
from tests.flow.forked import ForkedConnector
from tests.flow.place import account
from tests.ids import id_of
from tests.servers.dovecot import Dovecot
from tests.servers.rabbitmq import shared_rabbitmq

TIERS = (Tier("1s", 1.0),)
NEIGHBOURS = 12
SEEN_BY = {INCOMING: "parser", PARSED: "rewriter", PICKUP: "deliverer"}


def payload(queue: str, raw: bytes | Spooled) -> Payload:
    """Return a message as it lies in this queue."""
    inline, summary = Inline(raw) if isinstance(raw, bytes) else raw, Summary()
    prefix = b"X-POP3-Connector-Id: x\r\n"
    to = ("sales@corp.example",)
    kinds: Mapping[str, Payload] = {
        INCOMING: Fetched(inline, "u", "pop:110"),
        PARSED: Parsed(inline, "u", "pop:110", summary, None, (), 0, ()),
        PICKUP: Addressed(inline, "u", "pop:110", summary, "", to, "default", prefix),
    }
    return kinds[queue]


def newer(queue: str, raw: bytes) -> bytes:
    """Return an envelope of the next version: it has more fields, at the end, as is the rule."""
    envelope = Envelope(id_of(f"newer-{queue}"), "sales", payload(queue, raw), 1.7e9)
    parts = msgpack.unpackb(wire.encode(envelope))
    parts[0] = wire.SCHEMA + 1
    parts[-1] += [*wire.ADDED[type(envelope.payload)], True]
    return bytes(msgpack.packb([*parts, None, "new"]))


def wrong(queue: str, raw: bytes) -> bytes:
    """Return an envelope with text where its count of attempts should be."""
    parts = msgpack.unpackb(
        wire.encode(Envelope(id_of("wrong"), "sales", payload(queue, raw), 1.7e9))
    )
    parts[5] = "three"
    return bytes(msgpack.packb(parts))


def read_the_next_version() -> None:
    """Make this process a worker of the next version."""
    setattr(wire, "SCHEMA", wire.SCHEMA + 1)  # noqa: B010  (mypy knows that it is final)


async def publish(url: str | None, folder: Path, sends: Sequence[Send]) -> None:
    broker: EmbeddedBroker | RabbitBroker
    if url is None:
        broker = EmbeddedBroker(folder / "data" / "queue.db", tiers=TIERS, name="test")
    else:
        broker = RabbitBroker(url, sender="postmaster", name="test", tiers=TIERS, version="0")
    await broker.open()
    await broker.publish(*sends)
    await broker.close()


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_what_is_no_envelope_of_this_version_harms_nobody(
    tmp_path: Path, provider: Dovecot, broker: str
) -> None:
    server = shared_rabbitmq() if broker == "rabbitmq" else None
    url = None if server is None else server.url(server.vhost())
    names = ("run",) if url is None else STAGES
    *neighbours, one, two, three = sample_messages(NEIGHBOURS + 3, seed=88)
    later = dict(zip(RETRIED, (one, two, three), strict=True))
    corrupt = {f"garbage-{q}": (q, b"\xc1 not ours, in " + q.encode()) for q in RETRIED}
    corrupt |= {f"wrong-{q}": (q, wrong(q, b"Subject: wrong\r\n\r\nx\r\n")) for q in RETRIED}
    audit = Audit()
    audit.accept(("sales", message) for message in (*neighbours, *later.values()))
    (tmp_path / "product").mkdir()
    with contextlib.closing(ForkedConnector(tmp_path / "product")) as product:
        configure(product, provider, tmp_path / "mail", url)
        sends = [Send(queue, body, id_) for id_, (queue, body) in corrupt.items()]
        sends += [Send(queue, newer(queue, raw), f"newer-{queue}") for queue, raw in later.items()]
        asyncio.run(publish(url, product.folder, sends))
        provider.put_all("sales", neighbours)
        product.start(*names)

        def stored() -> list[Path]:
            return list((tmp_path / "mail" / "sales").glob("new/*"))

        def rounds(queue: str) -> int:
            events = product.events("run" if url is None else SEEN_BY[queue])
            said = [e for e in events if e.get("id") in (f"newer-{queue}", id_of(f"newer-{queue}"))]
            assert {e["event"] for e in said} <= {"retrying"}
            assert all("schema 2, this version reads up to 1" in e["reason"] for e in said)
            return len(said)

        product.wait(lambda: len(stored()) == NEIGHBOURS, "the neighbours")
        product.wait(lambda: all(rounds(queue) > 1 for queue in RETRIED), "a second round")
        check_quarantine(product, url, corrupt)
        for name in names:
            assert product.stop(name) == 0, product.tail()
        inboxes = [name for queue in RETRIED for name in (queue, f"{queue}.retry.1s")]
        kept = {newer(*each) for each in later.items()}
        # One may go from its tier back to its queue between two looks.
        product.wait(
            lambda: bodies(product, url, *inboxes) == kept, "the newer ones in their queues"
        )

        product.first = read_the_next_version
        product.start(*names)
        product.wait(lambda: len(stored()) == NEIGHBOURS + 3, "what is newer")
        for name in names:
            assert product.stop(name) == 0, product.tail()
            assert product.count(name, "handler crashed") == 0
        assert product.json("failed", "list") == []
    delivered = [("sales", below_prefix(path.read_bytes())) for path in stored()]
    assert audit.tally(delivered) == Tally(NEIGHBOURS + 3, NEIGHBOURS + 3)


def configure(product: ForkedConnector, provider: Dovecot, mail: Path, url: str | None) -> None:
    tiers: dict[str, object] = {"tiers": ["1s"]}
    product.configure([account(provider)], f"maildir://{mail}/{{local}}", url, retry=tiers)
    assert product.cli("topology", "declare").returncode == 0


def check_quarantine(
    product: ForkedConnector, url: str | None, corrupt: Mapping[str, tuple[str, bytes]]
) -> None:
    """See that it holds these, and how, and that the operator gets their bytes."""
    product.wait(lambda: len(bodies(product, url, QUARANTINE)) == len(corrupt), "quarantine")
    for kept in product.json("quarantine", "list"):
        queue, body = corrupt[kept["id"]]
        assert kept["stage"] == SEEN_BY[queue]
        wanted = "not msgpack" if kept["id"].startswith("garbage") else "str where an integer"
        assert wanted in kept["reason"]
    assert bodies(product, url, QUARANTINE) == {body for _, body in corrupt.values()}
    id_, (_, body) = next(iter(corrupt.items()))
    out = product.folder / "out"
    done = product.cli("quarantine", "export", id_, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == body


def bodies(product: Connector, url: str | None, *names: str) -> set[bytes]:
    """Return what lies in these queues."""
    with queues.steward(product, url, TIERS) as steward:
        return {message.body for name in names for message in steward.browse(name)}
