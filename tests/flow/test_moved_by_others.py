"""What the broker, a policy or a person puts into Failed Mail and quarantine, and not a stage."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import pytest

from shared import wire
from shared.broker import Send
from shared.errors import Refused
from shared.failpoint import VARIABLE
from shared.message import Envelope, Fetched, Parsed, Payload, Poll, Summary, poll_id
from shared.queues import QUARANTINE
from tests.flow.office import Neighbour, put
from tests.ids import id_of
from tests.servers.process import wait_until
from tests.unit.postmaster.conftest import FIRST_SEEN, RAW, Office, addressed, fetched

SUMMARY = Summary("ann@example.net", "hello")
PARSED = Parsed(fetched().raw, "u", "pop:995", SUMMARY, None, (), 0, ())
BUNDLE = 16
KINDS: dict[str, Payload] = {
    "poll": Poll(),
    "incoming": replace(fetched(), summary=SUMMARY),
    "parsed": PARSED,
    "pickup": replace(addressed(), summary=SUMMARY),
}


def envelope(name: str, payload: Payload) -> tuple[str, bytes]:
    id_ = poll_id("sales") if isinstance(payload, Poll) else id_of(name)
    return id_, wire.encode(Envelope(id_, "sales", payload, FIRST_SEEN))


def one(queue: str, name: str = "m") -> Send:
    id_, body = envelope(name, KINDS[queue])
    return Send(queue, body, id_, {"account": "sales"})


def bundle(queue: str = "incoming") -> list[Send]:
    return [one(queue, f"{queue[:2]}{n}") for n in range(BUNDLE)]


def depth(office: Office, queue: str) -> int | None:
    steward = office.steward()
    found = steward.depths()[queue]
    steward.close()
    return found


def has(office: Office, queue: str, count: int) -> None:
    wait_until(lambda: depth(office, queue) == count, f"{count} entries in {queue}")


def expired(office: Office, neighbour: Neighbour, *sends: Send) -> None:
    neighbour.policy("^(poll|incoming|parsed|pickup)$", **{"message-ttl": 1})
    put(office, *sends)


def pushed_out(office: Office, neighbour: Neighbour, *sends: Send) -> None:
    definition = {"max-length-bytes": 0, "overflow": "drop-head"}
    neighbour.policy("^(poll|incoming|parsed|pickup)$", **definition)
    put(office, *sends)


def rejected(office: Office, neighbour: Neighbour, *sends: Send) -> None:
    put(office, *sends)
    for queue in {send.queue for send in sends}:
        neighbour.get(queue, 20, "reject_requeue_false")


WAYS = {
    "expired": (expired, "it lay in {} for longer than a policy of RabbitMQ allows (message-ttl)"),
    "maxlen": (pushed_out, "{} was fuller than a policy of RabbitMQ allows (max-length)"),
    "rejected": (rejected, "somebody else took it out of {}, and rejected it"),
}


@pytest.mark.parametrize("why", WAYS)
def test_what_the_broker_gave_up_is_known_and_released_like_any_other(
    office: Office, neighbour: Neighbour, why: str
) -> None:
    bring_about, said = WAYS[why]
    sends = [one("poll"), *bundle(), one("parsed", "pa"), one("pickup", "pi")]
    bring_about(office, neighbour, *sends)
    has(office, QUARANTINE, 4)  # the bundle is one entry
    listed = office("quarantine", "list", "--json").json
    assert {m["id"] for m in listed} == {send.message_id for send in sends}
    for message in listed:
        assert message["reason"] == said.format(message["inbox"])
        assert message["account"] == "sales"
        if message["inbox"] != "poll":
            assert (message["from"], message["subject"]) == ("ann@example.net", "hello")
    assert len(office("quarantine", "list", "--stage", "parser", "--json").json) == BUNDLE

    neighbour.policy("^nothing$", **{"message-ttl": 1})
    released = office("quarantine", "release", "--account", "sales")
    assert (released.status, released.out) == (0, f"released: {len(sends)}\n")
    assert office.ids(QUARANTINE) == []
    assert office.ids("poll") == [poll_id("sales")]
    found = {wire.decode(m.body, Fetched).id for m in office.queue("incoming")}
    assert found == {send.message_id for send in sends[1:]}


def in_failed_mail(office: Office, neighbour: Neighbour, *sends: Send) -> None:
    """Have somebody move what is in an inbox, a bundle among it, to a failed queue of another."""
    put(office, *sends)
    count = Counter(send.queue for send in sends)
    for queue in count:
        while depth(office, queue):
            neighbour.move(queue, "pickup.failed", kept=False)


def test_who_moves_messages_by_hand_may_lose_all_that_is_said_of_them(
    office: Office, neighbour: Neighbour, tmp_path: Path
) -> None:
    sends = [one("poll"), *bundle(), one("parsed", "pa")]
    in_failed_mail(office, neighbour, *sends)
    neighbour.publish("parsed.failed", b"\xc1junk")
    listed = office("failed", "list", "--json").json
    mail = [m for m in listed if not m["id"].startswith("unnamed-")]
    assert {m["id"] for m in mail} == {send.message_id for send in sends}
    assert {m["reason"] for m in listed} == {
        "nothing tells why: moved here by hand, or by another program"
    }
    assert {m["account"] for m in mail} == {"sales"}
    assert {m.get("subject") for m in mail} == {"hello", None}  # None is that of the poll job
    table = office("failed", "list").out
    assert id_of("in0")[:12] in table

    shown = office("failed", "show", id_of("in3"))
    assert "Subject: hello" in shown.out
    (tmp_path / "out").mkdir()
    exported = office("failed", "export", "--all", "-o", str(tmp_path / "out"), "--json").json
    assert exported["exported"] == len(sends) + 1
    assert (tmp_path / "out" / f"{id_of('in7')}.eml").read_bytes() == RAW

    requeued = office("failed", "requeue", "--all")
    assert (requeued.status, requeued.out) == (0, f"requeued: {len(sends) + 1}\n")
    assert office.ids("poll") == [poll_id("sales")]
    assert sorted(office.ids("incoming")) == sorted(send.message_id for send in sends[1:])
    (junk,) = office.queue("parsed")  # where its failed queue is from: nothing else is known of it
    assert junk.body == b"\xc1junk"


def test_a_bundle_is_settled_message_by_message(office: Office, neighbour: Neighbour) -> None:
    in_failed_mail(office, neighbour, *bundle())
    has(office, "pickup.failed", 1)
    before = office("failed", "list", "--json").json
    assert office("failed", "drop", id_of("in3"), id_of("in4"), "--yes").out == "dropped: 2\n"
    has(office, "pickup.failed", BUNDLE - 2)
    assert office("failed", "requeue", id_of("in5")).out == "requeued: 1\n"
    assert office.ids("incoming") == [id_of("in5")]
    gone = {id_of(f"in{n}") for n in (3, 4, 5)}
    after = office("failed", "list", "--json").json
    assert after == [m for m in before if m["id"] not in gone]
    assert [m.body for m in office.queue("pickup.failed")] == [
        send.body for send in bundle() if send.message_id not in gone
    ]


@pytest.mark.parametrize("verb", [("drop", "--yes"), ("requeue",)])
def test_killed_while_it_takes_a_bundle_apart_it_has_lost_nothing(
    office: Office, neighbour: Neighbour, verb: tuple[str, ...]
) -> None:
    in_failed_mail(office, neighbour, *bundle())
    command = [sys.executable, "-m", "services", "--config", str(office.config), "failed"]
    killed = subprocess.run(
        [*command, verb[0], id_of("in3"), *verb[1:]],
        env={**os.environ, VARIABLE: "steward.before-ack"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    has(office, "pickup.failed", BUNDLE)  # the bundle, and 15 copies of what was in it
    every = {send.message_id for send in bundle()}
    assert set(office.ids("pickup.failed")) == every
    again = office("failed", *verb, id_of("in3"))
    assert again.status == 0, again.err
    assert set(office.ids("pickup.failed")) == every - {id_of("in3")}


def test_what_stays_is_told_with_the_reason(office: Office, neighbour: Neighbour) -> None:
    put(office, one("poll"), one("parsed", "pa"))
    neighbour.move("poll", QUARANTINE, kept=True)
    neighbour.move("parsed", QUARANTINE, kept=False)
    neighbour.publish(QUARANTINE, b"\xc1junk")
    elsewhere = office("quarantine", "release", "--all", "--destination", "default", "--json")
    assert (elsewhere.status, elsewhere.json) == (1, {"released": 1})
    assert "2 of 3 messages stayed: 2 no message that this version can read" in elsewhere.err
    released = office("quarantine", "release", "--all")
    assert (released.status, released.out) == (1, "released: 1\n")
    assert (
        "1 of 2 messages stayed: 1 no envelope that this version can read,"
        " and nothing tells whose queue it is from"
    ) in released.err
    assert [m.body for m in office.queue(QUARANTINE)] == [b"\xc1junk"]


def test_what_a_full_inbox_refuses_stays(office: Office, neighbour: Neighbour) -> None:
    for number in range(3):
        office.put(f"{number:x}" * 8, queue="incoming.failed", payload=fetched())
    neighbour.policy("^incoming$", **{"max-length": 1, "overflow": "reject-publish"})
    with pytest.raises(Refused):
        for number in range(1000):
            put(office, one("incoming", f"m{number}"))
    printed = office("failed", "requeue", "--all")
    assert (printed.status, printed.out) == (1, "")
    assert "incoming: RabbitMQ takes no more messages" in printed.err
    assert len(office.ids("incoming.failed")) == 3


ODD: dict[str, dict[str, Any]] = {
    "an encoding": {"content_encoding": "utf-16"},
    "no id": {},
    "a strange type": {"content_type": "text/html", "type": "\x1b[2J", "message_id": "\x1b[2J"},
}


def test_odd_properties_hide_nothing(office: Office, neighbour: Neighbour) -> None:
    for number, properties in enumerate(ODD.values()):
        neighbour.publish("incoming.failed", *envelope(f"m{number}", PARSED)[1:], **properties)
    a_year_that_no_date_has(neighbour.url, "incoming.failed", envelope("year", PARSED)[1])
    printed = office("failed", "list")
    assert printed.status == 0
    assert len(office("failed", "list", "--json").json) == len(ODD) + 1
    assert "\x1b" not in printed.out
    bodies = sorted(m.body for m in office.queue("incoming.failed"))
    assert office("failed", "requeue", "--all").out == f"requeued: {len(bodies)}\n"
    names = [wire.decode(m.body, Fetched).id for m in office.queue("incoming")]
    assert sorted(names) == sorted(wire.decode(body, Parsed).id for body in bodies)


class Far(datetime):
    """A time in the year 10000."""

    def utctimetuple(self) -> time.struct_time:
        return time.struct_time((9999, 12, 40, 0, 0, 0, 0, 1, 0))


def a_year_that_no_date_has(url: str, queue: str, body: bytes) -> None:
    """Publish a message with a time in its headers that Python has no date for."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        properties = pika.BasicProperties(headers={"when": Far.now(UTC)})
        channel.basic_publish("", queue, body, properties)
