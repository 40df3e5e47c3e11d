"""Envelopes are input: what is in a queue and does not look like ours goes to quarantine, alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import msgpack
import pytest

from services.deliverer.courier import CourierResult, MailObject, Result
from services.deliverer.files.durable_files import FileStore
from services.deliverer.files.maildir import MaildirCourier
from shared import wire
from shared.broker import Delivery, Header, Send
from shared.broker.rabbitmq import frames
from shared.broker.rabbitmq.properties import TABLE_LIMIT, _texts, fitting
from shared.broker.rabbitmq.subscription import _decode_headers, _kept
from shared.clock import SystemClock
from shared.envelope_check import owns
from shared.errors import NewerSchema, Undecodable
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.message import Envelope, Fetched, Inline, Payload, Poll, Spooled
from shared.outcome import Forward
from shared.queues import INCOMING, PARSED, POLL, QUARANTINE, Tier
from shared.settlement import RetryPolicy
from shared.stage import DecodedDelivery, HandledDelivery, Stage, StageHandler
from tests.corpus.envelopes import HEAD, ID
from tests.unit.deliverer.content import content, requests

FETCHED = Fetched(Inline(b"Subject: x\r\n\r\nbody\r\n"), "u", "pop:110")
MINE: Envelope[Payload] = Envelope(ID, "sales", FETCHED, 1.7e9)
HOSTILE = (
    "",
    "../../x",
    "a\0b",
    "x" * 300,
    ID + "\n",
    ID.upper(),
    ID[:-1],
    ID + "0",
    "٣" * 32,
    "poll-sales",
)


def opened(envelope: Envelope[Payload]) -> DecodedDelivery | HandledDelivery:
    """Return what a stage makes of an envelope that somebody has put into its inbox."""
    poll = isinstance(envelope.payload, Poll)
    stage = Stage(
        "stage",
        POLL if poll else INCOMING,
        Poll if poll else Fetched,
        PARSED,
        lambda _: Forward.to(FETCHED),
        1,
    )
    handling = StageHandler(
        stage,
        RetryPolicy((Tier("1s", 1.0),), 60.0),
        MailLog("x", lines=LogLines(StringIO())),
        SystemClock(),
    )
    return handling.decode(Delivery(stage.inbox, wire.encode(envelope), "m", {}, 0, None))


def quarantined(envelope: Envelope[Payload]) -> bool:
    found = opened(envelope)
    if isinstance(found, DecodedDelivery):
        return False
    (send,) = found.sends
    assert (send.queue, send.body) == (QUARANTINE, wire.encode(envelope))
    assert found.settlement.release is None  # a blob that it names is somebody else's
    return True


@pytest.mark.parametrize("id_", HOSTILE)
def test_an_id_that_is_no_hash_is_quarantined_as_it_is(id_: str) -> None:
    assert quarantined(replace(MINE, id=id_))
    assert not quarantined(MINE)


@pytest.mark.parametrize(
    ("id_", "account", "refused"),
    [
        ("poll-sales", "sales", False),
        ("poll-info", "sales", True),
        (ID, "sales", True),
        ("poll-a\0b", "a\0b", True),
        ("poll-" + "a" * 70_000, "a" * 70_000, True),
    ],
)
def test_the_id_of_a_poll_job_is_made_of_its_account(id_: str, account: str, refused: bool) -> None:
    assert quarantined(Envelope(id_, account, Poll(), 1.7e9)) is refused


OTHER = "f" * 32


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        (ID, False),
        (f"{ID}.0a1b2c3d", False),
        (f"{ID}.0a1b2c3d.0a1b2c3d", False),
        (OTHER, True),
        (f"{ID}/../{OTHER}", True),
        (f"{ID}0", True),
        (f"{OTHER}.{ID[:8]}", True),
        ("../../etc/passwd", True),
    ],
)
def test_a_message_has_no_blob_but_its_own(key: str, refused: bool) -> None:
    raw = Spooled(key, 262_144, HEAD)
    assert quarantined(replace(MINE, payload=replace(FETCHED, raw=raw))) is refused
    assert owns(ID, key) is not refused


@pytest.mark.parametrize("ids", [[f"{n:x}" for n in range(65_535)], ["a"] * 17, ["x" * 256], []])
def test_a_bundle_that_is_none_of_ours_stays_in_one_piece(ids: Sequence[str]) -> None:
    body = wire.bundle([(id_, b"") for id_ in ids])
    assert wire.unbundled(body) is None
    with pytest.raises(Undecodable):
        wire.decode(body, Fetched)


def test_a_bundle_of_as_many_as_we_make_is_taken() -> None:
    messages = [(ID, wire.encode(MINE))] * wire.BUNDLED
    assert wire.unbundled(wire.bundle(messages)) == messages
    with pytest.raises(NewerSchema):  # what is newer is no bundle
        wire.decode(msgpack.packb([2, "fetched", *range(8)]), Fetched)


async def test_a_file_that_can_have_no_name_stops_no_other(tmp_path: Path) -> None:
    courier = MaildirCourier(f"{tmp_path}/{{local}}", FileStore("x"))
    ids = [f"{n:032x}" for n in range(40)]
    ids[20], ids[30] = "a\0b", "\ud800"
    posts = [MailObject(content(id_=id_), "", ("sales@corp.example",)) for id_ in ids]
    answers: dict[int, CourierResult] = {}
    async with asyncio.timeout(30):
        await courier.deliver(requests(posts, answers))
    await courier.close()
    assert len(list((tmp_path / "sales" / "new").iterdir())) == 38
    verdicts = [_verdict(answers[place]) for place in range(40)]
    assert [place for place, said in enumerate(verdicts) if said != "delivered"] == [20, 30]


def _verdict(answer: object) -> str:
    if not isinstance(answer, dict):
        return "error"
    (result,) = answer.values()
    assert isinstance(result, Result)
    return result.verdict


@pytest.mark.parametrize(
    ("id_", "headers"),
    [
        ("\ufffd" * 255, {}),
        ("\udc80", {}),
        ("m", {"a": "x" * 200_000, "b": 1}),
        ("m", {f"h{n}": "x" * 1_000 for n in range(200)}),
        ("m", {"a": float("nan"), "b": 1}),
        ("m", {"a": 1e300, "b": 1}),
        ("m", {"n" * 300: "x", "b": 1}),
        ("m", {"a": 2**70, "b": 1}),
    ],
)
def test_what_amqp_cannot_carry_of_id_and_headers_is_left_out(
    id_: str, headers: dict[str, Header]
) -> None:
    send, table = fitting(Send(INCOMING, b"body", id_, headers))
    assert send.body == b"body"
    assert len(frames.short(send.message_id)) <= 255
    assert len(table) <= TABLE_LIMIT
    told = dict(frames.headers(table)) if table else {}
    assert "b" not in headers or told["b"] == 1


def test_headers_that_others_write_are_not_kept_in_memory() -> None:
    fitting(Send(INCOMING, b"", ID, {"account": "sales"}))
    before, heard = _texts.cache_info().currsize, _kept.cache_info().currsize
    for number in range(50):
        sent, _ = fitting(Send(QUARANTINE, b"", ID, {"account": f"{number}" * 20_000}))
        assert sent.headers
        assert _decode_headers(fitting(sent)[1])[0] == sent.headers
    assert _texts.cache_info().currsize == before
    assert _kept.cache_info().currsize == heard
