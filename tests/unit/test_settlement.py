"""From outcomes to sends: tiers, giving up, Failed Mail, quarantine, splits, blobs."""

from dataclasses import replace
from typing import Any

import pytest

from shared import wire
from shared.message import (
    Addressed,
    Envelope,
    Failure,
    Inline,
    Payload,
    Poll,
    Raw,
    Requeue,
    Spooled,
    Summary,
)
from shared.outcome import Busy, DeadLetter, Done, Forward, Outcome, Quarantine, Retry, Split
from shared.queues import Tier
from shared.settlement import RetryPolicy, Settlement, SettlementRules, undecodable

NOW = 1_700_000_000.0
POLICY = RetryPolicy((Tier("30s", 30), Tier("5m", 300), Tier("2h", 7200)), 5 * 86_400.0)


def addressed(raw: Raw = Inline(b"A: b\r\n\r\nc\r\n"), *recipients: str) -> Addressed:
    summary = Summary("Ann <ann@example.net>", "Quarterly\x1b[31m figures", "<1@x>", "")
    to = recipients or ("sales@corp.example",)
    return Addressed(raw, "u1", "pop:110", summary, "ann@example.net", to, "default", b"X: y\r\n")


def envelope(payload: Payload | None = None, **changes: Any) -> Envelope[Payload]:
    base: Envelope[Payload] = Envelope("id1", "sales", payload or addressed(), NOW - 60)
    return replace(base, **changes)


def settle(e: Envelope[Payload], outcome: Outcome, now: float = NOW) -> Settlement:
    return SettlementRules("deliverer", "pickup", "next", POLICY).settlement(e, outcome, now)


def test_forward_starts_the_next_stage_with_a_clean_count_and_a_longer_trail() -> None:
    e = envelope(attempt=3, first_failure=NOW - 5)
    (step,) = settle(e, Forward.to(e.payload)).steps
    assert step.event == "forwarded"
    assert step.send is not None
    assert step.send.queue == "next"
    onward = wire.decode(step.send.body, Addressed)
    assert (onward.attempt, onward.first_failure) == (0, None)
    assert [(h.stage, h.at) for h in onward.trail] == [("deliverer", NOW)]
    assert onward.payload == e.payload


@pytest.mark.parametrize(
    ("attempt", "after", "queue"),
    [
        (0, None, "pickup.retry.30s"),
        (1, None, "pickup.retry.5m"),
        (2, None, "pickup.retry.2h"),
        (9, None, "pickup.retry.2h"),
        (0, 31, "pickup.retry.5m"),
        (9, 10, "pickup.retry.30s"),
        (0, 99_999, "pickup.retry.2h"),
    ],
)
def test_retries_climb_the_tiers_and_follow_hints(
    attempt: int, after: float | None, queue: str
) -> None:
    (step,) = settle(envelope(attempt=attempt), Retry("451 later", after)).steps
    assert step.send is not None
    assert step.send.queue == queue
    again = wire.decode(step.send.body, Addressed)
    assert again.attempt == attempt + 1
    assert again.first_failure == NOW
    assert step.send.headers["reason"] == "451 later"


@pytest.mark.parametrize(
    ("after", "queue"),
    [
        (0, "pickup.retry.30s"),
        (299, "pickup.retry.30s"),
        (300, "pickup.retry.5m"),
        (99_999, "pickup.retry.2h"),
    ],
)
def test_what_waits_for_room_is_back_when_there_may_be_some_and_was_not_tried(
    after: float, queue: str
) -> None:
    for attempt, first in ((0, None), (3, NOW - 9_999_999)):
        e = envelope(attempt=attempt, first_failure=first)
        (step,) = settle(e, Busy("many are before it", after)).steps
        assert step.event == "waiting"
        assert step.send is not None
        assert step.send.queue == queue
        again = wire.decode(step.send.body, Addressed)
        assert (again.attempt, again.first_failure) == (attempt, first)


def test_the_first_failure_is_kept_and_decides_when_to_give_up() -> None:
    e = envelope(attempt=4, first_failure=NOW)
    (step,) = settle(e, Retry("down"), NOW + POLICY.give_up_after - 1).steps
    assert step.event == "retrying"
    assert step.send is not None
    assert wire.decode(step.send.body, Addressed).first_failure == NOW
    (step,) = settle(e, Retry("down"), NOW + POLICY.give_up_after).steps
    assert step.event == "failed"
    assert step.send is not None
    assert step.send.queue == "pickup.failed"
    assert step.send.headers["reason"] == "down (given up after 5 days)"


def test_failed_mail_reads_without_decoding_and_without_control_characters() -> None:
    (step,) = settle(envelope(attempt=1, first_failure=NOW - 30), DeadLetter("550 5.1.1 no")).steps
    assert step.send is not None
    assert step.send.queue == "pickup.failed"
    assert dict(step.send.headers) == {
        "account": "sales",
        "from": "Ann <ann@example.net>",
        "subject": "Quarterly\\x1b[31m figures",
        "message-id": "<1@x>",
        "reason": "550 5.1.1 no",
        "stage": "deliverer",
        "inbox": "pickup",
        "attempts": 2,
        "first-failure": "2023-11-14T22:12:50+00:00",
        "failed-at": "2023-11-14T22:13:20+00:00",
        "size": 11,
    }


def test_what_went_before_a_requeue_counts_for_the_operator_and_goes_along() -> None:
    past = Requeue(failures=(Failure("deliverer", "550 no", 4, NOW - 9000, NOW - 8000),))
    e = envelope(attempt=1, first_failure=NOW - 5, requeue=past)
    (step,) = settle(e, DeadLetter("550 still no")).steps
    assert step.send is not None
    assert step.send.headers["attempts"] == 6
    assert step.send.headers["first-failure"] == "2023-11-14T19:43:20+00:00"
    kept = wire.decode(step.send.body, Addressed)
    assert (kept.attempt, kept.first_failure, kept.requeue) == (2, NOW - 5, past)
    (step,) = settle(e, Forward.to(e.payload)).steps
    assert step.send is not None
    assert wire.decode(step.send.body, Addressed).requeue == past


def test_quarantine_keeps_the_message() -> None:
    (step,) = settle(envelope(), Quarantine("NUL in headers")).steps
    assert step.send is not None
    assert step.send.queue == "quarantine"
    assert wire.decode(step.send.body, Addressed).payload == addressed()


def test_bytes_that_are_no_envelope_are_kept_as_they_are() -> None:
    step = undecodable(b"\xff\x00", "m1", "not msgpack", stage="parser", inbox="incoming", now=NOW)
    assert step.send is not None
    assert (step.send.queue, step.send.body) == ("quarantine", b"\xff\x00")
    assert step.send.headers["inbox"] == "incoming"
    assert step.send.headers["failed-at"] == "2023-11-14T22:13:20+00:00"


def test_a_poll_job_is_never_retried_for_the_schedule_makes_another() -> None:
    job = Envelope("poll-a", "a", Poll(), NOW)
    route = SettlementRules("fetcher", "poll", None, POLICY)
    follows = route.settlement(job, Retry("database away"), NOW)
    assert [s.send for s in follows.steps] == [None]


def test_a_split_gives_each_recipient_its_own_verdict() -> None:
    whole = addressed(Inline(b"A: b\r\n\r\n"), "a@x", "b@x", "c@x")
    outcome = Split(
        (
            Done("250 ok"),
            Retry("451 later", payload=replace(whole, recipients=("b@x",))),
            DeadLetter("550 no", replace(whole, recipients=("c@x",))),
        )
    )
    follows = settle(envelope(whole), outcome)
    assert [s.event for s in follows.steps] == ["delivered", "retrying", "failed"]
    bodies = [wire.decode(s.send.body, Addressed) for s in follows.steps if s.send]
    assert [b.payload.recipients for b in bodies] == [("b@x",), ("c@x",)]


SPOOLED = Spooled("id1", 9_999_999, b"A: b\r\n\r\n")


def test_a_blob_is_released_when_nothing_refers_to_it_any_more() -> None:
    assert settle(envelope(addressed(SPOOLED)), Done("250")).release == "id1"
    assert settle(envelope(addressed(SPOOLED)), Retry("451")).release is None
    assert settle(envelope(addressed(SPOOLED)), DeadLetter("550")).release is None
    assert settle(envelope(), Done("250")).release is None


def test_two_envelopes_never_own_one_blob() -> None:
    whole = addressed(SPOOLED, "b@x", "c@x")
    outcome = Split(
        (
            Retry("451", payload=replace(whole, recipients=("b@x",))),
            DeadLetter("550", replace(whole, recipients=("c@x",))),
        )
    )
    follows = settle(envelope(whole), outcome)
    keys = [
        wire.decode(s.send.body, Addressed).payload.raw for s in follows.steps if s.send is not None
    ]
    first, second = (raw.key for raw in keys if isinstance(raw, Spooled))
    assert first == "id1"
    assert second != "id1"
    assert follows.copies == (("id1", second),)
    assert follows.release is None


def test_a_poll_job_goes_back_to_its_queue_where_the_time_is_known_and_is_dropped_else() -> None:
    """It has no tiers; dropped, its account is due again when the schedule says so."""
    route = SettlementRules("fetcher", "poll", None, POLICY)
    job = envelope(Poll(), id="poll-sales")
    dropped = route.settlement(job, Retry("a defect"), NOW)
    assert [(s.event, s.send) for s in dropped.steps] == [("polled", None)]
    kept = route.settlement(job, Retry("the database is away", after=5.0), NOW)
    (step,) = kept.steps
    assert (step.event, kept.after) == ("polled", 5.0)
    assert step.send is not None
    assert (step.send.queue, step.send.message_id) == ("poll", "poll-sales")
    assert wire.decode(step.send.body, Poll) == replace(job, attempt=1)
