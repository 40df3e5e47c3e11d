"""Line feeds, blank lines, lines out of turn, and ends by size: what servers do to the protocol."""

from collections.abc import Callable

import pytest

from services.fetcher.pop3 import protocol
from services.fetcher.pop3.protocol import CHUNK, LINE_LIMIT, Body, Pop3, Pop3Event, Pop3Reply
from shared.errors import NoAnswer, PromiseBroken, ServerFault
from tests.unit.fetcher.test_protocol import asked, fed, greeted

# Lines that end in LF, and blank ones


BARE = (
    b"+OK first\nSubject: a\n\n..stuffed\n...\nlone\r.\r\nmixed\r\n..x\n.\n"
    b"+OK second, empty\n.\n"
    b"-ERR third\n"
    b"+OK fourth\n..\n.\r\n"
    b"+OK bye\n"
)
EXPECTED_BARE: list[Pop3Event] = [
    Pop3Reply("RETR", ok=True, text="first"),
    Body(b"Subject: a\n\n.stuffed\n..\nlone\r.\r\nmixed\r\n.x\n", last=True),
    Pop3Reply("RETR", ok=True, text="second, empty"),
    Body(b"", last=True),
    Pop3Reply("RETR", ok=False, text="third"),
    Pop3Reply("RETR", ok=True, text="fourth"),
    Body(b".\n", last=True),
    Pop3Reply("QUIT", ok=True, text="bye"),
]


@pytest.mark.parametrize("chunk", [CHUNK, 16, 5])
def test_lines_may_end_in_bare_line_feeds(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(protocol, "CHUNK", chunk)
    assert fed(asked(), [BARE[i : i + 1] for i in range(len(BARE))]) == EXPECTED_BARE
    for cut in range(len(BARE) + 1):
        assert fed(asked(), [BARE[:cut], BARE[cut:]]) == EXPECTED_BARE, cut


def test_each_response_ends_as_its_own_status_line_did() -> None:
    pop3 = greeted()
    pop3.send_each("RETR", [1, 2])
    wire = b"+OK\na\n.\n+OK\r\nb\n.\nc\r\n.\r\n"
    pop3.receive_data(wire)
    assert pop3.next_whole() is None
    assert fed(pop3, [b""]) == [
        Pop3Reply("RETR", ok=True, text=""),
        Body(b"a\n", last=True),
        Pop3Reply("RETR", ok=True, text=""),
        Body(b"b\n.\nc\r\n", last=True),
    ]


def test_a_server_known_to_end_bodies_by_line_feeds_alone() -> None:
    pop3 = Pop3("pop.example:110", bare_ends=True)
    pop3.receive_data(b"+OK\r\n")
    pop3.next_event()
    pop3.send("RETR", 1)
    pop3.receive_data(b"+OK\r\na\n..b\n.\r\n")
    assert pop3.next_whole() is None
    assert fed(pop3, [b""])[1:] == [Body(b"a\n.b\n", last=True)]


@pytest.mark.parametrize(
    ("tail", "expected"), [(b"a\n.\r\n", True), (b"a\n.\n", True), (b"a.\r\n", False)]
)
def test_a_body_that_would_have_ended_if_its_lines_ended_bare(tail: bytes, expected: bool) -> None:
    pop3 = greeted()
    pop3.send("RETR", 1)
    assert len(fed(pop3, [b"+OK\r\n", tail])) == 1
    assert pop3.ends_bare is expected


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b" \r\n\t\r\n\r\n", b" "])
def test_blank_lines_before_a_reply_are_passed_over(blank: bytes) -> None:
    wire = b"".join(
        blank + line for line in (b"+OK 1\r\none\r\n.\r\n", b"-ERR 2\r\n", b"+ok\r\n\r\n.\r\n")
    )
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        pop3 = greeted()
        pop3.send_each("RETR", [1, 2, 3])
        assert fed(pop3, pieces) == [
            Pop3Reply("RETR", ok=True, text="1"),
            Body(b"one\r\n", last=True),
            Pop3Reply("RETR", ok=False, text="2"),
            Pop3Reply("RETR", ok=True, text=""),
            Body(b"\r\n", last=True),
        ]


def test_blank_lines_that_nobody_asked_for_are_no_trouble() -> None:
    pop3 = greeted()
    pop3.receive_data(b"\r\n")
    assert pop3.idle
    assert pop3.send("NOOP") == b"NOOP\r\n"
    pop3.receive_data(b"\r\n+OK\r\n")
    assert pop3.next_event() == Pop3Reply("NOOP", ok=True, text="")


def test_blank_lines_without_end_are_the_servers_fault() -> None:
    pop3 = greeted()
    pop3.send("NOOP")
    with pytest.raises(ServerFault, match="nothing but blank lines"):
        for _ in range(LINE_LIMIT):
            pop3.receive_data(b"\r\n")
            assert pop3.next_event() is None


# Promises


@pytest.mark.parametrize(
    "commands", [lambda p: p.send_each("RETR", [1, 2]), lambda p: p.send("STAT") + p.send("UIDL")]
)
def test_a_line_out_of_turn_between_commands_sent_together(
    commands: Callable[[Pop3], bytes],
) -> None:
    pop3 = greeted()
    commands(pop3)
    pop3.receive_data(b"-ERR\r\nthe rest of a message\r\n")
    pop3.next_event()
    with pytest.raises(PromiseBroken, match="out of turn: the rest of a message") as raised:
        pop3.next_event()
    assert raised.value.quirk == "no_pipelining"


def test_a_line_after_the_last_of_commands_sent_together() -> None:
    pop3 = greeted()
    pop3.send_each("DELE", [1, 2])
    pop3.receive_data(b"+OK\r\n+OK\r\n+OK\r\n")
    for _ in range(2):
        pop3.next_event()
    assert not pop3.idle
    with pytest.raises(PromiseBroken):
        pop3.send("QUIT")


def test_a_line_out_of_turn_where_nothing_was_sent_together_breaks_no_promise() -> None:
    pop3 = greeted()
    pop3.send_each("DELE", [1, 2])
    assert pop3.ahead
    fed(pop3, [b"+OK\r\n+OK\r\n"])
    pop3.send("NOOP")
    assert (pop3.ahead, pop3.proven) == (False, True)
    pop3.receive_data(b"what?\r\n")
    with pytest.raises(ServerFault) as raised:
        pop3.next_event()
    assert type(raised.value) is NoAnswer


def test_a_login_sent_together_proves_nothing() -> None:
    pop3 = greeted()
    pop3.send("USER", "u")
    pop3.send("PASS", "p")
    assert pop3.ahead
    fed(pop3, [b"+OK\r\n+OK\r\n"])
    pop3.send("STAT")
    assert (pop3.ahead, pop3.proven) == (False, False)


# By its size


@pytest.mark.parametrize(
    ("sent", "size", "expected"),
    [
        (b"a\r\n.\r\nb\r\n.\r\n", 9, b"a\r\n.\r\nb\r\n"),
        (b".\r\nb\r\n.\r\n", 6, b".\r\nb\r\n"),
        (b"a\r\n.\r\n..b\r\n.\r\n", 11, b"a\r\n.\r\n..b\r\n"),
        (b"a\r\n..b\r\n.\r\n", 7, b"a\r\n.b\r\n"),
        (b"a\r\n..b\r\n.\r\n", 8, b"a\r\n.b\r\n"),  # LIST counts what was stuffed
        (b"a\r\n.\r\n", 3, b"a\r\n"),
        (b".\r\n", 0, b""),
    ],
)
def test_a_message_that_ends_by_its_size(sent: bytes, size: int, expected: bytes) -> None:
    pop3 = greeted()
    pop3.send("RETR", 1)
    assert len(fed(pop3, [b"+OK\r\n"])) == 1
    for byte in sent[:-1]:
        pop3.receive_data(bytes([byte]))
        assert pop3.take_framed(size) is None
    pop3.receive_data(sent[-1:])
    assert pop3.take_framed(size) == expected
    assert pop3.idle
    pop3.send("NOOP")
    pop3.receive_data(b"+OK\r\n")
    assert pop3.next_event() == Pop3Reply("NOOP", ok=True, text="")


@pytest.mark.parametrize(
    ("sent", "size", "expected"),
    [
        (b"glued.\r\n", 5, b"glued"),
        (b"glued.\r\n", 7, b"glued\r\n"),  # LIST counts the end of the line
        (b"no dot\r\n", 8, b"no dot\r\n"),
        (b"a\r\n.\r\nb\r\n.\r\n", 70, b"a\r\n.\r\nb\r\n"),
        (b"a\r\n..b\r\n.\r\n", 70, b"a\r\n.b\r\n"),
        (b"glued.\r\n", 70, None),
        (b"half a li", 9, b"half a li"),
        (b"half a li", 8, None),
        (b"a\r\n..b\r\nsays.\r\n", 12, None),  # stuffed: it may be in the middle
    ],
)
def test_a_message_ends_where_it_may_when_nothing_more_comes(
    sent: bytes, size: int, expected: bytes | None
) -> None:
    pop3 = greeted()
    pop3.send("RETR", 1)
    fed(pop3, [b"+OK\r\n"])
    pop3.receive_data(sent)
    assert pop3.take_framed(size) is None
    assert pop3.may_be_over(size) or expected is None
    assert pop3.take_framed(size, over=True) == expected
