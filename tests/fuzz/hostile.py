"""Further targets: what servers list, what others put into queues, and what repeats a password.

As those of ``targets``: functions of hostile bytes that raise for nothing but a defect of ours.
"""

import base64
import json
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any
from urllib.parse import quote

import msgpack

from services.fetcher.compare import Comparison, usable
from services.fetcher.pop3 import listing
from services.fetcher.pop3.uidl_redaction import _stand_ins
from services.postmaster import show
from shared import wire
from shared.broker import Delivery, Stored, dead_letter
from shared.broker.rabbitmq.properties import TABLE_LIMIT, _texts, fitting
from shared.clock import SystemClock
from shared.envelope_check import require_ours
from shared.ledger import Known
from shared.log import MailLog, printable
from shared.log_lines import LogLines
from shared.message import Addressed, Fetched, Parsed, Payload, Poll
from shared.outcome import Done
from shared.queues import INCOMING, PARSED, PICKUP, POLL, Tier, plan
from shared.redaction.known_secrets import HIDDEN, KnownSecrets
from shared.redaction.redaction import Redaction
from shared.settlement import RetryPolicy
from shared.stage import DecodedDelivery, Stage, StageHandler
from tests.corpus.envelopes import ENVELOPES

INBOXES: Sequence[tuple[type[Payload], str]] = (
    (Poll, POLL),
    (Fetched, INCOMING),
    (Parsed, PARSED),
    (Addressed, PICKUP),
)
MOST = 200
"""Messages of a maildrop that are looked at."""

TIERS = (Tier("1s", 1.0),)
POLICY = RetryPolicy(TIERS, 60.0)
QUEUES = plan(TIERS)
SWORDFISH = Redaction("swordfish", "anna", "mail:110")
SECRET = Redaction("12", "anna", "mail:110")
SECRET.pseudonym("")  # the key of which is made once
printable("\x1b")  # loads a codec, which stays in memory
PASSWORDS = ("swordfish", "pä&s s", "abc", "12", "correct horse battery", "a.b*c%41")
OTHERS_PASSWORD = "n3ighbour&p"
OTHERS = KnownSecrets()
OTHERS.learn(OTHERS_PASSWORD)
LONGEST = 10_000
"""Characters of a text with a password in it: a line of a server has 64 KiB at the most."""
WRITTEN: Sequence[Callable[[str], str]] = (
    str,
    str.upper,
    lambda password: quote(password, safe=""),
    lambda password: password.encode().hex(),
    lambda password: base64.b64encode(password.encode()).decode(),
    lambda password: base64.b64encode(f"\0anna\0{password}".encode()).decode(),
)


def maildrop(data: bytes) -> None:
    """Whatever CAPA, UIDL and LIST list, what is done of it is about messages that there are.

    The first byte says how many messages STAT counts; the three are parted by 0xFF bytes.
    """
    count, bodies = (data[:1] or b"\0")[0], [*data[1:].split(b"\xff"), b"", b""][:3]
    assert 0 <= listing.login_delay(listing.capabilities(bodies[0])) < 10**6
    listed, sizes = listing.UidlListing(MOST), listing.SizeListing(MOST)
    listed.feed(bodies[1])
    sizes.feed(bodies[2])
    numbers = listed.end().numbers
    replaced = _stand_ins(numbers, numbers, SECRET)
    shown = {replaced.get(uidl, uidl): n for uidl, n in numbers.items()}
    assert list(shown.values()) == list(numbers.values())
    assert not any(SECRET.holds(uidl) for uidl, n in shown.items() if uidl.lstrip("0") != str(n))
    uidls = usable(shown, count, listed.highest)
    comparison = Comparison(uidls, count, 0.0, 1.7e9, sizes.end())
    known = {uidl: Known("0" * 32, 0.0, len(uidl)) for uidl in list(uidls)[::2]}
    gone, _ = comparison.take({**known, "gone": Known("1" * 32, 0.0, None)})
    assert gone == ([] if "gone" in uidls else ["gone"])
    *_, work = comparison.worklist()
    assert work is not None
    fates = [m.number for m in work.fetch] + [safe.number for safe in work.due]
    assert len(set(fates)) == len(fates)
    assert all(0 < number <= count for number in fates)
    assert len({m.key for m in work.fetch}) == len(work.fetch)


def deliver_to_stage(data: bytes) -> None:
    """Any id, headers and body in a queue are ours, or go to quarantine as AMQP takes them.

    The first byte says to which inbox, and how long the id is; headers and body follow.
    """
    first, second = (data + b"\0\0")[:2]
    id_, rest = data[2 : 2 + second].decode("utf-8", "replace"), data[2 + second :]
    kind, inbox = INBOXES[first % len(INBOXES)]
    raw, body = _headers(rest)
    headers = dead_letter.own(raw)
    stage = Stage("stage", inbox, kind, PARSED, lambda _: Done("x"), 1)
    handling = StageHandler(stage, POLICY, MailLog("x", lines=LogLines(StringIO())), SystemClock())
    found = handling.decode(Delivery(inbox, body, id_, headers, first % 3, None))
    if isinstance(found, DecodedDelivery):
        require_ours(found.envelope)
        return
    for send in found.sends:
        sent, table = fitting(send)
        assert sent.body == body
        assert len(sent.message_id.encode("utf-8", "replace")) <= 255
        assert len(table) <= TABLE_LIMIT
        headers = dead_letter.readable(raw, body, "quarantine", QUEUES)
        stored = Stored("quarantine", sent.message_id, headers, body)
        assert json.dumps(show.record(stored))
    assert found.settlement.release is None
    _texts.cache_clear()  # it keeps a thousand, and memory is looked at


def _headers(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return headers, from msgpack in front of the body, and the body."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=1 << 20)
    unpacker.feed(data)
    try:
        found = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}, data
    body = data[unpacker.tell() :]
    return ({str(k): v for k, v in found.items()} if isinstance(found, dict) else {}), body


def repeat_password(data: bytes) -> None:
    """Of any text with the password in it, nothing is shown that is the password, nor is changed.

    The first byte says which password, the second how it is written in the middle of the rest.
    """
    number, how = (data + b"\0\0")[:2]
    text, password = data[2:LONGEST].decode("latin-1"), PASSWORDS[number % len(PASSWORDS)]
    redaction = Redaction(password, "anna", "mail:110")
    form = WRITTEN[how % len(WRITTEN)](password)
    at = len(text) // 2
    said = f"{text[:at]} {form} {text[at:]}"
    shown = redaction.hidden(said)
    assert HIDDEN in shown
    assert not redaction.holds(shown)
    assert redaction.holds(text) == (redaction.hidden(text) != text)
    if not redaction.holds(text):
        assert redaction.hidden(text) == text
    assert printable(shown).isprintable()
    form = WRITTEN[how % len(WRITTEN)](OTHERS_PASSWORD)
    assert form not in OTHERS.hidden(f"{text[:at]} {form} {text[at:]}")


def listed() -> Sequence[bytes]:
    capa = b"UIDL\r\nLOGIN-DELAY 900 USER\r\n"
    return (
        b"\x03" + capa + b"\xff1 a\r\n2 b\r\n3 c\r\n\xff1 120\r\n2 200\r\n3 1\r\n",
        b"\x03" + capa + b"\xff1 1\r\n2 12\r\n3 x-12-y\r\n\xff1 0\r\n",
        b"\x02\xff1  x\r\n1\r\n0002 y\r\n1 999999999999\r\n\xff2 9\r\n9 2\r\n",
    )


def deliveries() -> Sequence[bytes]:
    """Return bodies of each kind with ids and headers, ours and others'."""
    death = {"queue": "incoming", "reason": "delivery_limit", "count": 1}
    tables: Sequence[object] = (
        {"account": "sales"},
        {"account": 5, "subject": ["x", {}], "size": -1, "\0": 1 << 63, "from": 2.5},
        {"x-death": [death | {"queue": ["x"]}]},
        {"x-death": [death], "x-delivery-count": "x"},
    )
    return [
        bytes((number, len(id_))) + id_ + msgpack.packb(tables[(number + n) % len(tables)]) + body
        for n, body in enumerate(map(wire.encode, ENVELOPES.values()))
        for number, id_ in enumerate((b"", b"../../x", b"0" * 32, b"a\0b"))
    ]


def repeated() -> Sequence[bytes]:
    return [
        bytes((number, how)) + b"-ERR no %41 =6 &#x61; \\x61 AGFubmE= and so on"
        for number in range(len(PASSWORDS))
        for how in range(len(WRITTEN))
    ]
