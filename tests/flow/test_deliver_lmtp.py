"""The deliverer against a real Dovecot: LMTP, one reply for each recipient."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.servers.dovecot import Dovecot, dovecot, quota
from tests.unit.deliverer.content import SENDER, content, courier, stored

USERS = {"anna": "x", "bert": "x", "carl": "x", "dora": "x", "full": "x"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with dovecot(tmp_path_factory.mktemp("dovecot"), USERS) as instance:
        yield instance


def url(server: Dovecot) -> str:
    return f"lmtp://{server.host}:{server.lmtp}"


def below_return_path(message: bytes) -> bytes:
    first, _, rest = message.partition(b"\n")
    assert first.startswith(b"Return-Path: <")
    return rest


async def test_what_arrives_is_what_was_sent(server: Dovecot) -> None:
    messages = sample_messages(100, seed=9)
    async with courier(url(server)) as lmtp:
        results = await asyncio.gather(
            *(
                lmtp.deliver(content(m, id_=f"{i}"), SENDER, ["anna@corp.example"])
                for i, m in enumerate(messages)
            )
        )
    assert {r["anna@corp.example"].verdict for r in results} == {"delivered"}
    found = sorted(map(below_return_path, server.messages("anna")))
    assert found == sorted(map(stored, messages))


async def test_a_large_message_in_chunks(server: Dovecot) -> None:
    chunks = [b"Subject: large\r\n\r\n", *([b".0123456789\r\n" * 20_000] * 40)]
    async with courier(url(server)) as lmtp:
        results = await lmtp.deliver(content(chunks=chunks), SENDER, ["dora@corp.example"])
    assert results["dora@corp.example"].verdict == "delivered"
    (found,) = server.messages("dora")
    assert below_return_path(found) == stored(b"".join(chunks))


async def test_one_reply_for_each_recipient(server: Dovecot) -> None:
    bert, carl, unknown = (f"{name}@corp.example" for name in ("bert", "carl", "nobody-here"))
    async with courier(url(server)) as lmtp:
        results = await lmtp.deliver(content(), SENDER, [bert, unknown, carl])
        only_unknown = await lmtp.deliver(content(), SENDER, [unknown])
    assert {r: x.verdict for r, x in results.items()} == {
        bert: "delivered",
        carl: "delivered",
        unknown: "permanent",
    }
    assert results[unknown].reply.startswith(f"550 5.1.1 <{unknown}>")
    assert only_unknown[unknown].verdict == "permanent"
    assert len(server.messages("bert")) == len(server.messages("carl")) == 1


async def test_a_full_mailbox_is_temporary_and_its_neighbour_gets_the_message(
    tmp_path: Path,
) -> None:
    full, empty = "full@corp.example", "bert@corp.example"
    with dovecot(tmp_path, {"full": "x", "bert": "x"}, extra=quota("10K")) as small:
        async with courier(url(small)) as lmtp:
            filler = content(b"Subject: filler\r\n\r\n" + b"x" * 70 + b"\r\n" * 3_500)
            assert (await lmtp.deliver(filler, SENDER, [full]))[full].verdict == "delivered"
            more = content(b"Subject: more\r\n\r\n" + b"x\r\n" * 2_500, id_="more")
            results = await lmtp.deliver(more, SENDER, [full, empty])
        assert results[full].verdict == "temporary"
        assert ".2.2" in results[full].reply
        assert results[empty].verdict == "delivered"
        assert len(small.messages("full")) == len(small.messages("bert")) == 1
