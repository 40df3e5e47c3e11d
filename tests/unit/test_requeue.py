from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest

from shared import wire
from shared.broker.dead_letter import inbox, own, readable
from shared.broker.requeue import described, fresh
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed, Payload, Poll, Summary
from shared.queues import Tier, plan

QUEUES = plan([Tier("5m", 300)])
RAW = Inline(b"Subject: hello\r\n\r\nbody\r\n")
SUMMARY = Summary("a@b\x1b[2J", "hello", "<1@b>", "")
PAYLOADS: dict[str, Payload] = {
    "poll": Poll(),
    "incoming": Fetched(RAW, "u", "s", SUMMARY),
    "parsed": Parsed(RAW, "u", "s", SUMMARY, None, (), 0, ()),
    "pickup": Addressed(RAW, "u", "s", SUMMARY, "", ("x@y",), "default", b"X: y\r\n"),
}
KILLED = {"queue": "incoming", "reason": "delivery_limit", "time": datetime(2026, 1, 2, 3, 4, 5)}  # noqa: DTZ001 - as AMQP has it
WAITED = {"queue": "incoming.retry.5m", "reason": "expired"}


def tried(queue: str) -> Envelope[Payload]:
    return Envelope("id", "sales", PAYLOADS[queue], 1.0, attempt=7, first_failure=2.0)


@pytest.mark.parametrize("queue", PAYLOADS)
def test_a_fresh_envelope_has_no_past(queue: str) -> None:
    letter = tried(queue)
    new = wire.decode(fresh(wire.encode(letter), queue), type(PAYLOADS[queue]))
    assert new == replace(letter, attempt=0, first_failure=None)


@pytest.mark.parametrize(
    ("body", "queue"),
    [
        (b"junk", "incoming"),
        (wire.encode(tried("incoming")), "pickup"),
        (wire.encode(tried("incoming")), "incoming.failed"),
        (b"", "quarantine"),
    ],
)
def test_what_does_not_belong_into_the_queue_goes_as_it_is(body: bytes, queue: str) -> None:
    assert fresh(body, queue) is body


def test_an_envelope_is_described_by_its_summary_safely() -> None:
    assert described(wire.encode(tried("incoming")), "incoming") == {
        "account": "sales",
        "from": "a@b\\x1b[2J",
        "subject": "hello",
        "message-id": "<1@b>",
    }


def test_what_cannot_be_read_is_described_by_nothing() -> None:
    assert described(b"junk", "incoming") == {}
    assert described(wire.encode(tried("incoming")), "quarantine") == {}
    assert described(wire.encode(tried("poll")), "poll") == {"account": "sales"}


def test_the_brokers_own_headers_are_not_ours() -> None:
    headers = {"account": "sales", "age": Decimal("1.5"), "x-delivery-count": 3, "list": []}
    assert own(headers) == {"account": "sales", "age": 1.5}


@pytest.mark.parametrize(
    ("headers", "queue"),
    [
        ({"inbox": "pickup", "x-death": [KILLED]}, "pickup"),
        ({"x-death": [KILLED, WAITED], "x-first-death-queue": WAITED["queue"]}, "incoming"),
        ({"x-death": [WAITED]}, None),
        ({"inbox": "elsewhere"}, None),
        ({"inbox": "pickup.failed"}, None),
        ({"x-death": [{"queue": "elsewhere", "reason": "delivery_limit"}]}, None),
        ({"x-death": "nonsense"}, None),
        ({}, None),
    ],
)
def test_where_a_message_came_from(headers: dict[str, object], queue: str | None) -> None:
    assert inbox(headers, QUEUES) == queue


def test_a_native_dead_letter_is_explained() -> None:
    body = wire.encode(tried("incoming"))
    found = readable({"account": "sales", "x-death": [KILLED, WAITED]}, body, QUEUES)
    assert "handed out" in str(found.pop("reason"))
    assert found == {
        "account": "sales",
        "from": "a@b\\x1b[2J",
        "subject": "hello",
        "message-id": "<1@b>",
        "inbox": "incoming",
        "stage": "parser",
        "size": len(body),
        "failed-at": "2026-01-02T03:04:05Z",
    }


def test_a_message_that_a_stage_gave_up_speaks_for_itself() -> None:
    headers = {"reason": "550 no", "inbox": "pickup", "x-death": [KILLED]}
    assert readable(headers, b"", QUEUES) == {"reason": "550 no", "inbox": "pickup"}
