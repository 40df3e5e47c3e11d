"""The protocol fed whole, byte by byte, cut everywhere, and with more behind."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fetcher.pop3 import protocol
from services.fetcher.pop3.protocol import (
    CHUNK,
    GREETING,
    LINE_LIMIT,
    Body,
    Pop3,
    Pop3Event,
    Pop3Reply,
)
from shared.errors import ServerFault


def greeted() -> Pop3:
    pop3 = Pop3("pop.example:110")
    pop3.receive_data(b"+OK ready\r\n")
    assert pop3.next_event() == Pop3Reply(GREETING, ok=True, text="ready")
    return pop3


def events(pop3: Pop3) -> Iterator[Pop3Event]:
    while (event := pop3.next_event()) is not None:
        yield event


def fed(pop3: Pop3, pieces: Iterable[bytes]) -> list[Pop3Event]:
    """Return all events, with the pieces of each multi-line response joined."""
    found: list[Pop3Event] = []
    for piece in pieces:
        pop3.receive_data(piece)
        for event in events(pop3):
            before = found[-1] if found else None
            if isinstance(event, Body) and isinstance(before, Body) and not before.last:
                found[-1] = Body(before.data + event.data, event.last)
            else:
                found.append(event)
    return found


def naive_body(wire: bytes) -> bytes:
    """Read a multi-line response as RFC 1939 section 3 tells it, line by line."""
    lines: list[bytes] = []
    while True:
        line, _, wire = wire.partition(b"\r\n")
        if line == b".":
            return b"".join(lines)
        lines.append((line[1:] if line.startswith(b"..") else line) + b"\r\n")


def stuffed(message: bytes) -> bytes:
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]


PIPELINED = (
    b"+OK first\r\nSubject: a\r\n\r\n..stuffed\r\n...\r\nbare\n.\nlone\r.\r\r\n.\r\n"
    b"+OK second, empty\r\n.\r\n"
    b"-ERR [SYS/TEMP] third\r\n"
    b"+OK fourth\r\n..\r\n.\r\n"
    b"+OK bye\r\n"
)
EXPECTED: list[Pop3Event] = [
    Pop3Reply("RETR", ok=True, text="first"),
    Body(b"Subject: a\r\n\r\n.stuffed\r\n..\r\nbare\n.\nlone\r.\r\r\n", last=True),
    Pop3Reply("RETR", ok=True, text="second, empty"),
    Body(b"", last=True),
    Pop3Reply("RETR", ok=False, text="[SYS/TEMP] third"),
    Pop3Reply("RETR", ok=True, text="fourth"),
    Body(b".\r\n", last=True),
    Pop3Reply("QUIT", ok=True, text="bye"),
]


def asked() -> Pop3:
    pop3 = greeted()
    lines = b"".join(pop3.send("RETR", number) for number in (1, 2, 3, 4)) + pop3.send("QUIT")
    assert lines == b"RETR 1\r\nRETR 2\r\nRETR 3\r\nRETR 4\r\nQUIT\r\n"
    return pop3


def test_pipelined_replies_are_read_from_one_block() -> None:
    pop3 = asked()
    assert fed(pop3, [PIPELINED]) == EXPECTED
    assert pop3.outstanding == 0
    assert pop3.buffered == 0


@pytest.mark.parametrize("chunk", [CHUNK, 16, 5])
def test_pipelined_replies_are_read_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(protocol, "CHUNK", chunk)
    assert fed(asked(), [PIPELINED[i : i + 1] for i in range(len(PIPELINED))]) == EXPECTED


@pytest.mark.parametrize("chunk", [CHUNK, 16, 5])
def test_pipelined_replies_are_read_from_any_two_blocks(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(protocol, "CHUNK", chunk)
    for cut in range(len(PIPELINED) + 1):
        assert fed(asked(), [PIPELINED[:cut], PIPELINED[cut:]]) == EXPECTED, cut


TRICKY = st.lists(
    st.sampled_from([b"\r\n", b"\r\n.", b"\r\n..", b"\r", b"\n", b".", b"\n.\n", b"a", b"\0"]),
    max_size=40,
).map(b"".join)


@given(
    body=TRICKY.filter(lambda wire: b"\r\n.\r\n" not in b"\r\n" + wire + b"\r\n"),
    cuts=st.lists(st.integers(min_value=0, max_value=200)),
    chunk=st.integers(min_value=5, max_value=40),
)
def test_a_body_is_what_a_naive_reader_reads(body: bytes, cuts: list[int], chunk: int) -> None:
    wire = (body + b"\r\n" if body else b"") + b".\r\n"
    whole = b"+OK\r\n" + wire + b"+OK next\r\n"
    ends = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(ends)]
    pop3 = greeted()
    pop3.send("RETR", 1)
    pop3.send("NOOP")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "CHUNK", chunk)
        found = fed(pop3, pieces)
    assert found[1:] == [Body(naive_body(wire), last=True), Pop3Reply("NOOP", ok=True, text="next")]


@given(
    bodies=st.lists(
        TRICKY.filter(lambda wire: b"\r\n.\r\n" not in b"\r\n" + wire + b"\r\n"), max_size=4
    ),
    cuts=st.lists(st.integers(min_value=0, max_value=200)),
    refused=st.sets(st.integers(0, 3)),
)
def test_what_is_taken_whole_is_what_the_events_say(
    bodies: list[bytes], cuts: list[int], refused: set[int]
) -> None:
    answers = [
        b"-ERR no\r\n.."
        if n in refused
        else b"+OK yes\r\n" + (b + b"\r\n" if b else b"") + b".\r\n"
        for n, b in enumerate(bodies)
    ]
    wire = b"".join(answer.removesuffix(b"..") for answer in answers) + b"+OK bye\r\n"
    ends = [0, *sorted(cuts), len(wire)]
    pieces = [wire[a:b] for a, b in pairwise(ends)]
    mixed, plain = greeted(), greeted()
    for pop3 in (mixed, plain):
        pop3.send_each("RETR", range(1, len(bodies) + 1))
        pop3.send("QUIT")
    expected = [e.data if isinstance(e, Body) else e for e in fed(plain, pieces)]
    assert taken(mixed, pieces) == [
        e for e in expected if e != Pop3Reply("RETR", ok=True, text="yes")
    ]


def taken(pop3: Pop3, pieces: Iterable[bytes]) -> list[Pop3Reply | bytes]:
    """Return what comes: as a whole where it can be had so, else from the events."""
    found: list[Pop3Reply | bytes] = []
    held = b""
    for piece in pieces:
        pop3.receive_data(piece)
        while True:
            if (whole := pop3.next_whole()) is not None:
                found.append(whole)
            elif (event := pop3.next_event()) is None:
                break
            elif isinstance(event, Body):
                held += event.data
                if event.last:
                    found.append(held)
                    held = b""
            elif not event.ok or event.verb != "RETR":
                found.append(event)
    return found


def test_many_small_messages_are_taken_whole_and_a_large_one_is_not() -> None:
    pop3 = greeted()
    assert pop3.send_each("RETR", [1, 2, 3]) == b"RETR 1\r\nRETR 2\r\nRETR 3\r\n"
    pop3.receive_data(b"+OK\r\none\r\n.\r\n+OK\r\n..two\r\n.\r\n+OK\r\nthree")
    assert [pop3.next_whole() for _ in range(3)] == [b"one\r\n", b".two\r\n", None]
    assert pop3.next_event() == Pop3Reply("RETR", ok=True, text="")
    pop3.receive_data(b"\r\n.\r\n")
    assert pop3.next_whole() is None
    assert pop3.next_event() == Body(b"three\r\n", last=True)
    assert pop3.outstanding == 0


@given(TRICKY)
def test_what_a_server_stuffs_comes_out_unharmed(message: bytes) -> None:
    message += b"\r\n"
    pop3 = greeted()
    pop3.send("RETR", 1)
    wire = b"+OK\r\n" + stuffed(message) + b".\r\n"
    assert fed(pop3, [wire])[1:] == [Body(message, last=True)]


def test_a_line_of_megabytes_is_passed_on() -> None:
    line = b"x" * 3_000_000 + b"\r\n"
    pop3 = greeted()
    pop3.send("RETR", 1)
    wire = b"+OK\r\n" + line + b".\r\n"
    pieces = [wire[i : i + 10_000] for i in range(0, len(wire), 10_000)]
    assert fed(pop3, pieces)[1:] == [Body(line, last=True)]


def test_a_large_body_leaves_in_chunks_and_is_never_held_whole() -> None:
    pop3 = greeted()
    pop3.send("RETR", 1)
    pop3.receive_data(b"+OK\r\n")
    block = b"0123456789abcdef" * 256 + b"\r\n"
    total, chunks = 0, 0
    for _ in range(500):
        pop3.receive_data(block)
        for event in events(pop3):
            if isinstance(event, Body):
                assert not event.last
                chunks += 1
                total += len(event.data)
        assert pop3.buffered < CHUNK + len(block)
    assert chunks > 20
    assert total > 500 * len(block) - CHUNK - len(block)


def test_a_small_body_waits_for_its_end_and_comes_whole() -> None:
    pop3 = greeted()
    pop3.send("RETR", 1)
    pop3.receive_data(b"+OK\r\n" + b"x" * (CHUNK - 100))
    assert [type(event) for event in events(pop3)] == [Pop3Reply]
    pop3.receive_data(b"\r\n.\r\n")
    assert list(events(pop3)) == [Body(b"x" * (CHUNK - 100) + b"\r\n", last=True)]


def test_a_refused_multi_line_command_has_no_body() -> None:
    pop3 = greeted()
    pop3.send("UIDL")
    pop3.send("NOOP")
    assert fed(pop3, [b"-ERR no\r\n+OK\r\n"]) == [
        Pop3Reply("UIDL", ok=False, text="no"),
        Pop3Reply("NOOP", ok=True, text=""),
    ]


@pytest.mark.parametrize("verb", ["UIDL", "LIST"])
def test_a_listing_of_one_message_is_one_line(verb: str) -> None:
    pop3 = greeted()
    pop3.send(verb, 2)
    assert fed(pop3, [b"+OK 2 xyz\r\n"]) == [Pop3Reply(verb, ok=True, text="2 xyz")]
    assert pop3.outstanding == 0


@pytest.mark.parametrize("verb", ["CAPA", "UIDL", "LIST"])
def test_a_listing_of_all_is_multi_line(verb: str) -> None:
    pop3 = greeted()
    pop3.send(verb)
    assert fed(pop3, [b"+OK\r\nx\r\n.\r\n"])[1:] == [Body(b"x\r\n", last=True)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"-ERR [IN-USE] busy", "IN-USE"),
        (b"-ERR [sys/temp] later", "SYS/TEMP"),
        (b"-ERR [AUTH]", "AUTH"),
        (b"-ERR no [AUTH] code", ""),
        (b"-ERR [] none", ""),
        (b"-ERR", ""),
    ],
)
def test_the_response_code_of_a_reply(line: bytes, code: str) -> None:
    pop3 = greeted()
    pop3.send("PASS", "x")
    (reply,) = fed(pop3, [line + b"\r\n"])
    assert isinstance(reply, Pop3Reply)
    assert (reply.ok, reply.code) == (False, code)


def test_a_reply_in_no_known_charset_is_text_all_the_same() -> None:
    pop3 = greeted()
    pop3.send("NOOP")
    assert fed(pop3, [b"+OK gr\xfc\xdfe\r\n"]) == [Pop3Reply("NOOP", ok=True, text="gr��e")]


@pytest.mark.parametrize("wire", [b"HTTP/1.1 400 Bad Request\r\n", b"* OK imap\r\n"])
def test_a_line_that_is_no_reply_is_the_servers_fault(wire: bytes) -> None:
    pop3 = Pop3("pop.example:110")
    pop3.receive_data(wire)
    for _ in range(2):
        with pytest.raises(ServerFault, match=r"pop\.example:110: it said, out of turn"):
            pop3.next_event()


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_status_line_without_end_is_the_servers_fault(end: bytes) -> None:
    pop3 = Pop3("pop.example:110")
    pop3.receive_data(b"+OK " + b"x" * LINE_LIMIT + end)
    with pytest.raises(ServerFault, match="status line of more than"):
        pop3.next_event()


def test_what_nobody_asked_for_is_the_servers_fault() -> None:
    pop3 = greeted()
    pop3.receive_data(b"-ERR idle for \x1b[2J too long\r\n")
    with pytest.raises(ServerFault, match=r"idle for \\x1b\[2J too long"):
        pop3.send("NOOP")
    with pytest.raises(ServerFault, match=r"idle for \\x1b\[2J too long"):
        pop3.send_each("RETR", [1])


@pytest.mark.parametrize("argument", ["a\r\nDELE 1", "a\n", "\r", "a\0b"])
def test_an_argument_cannot_smuggle_in_a_command(argument: str) -> None:
    pop3 = greeted()
    with pytest.raises(ValueError, match="USER"):
        pop3.send("USER", argument)
    assert pop3.outstanding == 0


def test_arguments_are_sent_as_they_are() -> None:
    pop3 = greeted()
    assert pop3.send("PASS", " two  words ") == b"PASS  two  words \r\n"
    assert pop3.send("USER", "jörg") == "USER jörg\r\n".encode()
    assert pop3.send("TOP", 7, 0) == b"TOP 7 0\r\n"
