"""Senders that the next server does not take, and limits that it sets: what is told of both."""

import pytest

from services.deliverer.courier import MailObject, Throttled
from services.deliverer.destinations import courier_for
from tests.clock import ManualClock
from tests.servers.smtp import DROP, EXTENSIONS, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, CARL, SENDER, content, courier, told
from tests.unit.deliverer.crowds import passing

LIMIT = "450 4.7.1 Error: too much mail from 127.0.0.1"
UNKNOWN = "450 4.1.8 <x>: Sender address rejected: Domain not found"


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["together", "each"])
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("MAIL", "501 5.1.7 Bad sender address syntax"),
        ("MAIL", "553 5.1.8 domain of sender address does not exist"),
        ("MAIL", "504 not fully qualified"),
        ("RCPT", "504 5.5.2 <x>: Sender address rejected: need fully-qualified address"),
        ("RCPT", UNKNOWN),
        ("DATA", UNKNOWN),
    ],
)
async def test_a_sender_that_is_not_taken_is_replaced_by_the_null_sender(
    key: str, said: str, lmtp: bool, extensions: tuple[str, ...]
) -> None:
    async with (
        smtp_server(extensions=extensions, lmtp=lmtp) as server,
        courier(server.url) as smtp,
    ):
        await smtp.deliver(content(), SENDER, [CARL])  # it is known to pipeline
        server.answer(key, *[said] * (2 if key == "RCPT" else 1))
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
        await smtp.deliver(content(), SENDER, [CARL])
    assert [m.sender for m in server.received] == [SENDER, "", SENDER]
    assert server.received[1].recipients == [ANNA, BERT]
    assert server.connections == 1
    for result in results.values():
        assert result.verdict == "delivered"
        assert "250 2.0.0 taken" in result.reply
        assert f"with the null sender in place of {SENDER}: {said}" in result.reply


async def test_where_the_sender_is_refused_for_some_the_others_get_it_once() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", UNKNOWN)
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
    assert [r.verdict for r in results.values()] == ["delivered"] * 2
    assert [(m.sender, m.recipients) for m in server.received] == [(SENDER, [ANNA]), ("", [BERT])]
    assert ["null sender" in results[r].reply for r in (ANNA, BERT)] == [False, True]


async def test_what_breaks_then_does_not_undo_what_others_have() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", UNKNOWN)
        server.answer("RSET", DROP)
        server.answer("MAIL", "250 2.1.0 ok", DROP)
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
    assert {r: x.verdict for r, x in results.items()} == {ANNA: "delivered", BERT: "temporary"}
    assert len(server.received) == 1


async def test_what_may_have_arrived_is_not_sent_again_at_once_for_the_sake_of_others() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {BERT}", UNKNOWN)
        server.answer("END", DROP)
        results = await smtp.deliver(content(), SENDER, [ANNA, BERT])
        assert {r: x.verdict for r, x in results.items()} == dict.fromkeys(
            (ANNA, BERT), "temporary"
        )
        assert [results[r].lost for r in (ANNA, BERT)] == [True, False]
        assert [m.recipients for m in server.received] == [[ANNA]]


@pytest.mark.parametrize(
    ("said", "verdict"), [("501 5.1.7 no", "permanent"), ("451 4.1.8 no", "temporary")]
)
async def test_a_server_that_does_not_take_the_null_sender_either(said: str, verdict: str) -> None:
    async with smtp_server(extensions=()) as server, courier(server.url) as smtp:
        server.answer("MAIL", said, said)
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == verdict
    assert [c for c in server.commands if c.startswith("MAIL")][1] == "MAIL FROM:<>"


@pytest.mark.parametrize("said", ["550 5.7.1 sender rejected", "553 5.7.1 not owned by user"])
async def test_a_policy_is_no_matter_of_form(said: str) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("MAIL", said)
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "permanent"
    assert len([c for c in server.commands if c.startswith("MAIL")]) == 1


@pytest.mark.parametrize(
    "sender", ["chloé@été.example", "a b@corp.example", "x\r\nDATA@corp.example"]
)
async def test_a_sender_that_cannot_be_told_is_not_tried(sender: str) -> None:
    async with smtp_server(extensions=("PIPELINING",)) as server, courier(server.url) as smtp:
        results = await smtp.deliver(content(), sender, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert "with the null sender in place of" in results[ANNA].reply
    assert [c for c in server.commands if c.startswith("MAIL")] == ["MAIL FROM:<>"]


async def test_a_message_that_was_announced_is_sent_again_too() -> None:
    given = [MailObject(content(id_=str(n)), SENDER, [r]) for n, r in enumerate((ANNA, BERT, CARL))]
    given[2] = given[2]._replace(sender="a b@corp.example")
    async with smtp_server(lmtp=True) as server:
        made = courier_for("local", f"{server.url}?pipelining=full", connections=1)
        server.answer("MAIL", "250 2.1.0 ok", "553 5.1.7 bad sender address")
        first, second, third = await told(made, given)
        await made.close()
    for results in (first, second, third):
        assert not isinstance(results, Exception)
        assert [r.verdict for r in results.values()] == ["delivered"]
    assert [(m.sender, m.recipients) for m in server.received] == [
        (SENDER, [ANNA]),
        ("", [BERT]),
        ("", [CARL]),
    ]


async def test_a_server_that_leaves_at_a_sender_it_does_not_take_gets_the_message() -> None:
    said = "501 5.1.7 Bad sender address syntax"
    async with smtp_server(extensions=()) as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [CARL])
        server.answer("MAIL", *[said] * 5)
        server.answer("MAIL ", *["250 2.1.0 ok"] * 5)  # to the null sender
        server.answer("RSET", *[DROP] * 5)
        results = await smtp.deliver(content(), "foo@example..net", [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert said in results[ANNA].reply
    assert [m.sender for m in server.received] == [SENDER, ""]


async def test_no_message_is_announced_before_all_of_this_one_is_sent() -> None:
    given = [MailObject(content(), SENDER, [ANNA, BERT]), MailObject(content(), SENDER, [CARL])]
    async with smtp_server(lmtp=True) as server:
        made = courier_for("local", f"{server.url}?pipelining=full", connections=1)
        server.answer(f"RCPT {BERT}", UNKNOWN)
        first, second = await told(made, given)
        await made.close()
    assert not isinstance(first, Exception)
    assert not isinstance(second, Exception)
    assert [r.verdict for r in (*first.values(), *second.values())] == ["delivered"] * 3
    assert [m.recipients for m in server.received] == [[ANNA], [BERT], [CARL]]
    mail = [command for command in server.commands if command.startswith("MAIL")]
    assert len(mail) == 3


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["together", "each"])
@pytest.mark.parametrize("key", ["MAIL", f"RCPT {ANNA}", "DATA", "END"])
async def test_a_limit_of_the_server_is_nobodys_fault(
    key: str, extensions: tuple[str, ...]
) -> None:
    clock = ManualClock()
    async with (
        smtp_server(extensions=extensions) as server,
        courier(server.url, clock) as smtp,
        passing(clock),
    ):
        server.answer(key, LIMIT)
        with pytest.raises(Throttled, match="too much mail"):
            await smtp.deliver(content(), SENDER, [ANNA])
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert [m.accepted for m in server.received] == [False] * (key == "END") + [True]


async def test_a_limit_for_some_is_theirs_alone() -> None:
    async with smtp_server(lmtp=True) as server, courier(server.url) as lmtp:
        server.answer(f"RCPT {ANNA}", LIMIT)
        server.answer(f"END {BERT}", LIMIT)
        results = await lmtp.deliver(content(), SENDER, [ANNA, BERT, CARL])
    assert [r.verdict for r in results.values()] == ["temporary", "temporary", "delivered"]


@pytest.mark.parametrize(
    "said", ["452 4.5.0 Too many messages sent", "421 4.7.0 too many messages"]
)
async def test_a_connection_that_takes_no_more_is_followed_by_a_fresh_one(said: str) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        server.answer("MAIL", said)
        results = await smtp.deliver(content(), SENDER, [BERT])
    assert results[BERT].verdict == "delivered"
    assert (server.connections, len(server.received)) == (2, 2)
