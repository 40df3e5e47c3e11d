"""The content of a message over SMTP: how it ends or breaks off, and what is put in front."""

from collections.abc import Iterator

import pytest

from services.deliverer.courier import ClaimLost
from shared.errors import SpoolMissing, Unreachable
from tests.servers.smtp import DROP, HANG, smtp_server
from tests.unit.deliverer.content import (
    ANNA,
    BERT,
    MESSAGE,
    PREFIX,
    SENDER,
    content,
    courier,
    until,
)


async def test_a_large_message_goes_out_in_chunks() -> None:
    line = b"0123456789" * 7 + b"\r\n"
    chunks = [line * 3_000] * 40
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(content(chunks=chunks), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert server.received[0].data == PREFIX + line * 120_000


@pytest.mark.parametrize("smuggled", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\n.\r"])
async def test_no_message_ends_data_early(smuggled: bytes) -> None:
    message = b"Subject: x\r\n\r\nhello" + smuggled + b"MAIL FROM:<evil@example.net>\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(message), SENDER, [ANNA])
    (received,) = server.received
    assert received.raw.startswith(PREFIX + b"Subject: x\r\n\r\nhello\r\n..\r\nMAIL FROM:")


async def test_a_message_that_breaks_off_is_never_ended_with_a_dot() -> None:
    broken = content(chunks=[b"Subject: half\r\n\r\n", b"x" * 300_000], error=SpoolMissing("3f9a"))
    async with smtp_server() as server, courier(server.url) as smtp:
        with pytest.raises(SpoolMissing):
            await smtp.deliver(broken, SENDER, [ANNA])
        await until(lambda: server.open == 0)
        await smtp.deliver(content(), SENDER, [ANNA])
    assert [m.data for m in server.received] == [PREFIX + MESSAGE]


@pytest.mark.parametrize("chunks", [None, [MESSAGE]], ids=["at hand", "spooled"])
async def test_what_is_no_longer_ours_is_never_ended_with_a_dot(chunks: list[bytes] | None) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        with pytest.raises(ClaimLost):
            await smtp.deliver(content(chunks=chunks, held=False), SENDER, [ANNA])
        await until(lambda: server.open == 0)
    assert server.received == []


async def test_a_server_that_takes_no_more_data_does_not_make_us_hold_it() -> None:
    read = 0

    def watched() -> Iterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 1
            yield (b"x" * 998 + b"\r\n") * 100

    async with smtp_server() as server, courier(server.url, patience=0.001) as smtp:
        server.answer("DATA", ("354 go on", HANG))
        with pytest.raises(Unreachable, match="takes no more data"):
            await smtp.deliver(content(chunks=watched(), size=0), SENDER, [ANNA])
    assert read < 1_000


@pytest.mark.parametrize("then", [(), (DROP,)])
async def test_a_reply_in_the_middle_of_the_message_counts_if_it_is_a_refusal(
    then: tuple[str, ...],
) -> None:
    chunk = b"x" * 998 + b"\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("DATA", ("354 go on", "552 5.3.4 message too big", *then))
        results = await smtp.deliver(content(chunks=[chunk * 500] * 50), SENDER, [ANNA])
        again = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "permanent"
    assert "552 5.3.4 message too big" in results[ANNA].reply
    assert again[ANNA].verdict == "delivered"
    assert [m.data for m in server.received] == [PREFIX + MESSAGE]


async def test_a_success_in_the_middle_of_the_message_is_none() -> None:
    chunk = b"x" * 998 + b"\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("DATA", ("354 go on", "250 2.0.0 taken"))
        results = await smtp.deliver(content(chunks=[chunk * 500] * 50), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert server.received == []


ODD = (
    b"Delivered-To: anna@corp.example\r\nX-A: one\r\r\nSubject: a\rBcc: victim@x\r\n\r\n"
    b"Delivered-To: anna@corp.example\r\n.\rend\r\r\n"
)

SENT = (
    b"X-Original-Delivered-To: anna@corp.example\r\nX-A: one\r\nSubject: a Bcc: victim@x\r\n\r\n"
    b"Delivered-To: anna@corp.example\r\n.\r\nend\r\n"
)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_the_header_is_one_block_and_nothing_in_it_looks_like_a_loop(
    lmtp: bool, cut: int
) -> None:
    chunks = [ODD[at : at + cut] for at in range(0, len(ODD), cut)]
    async with smtp_server(lmtp=lmtp) as server, courier(server.url) as smtp:
        await smtp.deliver(content(ODD), SENDER, [ANNA])
        await smtp.deliver(content(chunks=chunks), SENDER, [BERT, ANNA])
        await smtp.deliver(content(chunks=chunks), SENDER, [BERT])
    here, spooled, other = [received.data for received in server.received]
    assert here == spooled == PREFIX + SENT
    assert other == PREFIX + SENT.replace(b"X-Original-", b"")


@pytest.mark.parametrize("lmtp", [False, True])
async def test_a_destination_that_wants_delivered_to_as_it_came_gets_it(lmtp: bool) -> None:
    async with (
        smtp_server(lmtp=lmtp) as server,
        courier(f"{server.url}?delivered_to=keep") as smtp,
    ):
        await smtp.deliver(content(ODD), SENDER, [ANNA])
        await smtp.deliver(content(chunks=[ODD]), SENDER, [ANNA])
    for received in server.received:
        assert received.data == PREFIX + SENT.replace(b"X-Original-", b"")


async def test_what_an_older_version_put_in_front_has_no_delivered_to_either() -> None:
    older = b"Received: x\r\n" + PREFIX.replace(b"X-POP3-Connector-For", b"Delivered-To")
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(prefix=older), SENDER, [ANNA])
        await smtp.deliver(content(prefix=older, chunks=[MESSAGE]), SENDER, [ANNA])
    for received in server.received:
        assert received.data == b"Received: x\r\n" + PREFIX + MESSAGE
