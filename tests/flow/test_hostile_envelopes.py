"""Somebody else writes into our queues: hostile ids, keys, headers and bytes beside sound mail.

Over a real RabbitMQ by a client of its own (pika), which sends what ours would not; over the
embedded broker as far as that takes it. Outcomes alone count: what is sound lies in the Maildir
once, what is not lies in quarantine, nothing lies anywhere else, and the operator can look at it.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pika
import pytest

from shared import wire
from shared.broker import Send
from shared.message import Envelope, Payload, Poll, Spooled
from shared.queues import INCOMING, POLL, QUARANTINE, RETRIED, Tier
from tests.flow import queues
from tests.flow.connector import below_prefix, lf
from tests.flow.forked import ForkedConnector
from tests.flow.test_alien_envelopes import payload
from tests.ids import id_of
from tests.servers.process import free_port
from tests.servers.rabbitmq import shared_rabbitmq

TIERS = (Tier("1s", 1.0),)
SOUND = 20
HOSTILE_IDS = ("", "../../x", "a\0b", "x" * 300, "A" * 32, "٣" * 32, "\x1b[2J", "poll-sales")
ODD_HEADERS: Sequence[Mapping[str, object] | None] = (
    None,
    {},
    {"account": 5, "subject": {"a": [1, None]}, "attempts": "three", "size": -1},
    {"x-delivery-count": "many", "messages": "x", "failed-at": True, "reason": b"\xff\xfe"},
    {"message-id": Decimal("1.5"), "first-failure": datetime(2038, 1, 1, tzinfo=UTC), "from": None},
    {"x-death": [{"queue": ["x"], "reason": "delivery_limit", "time": 5}], "a": "\x1b[2J"},
    {"x-death": [{"queue": 5}], "stage": "\x1b[2J" * 500, "a" * 128: "b" * 5_000},
)


class Put(NamedTuple):
    """A message as somebody puts it into a queue.

    Attributes:
        message_id: the property, None for none.
        headers: None for none.
    """

    queue: str
    body: bytes
    message_id: str | None
    headers: Mapping[str, object] | None


def mail(number: int) -> bytes:
    return b"Subject: sound %d\r\n\r\nDear Anna,\r\n" % number


def sound(queue: str, number: int) -> bytes:
    id_ = id_of(f"sound-{number}")
    return wire.encode(Envelope(id_, "sales", payload(queue, mail(number)), 1.7e9))


def hostile(queue: str) -> list[tuple[str, bytes]]:
    """Return ids and bodies of which none is ours."""
    mine: Envelope[Payload] = Envelope(
        id_of("m"), "sales", payload(queue, b"Subject: x\r\n\r\n"), 1e9
    )
    found = [(id_, wire.encode(replace(mine, id=id_))) for id_ in HOSTILE_IDS]
    keys = (id_of("another"), "../../../etc/passwd", f"{id_of('m')}/../{id_of('another')}", "")
    for key in keys:
        other = payload(queue, Spooled(key, 5, b"Subject: x\r\n\r\n"))
        found.append(("blob", wire.encode(replace(mine, payload=other))))
    found += [("account", wire.encode(replace(mine, account=name))) for name in ("a\0b", "x" * 999)]
    found += [("garbage", b"\xc1 not ours"), ("", b""), ("poll", wire.encode(poll()))]
    return found


def poll() -> Envelope[Payload]:
    return Envelope("poll-sales", "sales", Poll("test"), 1e9)


def everything() -> tuple[list[Put], int]:
    """Return what is put into the queues, and how much of it is hostile."""
    puts = [
        Put(queue, body, id_, ODD_HEADERS[n % len(ODD_HEADERS)])
        for queue in RETRIED
        for n, (id_, body) in enumerate(hostile(queue))
    ]
    # A job for an account that no name can be, and mail where jobs are expected.
    puts.append(
        Put(POLL, wire.encode(replace(poll(), id="poll-../../x", account="../\0x")), "p", None)
    )
    puts.append(Put(POLL, sound(INCOMING, 0), id_of("q"), {"account": 7}))
    puts += [Put(QUARANTINE, b"\xc1 put here", "direct", headers) for headers in ODD_HEADERS]
    count = len(puts)
    for number in range(SOUND):
        queue = RETRIED[number % len(RETRIED)]
        id_ = None if number % 5 == 0 else id_of(f"sound-{number}")
        put = Put(queue, sound(queue, number), id_, ODD_HEADERS[number % len(ODD_HEADERS)])
        puts.insert(number * len(puts) // SOUND, put)
    return puts, count


def put_by_another_client(url: str, puts: Sequence[Put]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for put in puts:
        id_ = put.message_id
        cut = None if id_ is None else id_.encode()[:255].decode(errors="ignore")
        properties = pika.BasicProperties(message_id=cut, headers=put.headers, delivery_mode=2)
        channel.basic_publish("", put.queue, put.body, properties)
    connection.close()


async def put_embedded(product: ForkedConnector, puts: Sequence[Put]) -> None:
    async with queues.opened(product, None, TIERS, "postmaster") as broker:
        for put in puts:
            texts = {name: str(value) for name, value in (put.headers or {}).items()}
            await broker.publish(Send(put.queue, put.body, put.message_id or "", texts))


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_what_others_put_into_our_queues_harms_no_mail(tmp_path: Path, broker: str) -> None:
    server = shared_rabbitmq() if broker == "rabbitmq" else None
    url = None if server is None else server.url(server.vhost())
    puts, count = everything()
    (tmp_path / "product").mkdir()
    with contextlib.closing(ForkedConnector(tmp_path / "product")) as product:
        product.configure(
            [nobody()], f"maildir://{tmp_path}/mail/{{local}}", url, retry={"tiers": ["1s"]}
        )
        assert product.cli("topology", "declare").returncode == 0
        if url is None:
            asyncio.run(put_embedded(product, puts))
        else:
            put_by_another_client(url, puts)
        product.start("run")

        def stored() -> list[bytes]:
            files = (tmp_path / "mail").rglob("new/*")
            return sorted(below_prefix(path.read_bytes()) for path in files)

        product.wait(lambda: len(stored()) >= SOUND, "the sound ones")
        product.wait(lambda: depth(product, url, "quarantine") >= count, "quarantine")
        assert product.stop("run") == 0, product.tail()
        assert stored() == sorted(lf(mail(number)) for number in range(SOUND))
        assert depth(product, url, "quarantine") == count
        assert product.json("failed", "list") == []
        for event in ("handler crashed", "a background task failed"):
            assert product.count("run", event) == 0, product.tail()
        assert_only_mail_in(tmp_path)
        assert_operator_copes(product, url, count)


def nobody() -> dict[str, object]:
    """Return an account at whose server nobody listens."""
    return {
        "name": "sales",
        "host": "127.0.0.1",
        "port": free_port(),
        "tls": "none",
        "username": "sales",
        "password": "open-sesame",
        "mailbox": "sales@corp.example",
    }


def depth(product: ForkedConnector, url: str | None, queue: str) -> int:
    with queues.steward(product, url, TIERS) as steward:
        return len(list(steward.browse(queue)))


def assert_only_mail_in(folder: Path) -> None:
    """See that no id has become a file outside the Maildir of the account."""
    beside = {path.name for path in folder.iterdir()} - {"product", "mail"}
    assert not beside
    assert {path.name for path in (folder / "mail").iterdir()} == {"sales"}


def assert_operator_copes(product: ForkedConnector, url: str | None, count: int) -> None:
    """See that quarantine can be listed, and each message in it be shown and dropped."""
    table = product.cli("quarantine", "list")
    assert table.returncode == 0, table.stderr
    assert "\x1b" not in table.stdout
    assert "\0" not in table.stdout
    listed = product.json("quarantine", "list")
    assert len(listed) == count
    shown = product.cli("quarantine", "show", "garbage")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    dropped = product.cli("quarantine", "drop", "garbage", "--yes")
    assert (dropped.returncode, dropped.stdout) == (0, "dropped: 3\n"), dropped.stderr
    dropped = product.cli("quarantine", "drop", "--all", "--yes")
    assert (dropped.returncode, dropped.stdout) == (0, f"dropped: {count - 3}\n"), dropped.stderr
    assert depth(product, url, "quarantine") == 0
