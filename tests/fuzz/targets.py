"""What is fuzzed: functions of hostile bytes that raise for nothing but a defect of ours.

Each target feeds its bytes to one part of the product, catches what that part declares to raise,
and checks what has to hold of the result. Hypothesis and Atheris use the same ones.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, get_args

import msgpack

from services.deliverer.imap.reply_meaning import Meaning as ImapMeaning
from services.deliverer.imap.reply_meaning import meaning as imap_meaning
from services.deliverer.imap.response import ImapResponse, ResponseReader, status_of
from services.deliverer.imap.steps import ImapStep
from services.deliverer.servers.reader import Malformed
from services.deliverer.smtp.reply import ReplyReader, SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import Meaning, meaning
from services.fetcher.identity import Identity
from services.fetcher.pop3 import listing
from services.fetcher.pop3.protocol import CHUNK, LINE_LIMIT, Body, Pop3
from services.fetcher.pop3.protocol import Pop3Reply as Pop3Reply
from services.parser.parse import parse
from services.parser.summary import SHOWN, readable
from services.rewriter.rewrite import Rewriter, Route
from shared import wire
from shared.errors import NewerSchema, ServerFault, Undecodable
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed, Payload, Poll
from shared.outcome import DeadLetter, Forward, Quarantine
from tests.corpus.envelopes import ENVELOPES, spooled
from tests.corpus.messages import corrupt_messages, sample_messages, sound_messages
from tests.fuzz import hostile
from tests.ids import identify

T = TypeVar("T", bound=Payload)

REWRITER = Rewriter({"sales": Route(("sales@corp.example",), "default")}, "host", "1")
KINDS: tuple[type[Payload], ...] = (Poll, Fetched, Parsed, Addressed)
SEED_LIMIT = 20_000
"""Bytes of the largest seed; longer ones make a fuzzer slow and teach it nothing new."""

PIECES = 500
"""In how many a stream is cut, at the most."""


@dataclass(frozen=True)
class Target:
    """Something to be fuzzed.

    Attributes:
        run: takes any bytes; what it raises is a finding.
        seeds: makes bytes of the kind that it expects.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


def in_pieces(data: bytes) -> tuple[bytes, Sequence[bytes]]:
    """Return what stands behind the first byte, whole, and cut into pieces as that byte says."""
    stream = data[1:]
    cut = max(1 + data[0] if data else 1, len(stream) // PIECES)
    return stream, [stream[at : at + cut] for at in range(0, len(stream), cut)]


def survives_the_wire(envelope: Envelope[T]) -> None:
    assert wire.decode(wire.encode(envelope), type(envelope.payload)) == envelope


def parse_and_rewrite(raw: bytes) -> None:
    """Any message is passed on or quarantined, unchanged, and fit for the next queue."""
    envelope = Envelope("0" * 32, "sales", Fetched(Inline(raw), "u", "host:110"), 1.7e9)
    outcome = parse(envelope)
    assert outcome == parse(envelope)
    if isinstance(outcome, Quarantine):
        assert outcome.reason.endswith(".")
        assert outcome.reason.isprintable()
        assert isinstance(outcome.payload, Fetched)
        assert outcome.payload.raw == Inline(raw)
        survives_the_wire(Envelope("0" * 32, "sales", outcome.payload, 1.7e9))
        return
    assert isinstance(outcome, Forward)
    (payload,) = outcome.payloads
    assert isinstance(payload, Parsed)
    assert payload.raw == Inline(raw)
    survives_the_wire(Envelope("0" * 32, "sales", payload, 1.7e9))
    rewrite(Envelope("0" * 32, "sales", payload, 1.7e9))


def rewrite(envelope: Envelope[Parsed]) -> None:
    """Any fields make a prefix of whole, short lines, and an envelope that no SMTP is forged by."""
    outcome = REWRITER.handle(envelope)
    assert outcome == REWRITER.handle(envelope)
    if isinstance(outcome, DeadLetter):
        assert outcome.reason.isprintable()
        return
    assert isinstance(outcome, Forward)
    (payload,) = outcome.payloads
    assert isinstance(payload, Addressed)
    assert payload.raw == envelope.payload.raw
    assert not set(payload.sender) & set("\r\n\0<> ")
    lines = payload.prefix.split(b"\r\n")
    stray = b"X-POP3-Connector-First-Line: "
    assert lines[-1] in (b"", stray)
    above = envelope.payload.above is None  # then a blank line ends our header
    assert all(line for line in lines[: -2 if above else -1])
    assert all(len(line) <= 998 or line.startswith(stray) for line in lines)
    assert b"\n" not in b"".join(lines)
    assert payload.skip <= (envelope.payload.above or 0)
    survives_the_wire(Envelope(envelope.id, "sales", payload, 1.7e9))


def read_field(body: bytes) -> None:
    """Any field is shown as one short line."""
    shown = readable(body)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert len(shown) <= 10 * SHOWN + 1  # a character escaped is ten


def decode(body: bytes) -> None:
    """Any body is an envelope, or Undecodable, or of a newer version; what is one stays so."""
    for kind in KINDS:
        try:
            envelope = wire.decode(body, kind)
        except (Undecodable, NewerSchema) as error:
            assert str(error)
        else:
            survives_the_wire(envelope)


def pop3(data: bytes) -> None:
    """Any stream of a server gives the same events, however it is cut; or the server's fault.

    The first two bytes say which commands were sent, and where the rest is cut.
    """
    script, (stream, pieces) = (data[:1] or b"\0")[0], in_pieces(data[1:])
    whole, apart = conversation(script, [stream]), conversation(script, pieces)
    if len(stream) <= LINE_LIMIT:  # a longer one may be too long for a line before its end comes
        assert whole == apart
    assert answered(script, [stream], short_cut=True) == answered(script, [stream], short_cut=False)
    assert answered(script, pieces, short_cut=True) == answered(script, pieces, short_cut=False)


def answered(script: int, pieces: Sequence[bytes], *, short_cut: bool) -> list[bytes]:
    """Return the multi-line responses that end, taken whole where they can be or from events."""
    client = Pop3("pop.example.net:110")
    for verb, *arguments in SCRIPTS[script % len(SCRIPTS)]:
        client.send(str(verb), *arguments)
    found, begun = [], b""
    with suppress(ServerFault):
        for piece in pieces:
            client.receive_data(piece)
            while True:
                if short_cut and (whole := client.next_whole()) is not None:
                    found.append(whole)
                elif (event := client.next_event()) is None:
                    break
                elif isinstance(event, Body):
                    begun += event.data
                    if event.last:
                        found.append(begun)
                        begun = b""
    return found


def decode_altered(data: bytes) -> None:
    """Any field of an envelope may be anything. The first two bytes say which one of which.

    The rest is the field as msgpack, or where it is not that, as it stands.
    """
    seeds, place = envelopes(), data[1:2] or b"\0"
    parts = msgpack.unpackb(seeds[(data[:1] or b"\0")[0] % len(seeds)])
    try:
        value = msgpack.unpackb(data[2:], strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        value = data[2:]
    last = len(parts) - 1
    if place[0] <= last:
        parts[place[0]] = value
    else:
        parts[last][(place[0] - last) % len(parts[last])] = value
    with suppress(ValueError, OverflowError, TypeError):  # what msgpack itself cannot write
        decode(msgpack.packb(parts))


SCRIPTS: tuple[Sequence[tuple[str | int, ...]], ...] = (
    [("CAPA",), ("USER", "a"), ("PASS", "b"), ("UIDL",), ("LIST",), ("QUIT",)],
    [("RETR", 1), ("RETR", 2), ("RETR", 3), ("DELE", 1), ("QUIT",)],
    [("STAT",), ("UIDL", 1), ("TOP", 1, 0), ("NOOP",), ("RETR", 1)],
    [],
)


def conversation(script: int, pieces: Sequence[bytes]) -> list[Pop3Reply | bytes | str]:
    """Return what a client takes from the pieces of a stream: replies, bodies, a fault at last."""
    client = Pop3("pop.example.net:110")
    for verb, *arguments in SCRIPTS[script % len(SCRIPTS)]:
        client.send(str(verb), *arguments)
    found: list[Pop3Reply | bytes | str] = []
    inside = False
    try:
        for piece in pieces:
            client.receive_data(piece)
            while (event := client.next_event()) is not None:
                if isinstance(event, Body):
                    # Pieces of one response are put together: where they end is no matter.
                    begun = found.pop() if inside else b""
                    assert isinstance(begun, bytes)
                    found.append(begun + event.data)
                    inside = not event.last
                else:
                    assert "\r\n" not in event.text
                    assert event.code == event.code.upper()
                    found.append(event)
            assert client.buffered <= max(LINE_LIMIT, CHUNK) + 2
    except ServerFault as fault:
        assert fault.said.isprintable()
        found.append("fault")
        return [f for f in found if not isinstance(f, bytes)]
    assert client.outstanding >= 0
    return found[:-1] if inside else found


MOST = 50
"""Messages of a maildrop that are looked at."""


def list_maildrop(body: bytes) -> None:
    """Any listing is read, or is none; the numbers are numbers and the UIDLs fit to be kept."""
    for name, values in listing.capabilities(body).items():
        assert name == name.upper()
        assert isinstance(values, tuple)
    _, pieces = in_pieces(body)
    uidls, sizes = listing.UidlListing(MOST), listing.SizeListing(MOST)
    for piece in pieces:
        uidls.feed(piece)
        sizes.feed(piece)
    assert len(uidls.end().numbers) <= MOST
    assert len(sizes.end()) <= MOST
    for uidl, number in uidls.numbers.items():
        assert 0 < number <= uidls.highest <= MOST
        assert 0 < len(uidl) <= listing.UIDL_LIMIT
        assert uidl.isprintable() or not uidl.isascii()
        assert not set(uidl) & set(string.whitespace + "\0")
    for number, size in sizes.items():
        assert 0 < number <= MOST
        assert 0 <= size < 10**18


def tell_identity(data: bytes) -> None:
    """Any message has one id, however it is cut. The first byte says where."""
    raw, pieces = in_pieces(data)
    identity = Identity("sales")
    for piece in pieces:
        identity.feed(piece)
    id_ = identity.id()
    assert id_ == identify("sales", raw)
    assert len(id_) == 32
    assert set(id_) <= set(string.hexdigits)
    assert raw.startswith(identity.head)


def smtp_reply(data: bytes) -> None:
    """Any stream of a server gives the same replies, however it is cut, or is malformed."""
    stream, pieces = in_pieces(data)
    apart = replies(pieces)
    if len(stream) <= ReplyReader.LIMIT:
        assert replies([stream]) == apart


_READ = 100
"""Replies that are read as one to each step; a courier reads each as one to its own alone."""


def replies(pieces: Sequence[bytes]) -> list[SmtpReply] | str:
    reader = ReplyReader(hostile.SWORDFISH)
    found: list[SmtpReply] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except Malformed as error:
        assert str(error).isprintable()
        return "malformed"
    for reply in found:
        assert 0 <= reply.code <= 999
    for reply in found[:_READ]:
        assert reply.codes.isascii()
        assert not hostile.SWORDFISH.holds(reply.text)
        for step in SmtpStep:
            assert meaning(reply, step) in get_args(Meaning)
            assert reply.sentence("mx.example.net:25", step).isprintable()
    return found


def imap_response(data: bytes) -> None:
    """Any stream of a server gives the same responses, however it is cut, or is malformed."""
    stream, pieces = in_pieces(data)
    assert imap_responses(pieces) == imap_responses([stream])


def imap_responses(pieces: Sequence[bytes]) -> list[ImapResponse] | str:
    reader = ResponseReader(hostile.SWORDFISH)
    found: list[ImapResponse] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except Malformed as error:
        assert str(error).isprintable()
        return "malformed"
    for response in found[:_READ]:
        response.values()
        status = status_of(response, hostile.SWORDFISH)
        if status is not None:
            assert status.text.isprintable()
            assert not hostile.SWORDFISH.holds(status.text)
            for step in ImapStep:
                assert imap_meaning(status, step) in get_args(ImapMeaning)
    return found


def messages() -> Sequence[bytes]:
    odd = [*sound_messages().values(), *corrupt_messages().values()]
    return [m for m in (*odd, *sample_messages(9)) if len(m) <= SEED_LIMIT]


def envelopes() -> Sequence[bytes]:
    """Return bodies of each kind, inline and spooled, and some of a newer schema."""
    large = (spooled(ENVELOPES[name]) for name in ("parsed", "addressed"))
    found = [wire.encode(envelope) for envelope in (*ENVELOPES.values(), *large)]
    newer = [b"\x99" + bytes([wire.SCHEMA + 1]) + body[2:] for body in found[:2]]
    return found + newer


def altered_fields() -> Sequence[bytes]:
    values: tuple[object, ...] = (
        None,
        True,
        -1,
        2.5,
        "x",
        b"x",
        [],
        [1],
        {},
        1 << 63,
        [["x", 1.0]],
        ["x", 1, b"x"],
    )
    count = len(envelopes())
    return [
        bytes((3 * number % count, place)) + msgpack.packb(value)
        for number, value in enumerate(values)
        for place in range(0, 18, 3)
    ]


def streams() -> Sequence[bytes]:
    """Return what a POP3 server says to each script, with the two bytes in front."""
    ok, listed = b"+OK\r\n", b"+OK\r\n1 a\r\n2 b\r\n.\r\n"
    body = b"+OK 9 octets\r\nSubject: x\r\n\r\n..\r\n.\r\n"
    said = (
        ok + b"+OK\r\nPIPELINING\r\nUIDL\r\n.\r\n" + ok + ok + listed + listed + ok,
        ok + body + b"-ERR [SYS/TEMP] no\r\n" + body + ok + ok,
        ok + b"+OK 2 320\r\n+OK 1 a\r\n" + body + ok + b"+OK\r\n.\r\n",
        b"-ERR [IN-USE] locked\r\n",
        (ok + listed + ok + ok + b"\r\n" + listed + listed + ok).replace(b"\r\n", b"\n"),
        b"+OK\n\n" + (body + body + b"\r\n" + body).replace(b"\r\n", b"\n") + b"\r\n \n" + ok,
    )
    return [bytes((number, cut)) + s for number, s in enumerate(said) for cut in (0, 6, 255)]


def cut_up(found: Callable[[], Sequence[bytes]]) -> Callable[[], Sequence[bytes]]:
    """Return seeds with a byte in front that says where they are cut."""
    return lambda: [bytes((cut,)) + seed for seed in found() for cut in (0, 99)]


def listings() -> Sequence[bytes]:
    return (
        b"1 a\r\n2 b\r\n3 c\r\n",
        b"1 120\r\n2 200\r\n",
        b"1 a" + b" " * 30_000 + b"b\r\n",
        b"3  x\r\n1\r\n0002 \xe9\r\n",
        b"TOP\r\nSASL PLAIN LOGIN\r\nUIDL\r\nEXPIRE 60\r\n",
    )


def smtp_replies() -> Sequence[bytes]:
    return (
        b"220 mx.example.net ESMTP\r\n250-mx\r\n250-SIZE 1000\r\n250 PIPELINING\r\n",
        b"550 5.1.1 no such user\r\n451-4.7.1 greylisted\r\n451 4.7.1 come back\r\n",
        b"552 5.2.2 full\n250\r\n",
        b"535-5.7.8 anna, swordfish\r\n535 5.7.8 AGFubmEAc3dvcmRmaXNo\r\n334 c3dvcmRmaXNo\r\n",
    )


def imap_streams() -> Sequence[bytes]:
    return (
        b"* OK [CAPABILITY IMAP4rev1 LITERAL+] ready\r\nP1 OK [CAPABILITY X] in\r\n+ go on\r\n",
        b'* NAMESPACE (("INBOX." ".")) NIL (("a" NIL))\r\n* LIST (\\Noselect) "/" ""\r\n',
        b'* LIST (\\A (b)) {3}\r\nx\r\n "q\\"q"\r\n* SEARCH 1 2 3\n* 5 EXISTS\r\n',
        b"P2 NO [TRYCREATE] no folder swordfish\r\nP3 OK [APPENDUID 1 2:3] done\r\n",
        b"* BYE [ALERT] c3dvcmRmaXNo\r\nP4 BAD [TOOBIG] Message too large\r\n+\r\n",
    )


def fields() -> Sequence[bytes]:
    return (
        b"=?utf-8?B?R3LDvMOfZQ==?= <a@example.org>",
        b"=?iso-8859-1*de?Q?Gr=FC=DFe?= =?utf-7?Q?+2AA-?=",
        b"=?x-unknown?Q?a?= =?koi8-r?B?8NLJ18XU?=",
        "Grüße, 世界".encode(),
        b"caf\xe9",
    )


TARGETS: Mapping[str, Target] = {
    "parser": Target(parse_and_rewrite, messages),
    "field": Target(read_field, fields),
    "wire": Target(decode, envelopes),
    "envelope": Target(decode_altered, altered_fields),
    "pop3": Target(pop3, streams),
    "listing": Target(list_maildrop, listings),
    "identity": Target(tell_identity, cut_up(messages)),
    "smtp": Target(smtp_reply, cut_up(smtp_replies)),
    "imap": Target(imap_response, cut_up(imap_streams)),
    "maildrop": Target(hostile.maildrop, hostile.listed),
    "delivery": Target(hostile.deliver_to_stage, hostile.deliveries),
    "password": Target(hostile.repeat_password, hostile.repeated),
}


def pumped(data: bytes, size: int = 100_000) -> bytes:
    """Return the bytes repeated up to a size: what takes quadratic time on them shows."""
    rest = data[2:]  # what is in front tells some targets what to do
    return data + rest * (size // len(rest)) if rest else data
