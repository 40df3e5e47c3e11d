"""The SMTP courier against a server that does what it is told: the transaction, and its words."""

import pytest

from tests.servers.smtp import EXTENSIONS, smtp_server
from tests.unit.deliverer.content import (
    ANNA,
    BERT,
    CARL,
    MESSAGE,
    PREFIX,
    SENDER,
    content,
    courier,
)


async def test_a_message_arrives_with_its_envelope() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
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
        await smtp.deliver(content(), "", [ANNA])
    assert server.received[0].sender == ""


@pytest.mark.parametrize("extensions", [EXTENSIONS, ("ENHANCEDSTATUSCODES",), ()])
async def test_with_and_without_pipelining(extensions: tuple[str, ...]) -> None:
    async with smtp_server(extensions=extensions) as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", "550 5.1.1 no such user")
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
        again = await smtp.deliver(content(), SENDER, [BERT])
    assert {r: x.verdict for r, x in results.items()} == {ANNA: "delivered", BERT: "permanent"}
    assert again[BERT].verdict == "delivered"
    assert [m.recipients for m in server.received] == [[ANNA], [BERT]]
    assert "BODY=8BITMIME" in server.received[0].parameters or extensions != EXTENSIONS
    assert server.connections == 1


async def test_a_server_that_knows_helo_alone() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("EHLO", "502 5.5.1 what")
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert server.commands[:3] == ["EHLO [127.0.0.1]", "HELO [127.0.0.1]", f"MAIL FROM:<{SENDER}>"]


async def test_each_recipient_gets_its_own_verdict() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", f"550 5.1.1 <{BERT}>: no such user")
        server.answer(f"RCPT {CARL}", "450 4.2.0 greylisted")
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT, CARL])
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
        refused = await smtp.deliver(content(), SENDER, [ANNA])
        accepted = await smtp.deliver(content(), SENDER, [BERT])
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
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
        await smtp.deliver(content(), SENDER, [ANNA])
    assert [r.verdict for r in results.values()] == [verdict] * 2
    assert [m.recipients for m in server.received if m.accepted] == [[ANNA]]


@pytest.mark.parametrize(
    ("answer", "connections"), [("451 4.3.0 no space", 1), ("250 2.0.0 what", 2)]
)
async def test_data_refused_is_the_verdict_on_those_accepted(answer: str, connections: int) -> None:
    async with smtp_server(extensions=()) as server, courier(server.url) as smtp:
        server.answer("DATA", answer)
        results = await smtp.deliver(content(), SENDER, [ANNA])
        again = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert again[ANNA].verdict == "delivered"
    assert len(server.received) == 1
    assert server.connections == connections  # after nonsense the session is not used again


async def test_451_once_then_250() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("END", "451 4.3.0 come back")
        first = await smtp.deliver(content(), SENDER, [ANNA])
        second = await smtp.deliver(content(), SENDER, [ANNA])
    assert (first[ANNA].verdict, second[ANNA].verdict) == ("temporary", "delivered")
    assert not first[ANNA].lost


async def test_a_message_larger_than_the_server_takes_is_not_sent() -> None:
    async with (
        smtp_server(extensions=("PIPELINING", "SIZE 50")) as server,
        courier(server.url) as smtp,
    ):
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "permanent"
    assert f"{len(PREFIX + MESSAGE)} bytes are more than" in results[ANNA].reply
    assert not [c for c in server.commands if c.startswith("MAIL")]


async def test_size_zero_is_no_limit() -> None:
    async with smtp_server(extensions=("SIZE 0",)) as server, courier(server.url) as smtp:
        assert (await smtp.deliver(content(), SENDER, [ANNA]))[ANNA].verdict == "delivered"


async def test_smtputf8_only_where_an_address_needs_it() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        await smtp.deliver(content(), SENDER, [ANNA, "chloé@été.example"])
        await smtp.deliver(content(), "chloé@été.example", [ANNA])
    assert ["SMTPUTF8" in m.parameters for m in server.received] == [False, True, True]
    assert server.received[1].recipients == [ANNA, "chloé@été.example"]


async def test_an_address_that_needs_smtputf8_where_it_is_not_offered_is_refused_alone() -> None:
    async with smtp_server(extensions=("PIPELINING",)) as server, courier(server.url) as smtp:
        results = await smtp.deliver(content(), SENDER, [ANNA, "chloé@été.example"])
    assert results[ANNA].verdict == "delivered"
    assert results["chloé@été.example"].verdict == "permanent"
    assert "SMTPUTF8" in results["chloé@été.example"].reply
    assert len(server.received) == 1


async def test_an_address_that_could_inject_commands_is_never_sent() -> None:
    evil = "a@corp.example>\r\nRCPT TO:<boss@corp.example"
    async with smtp_server() as server, courier(server.url) as smtp:
        results = await smtp.deliver(content(), SENDER, [ANNA, evil])
        by_sender = await smtp.deliver(content(), evil, [ANNA])
    assert (results[ANNA].verdict, results[evil].verdict) == ("delivered", "permanent")
    assert by_sender[ANNA].verdict == "delivered"
    assert [m.sender for m in server.received] == [SENDER, ""]
    assert not [c for c in server.commands if "boss" in c]


@pytest.mark.parametrize("offered", [EXTENSIONS, ("SIZE", "8BITMIME")])
@pytest.mark.parametrize("said", ["555 5.5.4 unsupported option", "501 bad syntax", "500 what"])
async def test_options_of_mail_that_are_offered_and_refused_are_left_out(
    offered: tuple[str, ...], said: str
) -> None:
    def rule(key: str, _: int) -> str | None:
        return said if key == "MAIL" and "SIZE=" in server.commands[-1] else None

    async with smtp_server(extensions=offered, rule=rule) as server, courier(server.url) as smtp:
        for recipient in (ANNA, BERT):
            results = await smtp.deliver(content(), SENDER, [recipient])
            assert results[recipient].verdict == "delivered"
    assert [(m.sender, m.parameters) for m in server.received] == [(SENDER, [])] * 2
    assert sum("SIZE=" in line for line in server.commands) == 1
    assert server.connections == 1


async def test_a_sender_that_is_refused_is_not_held_against_the_options() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("MAIL", "501 bad address", "501 bad address")
        for recipient in (ANNA, BERT):
            await smtp.deliver(content(), SENDER, [recipient])
    assert [m.sender for m in server.received] == ["", SENDER]
    assert all("BODY=8BITMIME" in m.parameters for m in server.received)
