from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest
from pika.compat import long
from pika.data import decode_table

from shared import wire
from shared.broker import Header, Stored
from shared.broker.dead_letter import own, readable
from shared.broker.rabbitmq import frames
from shared.broker.requeue import (
    HOPS_KEPT,
    Order,
    again,
    described,
    directed_alike,
    hindrance,
    id_in,
)
from shared.message import (
    Addressed,
    Envelope,
    Failure,
    Fetched,
    Hop,
    Inline,
    Parsed,
    Payload,
    Poll,
    Requeue,
    Summary,
    poll_id,
)
from shared.queues import Tier, plan

QUEUES = plan([Tier("5m", 300)])
ORDER = Order("requeue", 500.0)
RAW = Inline(b"Subject: hello\r\n\r\nbody\r\n")
SUMMARY = Summary("a@b\x1b[2J", "hello", "<1@b>", "")
PAYLOADS: dict[str, Payload] = {
    "poll": Poll(),
    "incoming": Fetched(RAW, "u", "s", SUMMARY),
    "parsed": Parsed(RAW, "u", "s", SUMMARY, None, (), 0, ()),
    "pickup": Addressed(RAW, "u", "s", SUMMARY, "", ("x@y",), "default", b"X: y\r\n"),
}
STAGES = {"poll": "fetcher", "incoming": "parser", "parsed": "rewriter", "pickup": "deliverer"}
KILLED = {"queue": "incoming", "reason": "delivery_limit", "time": datetime(2026, 1, 2, 3, 4, 5)}  # noqa: DTZ001 - as AMQP has it
WAITED = {"queue": "incoming.retry.5m", "reason": "expired"}


def tried(queue: str) -> Envelope[Payload]:
    return Envelope("id", "sales", PAYLOADS[queue], 1.0, 7, 2.0, (Hop("fetcher", 1.0),))


FAILED: dict[str, Header] = {
    "account": "sales",
    "stage": "deliverer",
    "reason": "550 no\x1b",
    "failed-at": "1970-01-01T00:01:40+00:00",
    "attempts": 7,
}


def given_up(
    envelope: Envelope[Payload], queue: str = "pickup.failed", **headers: Header
) -> Stored:
    return Stored(queue, "id", {**FAILED, **headers}, wire.encode(envelope))


def sent_again(stored: Stored, order: Order = ORDER) -> Envelope[Fetched]:
    send = again(stored, order)
    assert send is not None
    assert (send.queue, send.message_id, dict(send.headers)) == (
        "incoming", "id", {"account": "sales", "stage": "deliverer"},
    )  # fmt: skip
    return wire.decode(send.body, Fetched)


@pytest.mark.parametrize("queue", ["incoming", "parsed", "pickup"])
def test_whatever_stage_gave_a_message_up_it_starts_anew_with_its_past(queue: str) -> None:
    undelivered = ("x@y",) if queue == "pickup" else ()
    assert sent_again(given_up(tried(queue), f"{queue}.failed")) == Envelope(
        "id",
        "sales",
        Fetched(RAW, "u", "s", SUMMARY, released=True),
        1.0,
        trail=(Hop("fetcher", 1.0), Hop("requeue", 500.0)),
        requeue=Requeue(
            undelivered=undelivered,
            failures=(Failure("deliverer", "550 no\\x1b", 7, 2.0, 100.0),),
        ),
    )


def test_what_an_operator_has_said_before_holds_until_something_else_is_said() -> None:
    before = replace(tried("pickup"), requeue=Requeue(("x@y",), "archive", (), ()))
    assert sent_again(given_up(before)).requeue == Requeue(
        ("x@y",), "archive", ("x@y",), (Failure("deliverer", "550 no\\x1b", 7, 2.0, 100.0),)
    )
    told = sent_again(given_up(before), replace(ORDER, recipients=("a@b",), destination="new"))
    assert told.requeue is not None
    assert (told.requeue.recipients, told.requeue.destination, told.requeue.undelivered) == (
        ("a@b",), "new", (),
    )  # fmt: skip


def test_who_requeues_again_and_again_does_not_make_a_message_grow_without_end() -> None:
    envelope = sent_again(given_up(tried("pickup"), reason="no 0"))
    for round_ in range(1, 100):
        envelope = sent_again(given_up(envelope, reason=f"no {round_}"))
    assert envelope.requeue is not None
    reasons = [failure.reason for failure in envelope.requeue.failures]
    assert reasons == ["no 0", *(f"no {n}" for n in range(91, 100))]
    assert envelope.trail[0] == Hop("fetcher", 1.0)
    assert len(envelope.trail) == HOPS_KEPT


@pytest.mark.parametrize(
    ("headers", "queue", "goes_to"),
    [
        ({"inbox": "parsed"}, "quarantine", "parsed"),
        ({"inbox": "nowhere"}, "pickup.failed", "pickup"),
        ({}, "incoming.failed", "incoming"),
        ({"inbox": "nowhere"}, "quarantine", None),
    ],
)
def test_bytes_that_are_no_message_go_where_they_came_from_as_they_are(
    headers: dict[str, Header], queue: str, goes_to: str | None
) -> None:
    stored = Stored(queue, "id", headers, b"junk")
    send = again(stored, ORDER)
    assert (send and (send.queue, send.body)) == (goes_to and (goes_to, b"junk"))
    assert again(stored, replace(ORDER, recipients=("a@b",))) is None


def test_parts_that_go_to_different_recipients_are_told_apart() -> None:
    whole = wire.encode(tried("incoming"))
    parts = [
        wire.encode(replace(tried("incoming"), requeue=Requeue(undelivered=(r,)))) for r in "ab"
    ]
    later = wire.encode(replace(tried("incoming"), attempt=9))
    assert directed_alike(whole, later)
    assert not directed_alike(whole, parts[0])
    assert not directed_alike(*parts)


def test_an_envelope_is_described_by_its_summary_safely() -> None:
    assert described(wire.encode(tried("incoming"))) == {
        "account": "sales",
        "from": "a@b\\x1b[2J",
        "subject": "hello",
        "message-id": "<1@b>",
        "attempts": 7,
        "first-failure": "1970-01-01T00:00:02+00:00",
    }


def test_what_cannot_be_read_is_described_by_nothing() -> None:
    assert described(b"junk") == {}
    assert described(wire.encode(replace(tried("poll"), first_failure=None))) == {
        "account": "sales"
    }


def test_the_brokers_own_headers_are_not_ours() -> None:
    headers = {"account": "sales", "age": Decimal("1.5"), "x-delivery-count": 3, "list": []}
    assert own(headers) == {"account": "sales", "age": 1.5}


def test_a_number_of_64_bits_is_a_header_like_any_other() -> None:
    table = frames.encoded({"account": "sales", "attempts": long(7), "size": 5_000_000_000})
    read, _ = decode_table(table, 0)
    assert type(read["attempts"]) is type(read["size"]) is long
    found = own({**read, "flag": True})
    assert found == {"account": "sales", "attempts": 7, "size": 5_000_000_000}
    assert {type(found["attempts"]), type(found["size"])} == {int}


@pytest.mark.parametrize("queue", PAYLOADS)
@pytest.mark.parametrize(
    ("why", "said"),
    [
        (
            "delivery_limit",
            "handed out of {} more often than RabbitMQ allows without being settled",
        ),
        ("expired", "it lay in {} for longer than a policy of RabbitMQ allows (message-ttl)"),
        ("maxlen", "{} was fuller than a policy of RabbitMQ allows (max-length)"),
        ("rejected", "somebody else took it out of {}, and rejected it"),
        ("something new", "RabbitMQ moved it here from {}"),
    ],
)
def test_a_native_dead_letter_is_explained(queue: str, why: str, said: str) -> None:
    body = wire.encode(tried(queue))
    death = {"queue": queue, "reason": why, "time": KILLED["time"]}
    found = readable({"account": "sales", "x-death": [death, WAITED]}, body, "quarantine", QUEUES)
    assert str(found.pop("reason")).startswith(said.format(queue))
    mail = {"from": "a@b\\x1b[2J", "subject": "hello", "message-id": "<1@b>"}
    assert found == {
        "account": "sales",
        "attempts": 7,
        "first-failure": "1970-01-01T00:00:02+00:00",
        "inbox": queue,
        "stage": STAGES[queue],
        "size": len(body),
        "failed-at": "2026-01-02T03:04:05+00:00",
        **(mail if queue != "poll" else {}),
    }


def told(headers: Mapping[str, object] | None, queue: str = "pickup.failed") -> str:
    return str(readable(headers, wire.encode(tried("pickup")), queue, QUEUES).get("reason"))


def test_what_a_stage_or_an_operator_read_last_comes_first() -> None:
    by_stage = {"reason": "550 no", "inbox": "pickup"}
    assert told(by_stage) == "550 no"
    assert told({**by_stage, "x-death": [WAITED]}) == "550 no"
    moved = {"queue": "pickup.failed", "reason": "expired"}
    assert told({**by_stage, "x-death": [moved, KILLED]}, "quarantine") == "550 no"
    killed_at_its_next_try = told({**by_stage, "x-death": [KILLED, WAITED]})
    assert killed_at_its_next_try.startswith(
        "handed out of incoming more often than RabbitMQ allows"
    )
    assert killed_at_its_next_try.endswith("; before that: 550 no")


@pytest.mark.parametrize(
    "headers", [None, {}, {"x-death": "nonsense"}, {"x-death": []}, {"x-death": [7]}]
)
def test_a_message_that_was_moved_by_hand_is_known_by_its_envelope(
    headers: dict[str, object] | None,
) -> None:
    found = readable(headers, wire.encode(tried("parsed")), "pickup.failed", QUEUES)
    assert found["reason"] == "nothing tells why: moved here by hand, or by another program"
    assert (found["account"], found["subject"], found["attempts"]) == ("sales", "hello", 7)


def test_a_death_that_somebody_has_made_up_is_harmless() -> None:
    assert "\x1b" not in told({"x-death": [{"queue": "\x1b[2J", "reason": 7}]})
    assert told({"x-death": [{}]}) == "RabbitMQ moved it here from ?"


def test_where_nothing_was_given_up_nothing_is_explained() -> None:
    headers = {"account": "sales", "x-death": [KILLED]}
    assert readable(headers, wire.encode(tried("pickup")), "pickup", QUEUES) == {"account": "sales"}


def test_an_id_that_was_lost_is_that_of_the_envelope() -> None:
    ours = replace(tried("pickup"), id="0" * 31 + "f")
    assert id_in(wire.encode(ours)) == ours.id
    poll = replace(tried("poll"), id=poll_id("sales"))
    assert id_in(wire.encode(poll)) == "poll-sales"
    assert id_in(wire.encode(replace(ours, id="../../x"))) is None
    assert id_in(b"junk") is None


@pytest.mark.parametrize("queue", ["quarantine", "incoming.failed", "pickup.failed"])
def test_a_poll_job_goes_back_to_the_fetchers_from_wherever_it_lies(queue: str) -> None:
    job = Stored(queue, "poll-sales", {"inbox": "pickup"}, wire.encode(tried("poll")))
    send = again(job, ORDER)
    assert send is not None
    assert (send.queue, send.body) == ("poll", job.body)
    assert hindrance(job, ORDER) is None
    assert "none to be directed elsewhere" in str(hindrance(job, replace(ORDER, destination="x")))
