"""The messages that CPython keeps for its own tests: forwarded unharmed, or quarantined.

Where the interpreter comes without its tests (as Debian's does), messages of the same kinds that
are written here stand in, so that the kinds are tested everywhere.
"""

import importlib.util
from pathlib import Path

import pytest

from services.parser.parse import parse
from services.rewriter.rewrite import Rewriter, Route
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed
from shared.outcome import Forward, Outcome, Quarantine

REWRITER = Rewriter({"sales": Route(("sales@corp.example",), "default")}, "host", "1")

NO_HEADER = ["msg_19.txt"]
"""Of the messages, those that are text without any header field."""


def shipped() -> dict[str, bytes]:
    """Return the files of ``test/test_email/data`` by name, none where they are not installed."""
    spec = importlib.util.find_spec("test")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [f for folder in folders for f in Path(folder, "test_email", "data").glob("*.*")]
    return {f.name: f.read_bytes() for f in sorted(files)}


SHIPPED = shipped()

SAME_KINDS = {
    "report": b"Return-Path: <>\nFrom: MAILER-DAEMON@example.org\nSubject: Undeliverable\n"
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
    b"--b\n\nNot delivered.\n--b\nContent-Type: message/delivery-status\n\n"
    b"Reporting-MTA: dns; example.org\n\nFinal-Recipient: rfc822; x@example.org\n"
    b"Action: failed\n--b\nContent-Type: message/rfc822\n\nSubject: original\n\n--b--\n",
    "mbox line": b"From a@example.org Mon Nov  6 10:11:12 2023\nFrom: a@example.org\n\nbody\n",
    "no boundary line": b'Content-Type: multipart/mixed; boundary="x"\nSubject: s\n\nno part\n',
    "boundary with spaces": b'Content-Type: multipart/mixed; boundary="  x  "\n\n'
    b"--  x  \n\none\n--  x  --\n",
    "digest": b"Subject: digest\nContent-Type: multipart/digest; boundary=d\n\n"
    b"--d\n\nSubject: one\n\n1\n--d\n\nSubject: two\n\n2\n--d--\n",
    "folded parameters": b"Subject: s\nContent-Type: text/plain;\n charset=us-ascii;\n"
    b"\tformat=flowed\n\nx\n",
    "no colon in the second line": b"Subject: s\nthis has no colon\n\nbody\n",
    "binary": b"GIF89a\x10\0\x10\0\xf7\0\0",
}  # fmt: skip


def through(raw: bytes) -> tuple[Outcome, Outcome | None]:
    """Return what the parser says of a message, and then the rewriter."""
    first = parse(Envelope("0" * 32, "sales", Fetched(Inline(raw), "u", "host:995"), 1.7e9))
    if not isinstance(first, Forward):
        return first, None
    (payload,) = first.payloads
    assert isinstance(payload, Parsed)
    return first, REWRITER.handle(Envelope("0" * 32, "sales", payload, 1.7e9))


def unharmed(raw: bytes) -> bool:
    """Return whether a message goes through whole; it is in quarantine, whole, if it does not."""
    first, second = through(raw)
    if second is None:
        assert isinstance(first, Quarantine)
        assert isinstance(first.payload, Fetched)
        assert first.payload.raw == Inline(raw)
        assert first.reason.endswith(".")
        return False
    assert isinstance(second, Forward), second
    (addressed,) = second.payloads
    assert isinstance(addressed, Addressed)
    assert addressed.raw == Inline(raw)
    return True


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("name", SAME_KINDS)
def test_messages_of_the_same_kinds(name: str, crlf: bool) -> None:
    raw = SAME_KINDS[name]
    assert unharmed(raw.replace(b"\n", b"\r\n") if crlf else raw) == (name != "binary")


@pytest.mark.skipif(not SHIPPED, reason="this Python comes without its own tests (test.test_email)")
@pytest.mark.parametrize("crlf", [False, True])
def test_shipped_messages(crlf: bool) -> None:
    """As they are, and with the line ends that a POP3 server gives them."""
    passed = {n: unharmed(r.replace(b"\n", b"\r\n") if crlf else r) for n, r in SHIPPED.items()}
    messages = [name for name in passed if name.startswith("msg_")]
    assert len(messages) >= 40
    assert [name for name in messages if not passed[name]] == NO_HEADER
    assert not [name for name in passed if passed[name] and name not in messages]
