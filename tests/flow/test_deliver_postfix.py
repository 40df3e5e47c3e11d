"""The deliverer against a real Postfix: what arrives, and what its answers come to."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.corpus.messages import sample_messages
from tests.servers.postfix import Postfix, postfix
from tests.servers.process import free_port, wait_until
from tests.unit.deliverer.content import SENDER, One, content, courier, stored
from tests.unit.deliverer.crowds import passing

BOXES = tuple(f"box{i}" for i in range(20))


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    with postfix(mailboxes=BOXES, size_limit=40_000_000) as instance:
        yield instance


@pytest.fixture
def box(server: Postfix) -> str:
    """A mailbox that no other test has delivered to."""
    return next(name for name in BOXES if not server.maildir(name) and name not in server.answers)


def arrived(server: Postfix, box: str, count: int) -> list[bytes]:
    wait_until(lambda: len(server.maildir(box)) >= count, f"{count} messages in {box}")
    return sorted(server.messages(box))


async def deliver_all(smtp: One, messages: list[bytes], recipient: str) -> set[str]:
    results = await asyncio.gather(
        *(smtp.deliver(content(m, id_=f"{i}"), SENDER, [recipient]) for i, m in enumerate(messages))
    )
    return {result[recipient].verdict for result in results}


@pytest.mark.parametrize("tls", ["none", "opportunistic"])
async def test_what_arrives_is_what_was_sent(server: Postfix, box: str, tls: str) -> None:
    messages = sample_messages(60, seed=7)
    async with courier(f"{server.url}?tls={tls}") as smtp:
        assert await deliver_all(smtp, messages, f"{box}@corp.example") == {"delivered"}
    assert arrived(server, box, 60) == sorted(map(stored, messages))


async def test_an_alias_pipes_it_on(server: Postfix) -> None:
    (message,) = sample_messages(1, seed=8)
    async with courier(server.url) as smtp:
        await smtp.deliver(content(message), SENDER, ["pipe@pipe.example"])
    wait_until(lambda: len(server.piped()) == 1, "the piped message")
    assert server.piped() == [stored(message)]


async def test_thirty_megabytes_in_chunks(server: Postfix, box: str) -> None:
    line = b"0123456789abcdef" * 4 + b"\r\n.dot at the start\r\n"
    chunks = [b"Subject: large\r\n\r\n", *([line * 3_000] * 119)]
    message = b"".join(chunks)
    assert len(message) > 29_000_000
    async with courier(server.url) as smtp:
        results = await smtp.deliver(content(chunks=chunks), SENDER, [f"{box}@corp.example"])
    assert results[f"{box}@corp.example"].verdict == "delivered"
    assert arrived(server, box, 1) == [stored(message)]


async def test_what_looks_like_the_end_of_data_arrives_in_one_piece(
    server: Postfix, box: str
) -> None:
    evil = b"\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<" + box.encode() + b"@corp.example>\r\n"
    ends = [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\n"]
    messages = [b"Subject: %d\r\n\r\nhello" % i + end + evil for i, end in enumerate(ends)]
    async with courier(server.url) as smtp:
        await deliver_all(smtp, messages, f"{box}@corp.example")
        await deliver_all(smtp, [b"Subject: last\r\n\r\n"], f"{box}@corp.example")
    found = arrived(server, box, len(ends) + 1)
    assert len(found) == len(ends) + 1
    assert all(re.search(rb"\n\.\n+MAIL FROM:", m) for m in found if b"last" not in m)


async def test_an_unknown_user_is_permanent_and_the_reason_says_who_said_so(
    server: Postfix, box: str
) -> None:
    known, unknown = f"{box}@corp.example", "nobody-here@corp.example"
    async with courier(server.url) as smtp:
        results = await smtp.deliver(content(), SENDER, [known, unknown])
    assert results[known].verdict == "delivered"
    assert results[unknown].verdict == "permanent"
    assert results[unknown].reply.startswith(f"550 5.1.1 <{unknown}>: Recipient address rejected")
    assert results[unknown].reply.endswith(f"(said by 127.0.0.1:{server.port} to RCPT)")
    assert len(arrived(server, box, 1)) == 1


async def test_greylisted_and_then_taken_on_the_same_connection(server: Postfix, box: str) -> None:
    recipient = f"{box}@corp.example"
    server.answers[recipient] = "451 4.7.1 greylisted"
    async with courier(server.url) as smtp:
        first = await smtp.deliver(content(), SENDER, [recipient])
        del server.answers[recipient]
        second = await smtp.deliver(content(), SENDER, [recipient])
    assert (first[recipient].verdict, second[recipient].verdict) == ("temporary", "delivered")
    assert len(arrived(server, box, 1)) == 1


async def test_a_refused_sender_is_permanent(server: Postfix, box: str) -> None:
    server.answers["spam@example.net"] = "550 5.7.1 not from you"
    recipient = f"{box}@corp.example"
    async with courier(server.url) as smtp:
        results = await smtp.deliver(content(), "spam@example.net", [recipient])
        again = await smtp.deliver(content(), SENDER, [recipient])
    assert results[recipient].verdict == "permanent"
    assert "550 5.7.1" in results[recipient].reply
    assert again[recipient].verdict == "delivered"
    assert len(arrived(server, box, 1)) == 1  # or the next test would take the mailbox for its own


async def test_a_message_over_the_limit_is_permanent(server: Postfix, box: str) -> None:
    recipient = f"{box}@corp.example"
    async with courier(server.url) as smtp:
        results = await smtp.deliver(content(size=40_000_001), SENDER, [recipient])
    assert results[recipient].verdict == "permanent"
    assert "40000001 bytes are more than" in results[recipient].reply


async def test_an_address_in_utf8(server: Postfix, box: str) -> None:
    async with courier(server.url) as smtp:
        results = await smtp.deliver(content(), "chloé@été.example", [f"{box}@corp.example"])
    assert results[f"{box}@corp.example"].verdict == "delivered"
    wait_until(lambda: len(server.maildir(box)) == 1, "the message")
    assert server.maildir(box)[0].read_bytes().startswith("Return-Path: <chloé@été".encode())


async def test_verified_tls_both_ways(server: Postfix, box: str) -> None:
    recipient = f"{box}@corp.example"
    ca = f"?ca_file={server.certificates.ca}"
    for url in (f"{server.url}{ca}", f"smtps://localhost:{server.smtps_port}{ca}"):
        async with courier(url) as smtp:
            results = await smtp.deliver(content(), SENDER, [recipient])
        assert results[recipient].verdict == "delivered"
    async with courier(f"{server.url}?tls=required") as strict:
        with pytest.raises(Unreachable, match="TLS failed"):
            await strict.deliver(content(), SENDER, [recipient])


async def test_a_server_that_wants_tls_is_not_the_messages_fault() -> None:
    with postfix(tls="encrypt", mailboxes=("anna",)) as strict:
        async with courier(f"{strict.url}?tls=none") as smtp:
            with pytest.raises(Unreachable, match=r"530 5\.7\.0 Must issue a STARTTLS"):
                await smtp.deliver(content(), SENDER, ["anna@corp.example"])


async def test_a_server_that_went_away_and_came_back() -> None:
    port, clock = free_port(), ManualClock()
    recipient = "anna@corp.example"
    async with courier(f"smtp://127.0.0.1:{port}", clock) as smtp, passing(clock):
        with pytest.raises(Unreachable):
            await smtp.deliver(content(), SENDER, [recipient])
        for _ in range(2):
            with postfix(port=port, mailboxes=("anna",)) as server:
                results = await smtp.deliver(content(), SENDER, [recipient])
                assert results[recipient].verdict == "delivered"
                assert len(arrived(server, "anna", 1)) == 1
        with pytest.raises(Unreachable):
            await smtp.deliver(content(), SENDER, [recipient])
