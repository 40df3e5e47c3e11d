"""The SMTP courier against a server that does what it is told."""

import asyncio
from collections.abc import Iterator

import pytest

from services.deliverer.courier import ClaimLost
from shared.errors import SpoolMissing, Unreachable
from tests.clock import ManualClock
from tests.servers.smtp import DROP, EXTENSIONS, HANG, smtp_server
from tests.unit.deliverer.letters import (
    ANNA,
    BERT,
    CARL,
    MESSAGE,
    PREFIX,
    SENDER,
    courier,
    letter,
    until,
)


async def test_a_message_arrives_with_its_envelope() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(letter(), SENDER, [ANNA, BERT])
    (received,) = server.received
    assert received.data == PREFIX + MESSAGE
    assert (received.sender, received.recipients) == (SENDER, [ANNA, BERT])
    size = len(PREFIX + MESSAGE)
    assert received.parameters == [f"SIZE={size}", "BODY=8BITMIME"]
    for result in results.values():
        assert result.verdict == "delivered"
        assert result.reply == (
            f"250 2.0.0 taken (said by 127.0.0.1:{server.port} to the end of DATA)"
        )


async def test_the_null_sender_is_an_empty_path() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(), "", [ANNA])
    assert server.received[0].sender == ""


@pytest.mark.parametrize("extensions", [EXTENSIONS, ("ENHANCEDSTATUSCODES",), ()])
async def test_with_and_without_pipelining(extensions: tuple[str, ...]) -> None:
    async with smtp_server(extensions=extensions) as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", "550 5.1.1 no such user")
        results = await smtp.deliver(letter(), SENDER, [ANNA, BERT])
        again = await smtp.deliver(letter(), SENDER, [BERT])
    assert {r: x.verdict for r, x in results.items()} == {ANNA: "delivered", BERT: "permanent"}
    assert again[BERT].verdict == "delivered"
    assert [m.recipients for m in server.received] == [[ANNA], [BERT]]
    assert "BODY=8BITMIME" in server.received[0].parameters or extensions != EXTENSIONS
    assert server.connections == 1


async def test_a_server_that_knows_helo_alone() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("EHLO", "502 5.5.1 what")
        results = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert server.commands[:3] == ["EHLO [127.0.0.1]", "HELO [127.0.0.1]", f"MAIL FROM:<{SENDER}>"]


async def test_each_recipient_gets_its_own_verdict() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", f"550 5.1.1 <{BERT}>: no such user")
        server.answer(f"RCPT {CARL}", "450 4.2.0 greylisted")
        results = await smtp.deliver(letter(), SENDER, [ANNA, BERT, CARL])
    assert {r: x.verdict for r, x in results.items()} == {
        ANNA: "delivered",
        BERT: "permanent",
        CARL: "temporary",
    }
    assert results[BERT].reply == (
        f"550 5.1.1 <{BERT}>: no such user (said by 127.0.0.1:{server.port} to RCPT)"
    )
    assert [m.recipients for m in server.received] == [[ANNA]]


@pytest.mark.parametrize("lenient", [True, False])
async def test_no_recipient_accepted_delivers_nothing_and_keeps_the_session(lenient: bool) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {ANNA}", "550 5.1.1 no such user")
        if lenient:  # RFC 2920 section 3.1: 354 to DATA all the same
            server.answer("DATA", "354 go on")
        refused = await smtp.deliver(letter(), SENDER, [ANNA])
        accepted = await smtp.deliver(letter(), SENDER, [BERT])
    assert refused[ANNA].verdict == "permanent"
    assert accepted[BERT].verdict == "delivered"
    assert [m.raw for m in server.received if m.recipients == []] == [b""] * lenient
    assert server.connections == 1


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()])
@pytest.mark.parametrize(
    ("said", "verdict"),
    [("550 5.7.1 sender rejected", "permanent"), ("451 4.3.0 later", "temporary")],
)
async def test_a_refused_sender_is_the_verdict_on_all(
    extensions: tuple[str, ...], said: str, verdict: str
) -> None:
    async with smtp_server(extensions=extensions) as server, courier(server.url) as smtp:
        server.answer("MAIL", said)
        results = await smtp.deliver(letter(), SENDER, [ANNA, BERT])
        await smtp.deliver(letter(), SENDER, [ANNA])
    assert [r.verdict for r in results.values()] == [verdict] * 2
    assert [m.recipients for m in server.received if m.accepted] == [[ANNA]]


@pytest.mark.parametrize(
    ("answer", "connections"), [("451 4.3.0 no space", 1), ("250 2.0.0 what", 2)]
)
async def test_data_refused_is_the_verdict_on_those_accepted(answer: str, connections: int) -> None:
    async with smtp_server(extensions=()) as server, courier(server.url) as smtp:
        server.answer("DATA", answer)
        results = await smtp.deliver(letter(), SENDER, [ANNA])
        again = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert again[ANNA].verdict == "delivered"
    assert len(server.received) == 1
    assert server.connections == connections  # after nonsense the session is not used again


async def test_451_once_then_250() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("END", "451 4.3.0 come back")
        first = await smtp.deliver(letter(), SENDER, [ANNA])
        second = await smtp.deliver(letter(), SENDER, [ANNA])
    assert (first[ANNA].verdict, second[ANNA].verdict) == ("temporary", "delivered")
    assert not first[ANNA].lost


BYE = ("421 4.3.2 shutting down", DROP)
STEPS = ("MAIL", f"RCPT {ANNA}", "DATA")


@pytest.mark.parametrize(
    ("key", "action", "extensions"),
    [
        *(("GREETING", action, EXTENSIONS) for action in (DROP, HANG, BYE)),
        *((key, BYE, EXTENSIONS) for key in ("EHLO", *STEPS)),
        *((key, action, ("8BITMIME",)) for key in STEPS for action in (DROP, HANG, BYE)),
    ],
)
async def test_a_server_that_goes_away_before_the_message_is_unreachable(
    key: str, action: str | tuple[str, ...], extensions: tuple[str, ...]
) -> None:
    async with (
        smtp_server(extensions=extensions) as server,
        courier(server.url, patience=0.001) as smtp,
    ):
        server.answer(key, action)
        with pytest.raises(Unreachable) as caught:
            await smtp.deliver(letter(), SENDER, [ANNA])
        assert str(caught.value).startswith(f"127.0.0.1:{server.port}: ")
        if isinstance(action, tuple):
            assert "421 4.3.2 shutting down" in str(caught.value)
        results = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert len(server.received) == 1


async def test_a_farewell_is_heard_at_once_though_more_replies_are_due() -> None:
    async with smtp_server() as server, courier(server.url) as smtp, asyncio.timeout(30):
        server.answer("MAIL", ("421 4.3.2 shutting down", HANG))
        with pytest.raises(Unreachable, match=r"421 4\.3\.2 shutting down"):
            await smtp.deliver(letter(), SENDER, [ANNA])


async def test_nobody_listens() -> None:
    async with smtp_server() as server:
        pass
    async with courier(server.url) as smtp:
        with pytest.raises(Unreachable, match="nothing listens at port"):
            await smtp.deliver(letter(), SENDER, [ANNA])


@pytest.mark.parametrize("action", [DROP, HANG])
async def test_a_connection_lost_after_the_dot_leaves_the_outcome_open(action: str) -> None:
    async with smtp_server() as server, courier(server.url, patience=0.001) as smtp:
        server.answer("END", action)
        results = await smtp.deliver(letter(), SENDER, [ANNA])
        again = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert results[ANNA].lost
    assert "it may have arrived" in results[ANNA].reply
    assert again[ANNA].verdict == "delivered"


async def test_a_kept_connection_is_used_again() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        for _ in range(3):
            await smtp.deliver(letter(), SENDER, [ANNA])
        assert server.open == 1
    assert server.connections == 1
    assert len(server.received) == 3


@pytest.mark.parametrize("action", [DROP, ("421 4.4.2 idle for too long", DROP)])
async def test_a_kept_connection_that_died_costs_a_fresh_one_and_no_failure(
    action: str | tuple[str, ...],
) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(), SENDER, [ANNA])
        server.answer("MAIL", action)
        results = await smtp.deliver(letter(), SENDER, [BERT])
    assert results[BERT].verdict == "delivered"
    assert [m.recipients for m in server.received] == [[ANNA], [BERT]]
    assert server.connections == 2


async def test_a_farewell_on_a_kept_connection_is_noticed_before_it_is_used() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("END", ("250 2.0.0 taken", "421 4.3.2 bye", DROP))
        await smtp.deliver(letter(), SENDER, [ANNA])
        await until(lambda: server.open == 0)
        results = await smtp.deliver(letter(), SENDER, [BERT])
    assert results[BERT].verdict == "delivered"
    assert server.connections == 2
    assert len([c for c in server.commands if c.startswith("MAIL")]) == 2


async def test_a_reply_that_nobody_asked_for_is_never_taken_for_an_answer() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(), SENDER, [ANNA])
        server.writers[0].write(b"250 2.1.0 one too many\r\n")
        ((_, kept),) = smtp.courier._pool._idle  # type: ignore[attr-defined]
        await until(lambda: not kept.connection.idle)
        server.answer(f"RCPT {BERT}", "550 5.1.1 no such user")
        results = await smtp.deliver(letter(), SENDER, [BERT, CARL])
    assert [r.verdict for r in results.values()] == ["permanent", "delivered"]
    assert server.connections == 2


async def test_connections_are_bounded() -> None:
    async with smtp_server() as server, courier(server.url, connections=2) as smtp:
        await asyncio.gather(*(smtp.deliver(letter(), SENDER, [ANNA]) for _ in range(20)))
    assert len(server.received) == 20
    assert server.connections == 2


async def test_those_behind_a_letter_that_hangs_go_over_another_connection() -> None:
    async with (
        smtp_server(extensions=()) as server,
        courier(server.url, connections=1, patience=0.003) as smtp,
    ):
        server.answer("MAIL", HANG)
        tries = [smtp.deliver(letter(), SENDER, [ANNA]) for _ in range(3)]
        first, *others = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(first, Unreachable)
    assert [not isinstance(other, BaseException) for other in others] == [True, True]
    assert server.connections == 2


async def test_an_idle_connection_is_closed_politely() -> None:
    clock = ManualClock()
    async with smtp_server() as server, courier(server.url, clock) as smtp:
        await smtp.deliver(letter(), SENDER, [ANNA])
        await clock.advance(59)
        assert server.commands[-1] == "DATA"
        await clock.advance(1)
        await until(lambda: server.open == 0)
        assert server.commands[-1] == "QUIT"


async def test_a_large_message_goes_out_in_chunks() -> None:
    line = b"0123456789" * 7 + b"\r\n"
    chunks = [line * 3_000] * 40
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(letter(chunks=chunks), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert server.received[0].data == PREFIX + line * 120_000


@pytest.mark.parametrize("smuggled", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\n.\r"])
async def test_no_message_ends_data_early(smuggled: bytes) -> None:
    message = b"Subject: x\r\n\r\nhello" + smuggled + b"MAIL FROM:<evil@example.net>\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(message), SENDER, [ANNA])
    (received,) = server.received
    assert received.raw.startswith(PREFIX + b"Subject: x\r\n\r\nhello\r\n..\r\nMAIL FROM:")


async def test_a_message_that_breaks_off_is_never_ended_with_a_dot() -> None:
    broken = letter(chunks=[b"Subject: half\r\n\r\n", b"x" * 300_000], error=SpoolMissing("3f9a"))
    async with smtp_server() as server, courier(server.url) as smtp:
        with pytest.raises(SpoolMissing):
            await smtp.deliver(broken, SENDER, [ANNA])
        await until(lambda: server.open == 0)
        await smtp.deliver(letter(), SENDER, [ANNA])
    assert [m.data for m in server.received] == [PREFIX + MESSAGE]


@pytest.mark.parametrize("chunks", [None, [MESSAGE]], ids=["at hand", "spooled"])
async def test_what_is_no_longer_ours_is_never_ended_with_a_dot(chunks: list[bytes] | None) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        with pytest.raises(ClaimLost):
            await smtp.deliver(letter(chunks=chunks, held=False), SENDER, [ANNA])
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
            await smtp.deliver(letter(chunks=watched(), size=0), SENDER, [ANNA])
    assert read < 1_000


@pytest.mark.parametrize("then", [(), (DROP,)])
async def test_a_reply_in_the_middle_of_the_message_counts_if_it_is_a_refusal(
    then: tuple[str, ...],
) -> None:
    chunk = b"x" * 998 + b"\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("DATA", ("354 go on", "552 5.3.4 message too big", *then))
        results = await smtp.deliver(letter(chunks=[chunk * 500] * 50), SENDER, [ANNA])
        again = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "permanent"
    assert "552 5.3.4 message too big" in results[ANNA].reply
    assert again[ANNA].verdict == "delivered"
    assert [m.data for m in server.received] == [PREFIX + MESSAGE]


async def test_a_success_in_the_middle_of_the_message_is_none() -> None:
    chunk = b"x" * 998 + b"\r\n"
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("DATA", ("354 go on", "250 2.0.0 taken"))
        results = await smtp.deliver(letter(chunks=[chunk * 500] * 50), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert server.received == []


async def test_a_message_larger_than_the_server_takes_is_not_sent() -> None:
    async with (
        smtp_server(extensions=("PIPELINING", "SIZE 50")) as server,
        courier(server.url) as smtp,
    ):
        results = await smtp.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "permanent"
    assert f"{len(PREFIX + MESSAGE)} bytes are more than" in results[ANNA].reply
    assert not [c for c in server.commands if c.startswith("MAIL")]


async def test_size_zero_is_no_limit() -> None:
    async with smtp_server(extensions=("SIZE 0",)) as server, courier(server.url) as smtp:
        assert (await smtp.deliver(letter(), SENDER, [ANNA]))[ANNA].verdict == "delivered"


async def test_smtputf8_only_where_an_address_needs_it() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(), SENDER, [ANNA])
        await smtp.deliver(letter(), SENDER, [ANNA, "chloé@été.example"])
        await smtp.deliver(letter(), "chloé@été.example", [ANNA])
    assert ["SMTPUTF8" in m.parameters for m in server.received] == [False, True, True]
    assert server.received[1].recipients == [ANNA, "chloé@été.example"]


async def test_an_address_that_needs_smtputf8_where_it_is_not_offered_is_refused_alone() -> None:
    async with smtp_server(extensions=("PIPELINING",)) as server, courier(server.url) as smtp:
        results = await smtp.deliver(letter(), SENDER, [ANNA, "chloé@été.example"])
    assert results[ANNA].verdict == "delivered"
    assert results["chloé@été.example"].verdict == "permanent"
    assert "SMTPUTF8" in results["chloé@été.example"].reply
    assert len(server.received) == 1


async def test_an_address_that_could_inject_commands_is_never_sent() -> None:
    evil = "a@corp.example>\r\nRCPT TO:<boss@corp.example"
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(letter(), SENDER, [ANNA, evil])
        by_sender = await smtp.deliver(letter(), evil, [ANNA])
    assert (results[ANNA].verdict, results[evil].verdict) == ("delivered", "permanent")
    assert by_sender[ANNA].verdict == "delivered"
    assert [m.sender for m in server.received] == [SENDER, ""]
    assert not [c for c in server.commands if "boss" in c]


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
        await smtp.deliver(letter(ODD), SENDER, [ANNA])
        await smtp.deliver(letter(chunks=chunks), SENDER, [BERT, ANNA])
        await smtp.deliver(letter(chunks=chunks), SENDER, [BERT])
    here, spooled, other = [received.data for received in server.received]
    assert here == spooled == PREFIX + SENT
    assert other == PREFIX + SENT.replace(b"X-Original-", b"")


@pytest.mark.parametrize("lmtp", [False, True])
async def test_a_destination_that_wants_delivered_to_as_it_came_gets_it(lmtp: bool) -> None:
    async with (
        smtp_server(lmtp=lmtp) as server,
        courier(f"{server.url}?delivered_to=keep") as smtp,
    ):
        await smtp.deliver(letter(ODD), SENDER, [ANNA])
        await smtp.deliver(letter(chunks=[ODD]), SENDER, [ANNA])
    for received in server.received:
        assert received.data == PREFIX + SENT.replace(b"X-Original-", b"")


async def test_what_an_older_version_put_in_front_has_no_delivered_to_either() -> None:
    older = b"Received: x\r\n" + PREFIX.replace(b"X-POP3-Connector-For", b"Delivered-To")
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(letter(prefix=older), SENDER, [ANNA])
        await smtp.deliver(letter(prefix=older, chunks=[MESSAGE]), SENDER, [ANNA])
    for received in server.received:
        assert received.data == b"Received: x\r\n" + PREFIX + MESSAGE


@pytest.mark.parametrize("offered", [EXTENSIONS, ("SIZE", "8BITMIME")])
@pytest.mark.parametrize("said", ["555 5.5.4 unsupported option", "501 bad syntax", "500 what"])
async def test_options_of_mail_that_are_offered_and_refused_are_left_out(
    offered: tuple[str, ...], said: str
) -> None:
    def rule(key: str, _: int) -> str | None:
        return said if key == "MAIL" and "SIZE=" in server.commands[-1] else None

    async with smtp_server(extensions=offered, rule=rule) as server, courier(server.url) as smtp:
        for recipient in (ANNA, BERT):
            results = await smtp.deliver(letter(), SENDER, [recipient])
            assert results[recipient].verdict == "delivered"
    assert [(m.sender, m.parameters) for m in server.received] == [(SENDER, [])] * 2
    assert sum("SIZE=" in line for line in server.commands) == 1
    assert server.connections == 1


async def test_a_sender_that_is_refused_is_not_held_against_the_options() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("MAIL", "501 bad address", "501 bad address")
        for recipient in (ANNA, BERT):
            await smtp.deliver(letter(), SENDER, [recipient])
    assert [m.sender for m in server.received] == ["", SENDER]
    assert all("BODY=8BITMIME" in m.parameters for m in server.received)
