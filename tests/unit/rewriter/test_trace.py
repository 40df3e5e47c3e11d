"""The lines put before a message, to the letter."""

import math
from dataclasses import replace
from email.utils import parsedate_to_datetime

import pytest

from services.rewriter.trace import Trace, date
from tests.corpus.messages import typical
from tests.unit.rewriter.envelopes import FIRST_SEEN, parsed

HOST = "connector.corp.example"


def trace(*recipients: str, account: str = "sales") -> Trace:
    return Trace(account, recipients or ("sales@corp.example",), HOST, "0.1.0")


def lines(uidl: str = "u1", server: str = "pop.example.net:995") -> list[bytes]:
    return trace().lines(parsed(typical(), uidl=uidl, server=server)).split(b"\r\n")


def test_for_one_recipient() -> None:
    assert trace().lines(parsed(typical())) == (
        b"Received: from pop.example.net by connector.corp.example with POP3\r\n"
        b"\t(pop3-connector 0.1.0) id 0123456789abcdef0123456789abcdef\r\n"
        b"\tfor <sales@corp.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"X-POP3-Connector-For: sales@corp.example\r\n"
        b"X-POP3-Connector-Account: sales\r\n"
        b"X-POP3-Connector-Id: 0123456789abcdef0123456789abcdef\r\n"
        b"X-POP3-Connector-UIDL: u1\r\n"
    )


def test_of_several_recipients_none_is_named_in_received() -> None:
    assert trace("ann@corp.example", "bob@corp.example").lines(parsed(typical())) == (
        b"Received: from pop.example.net by connector.corp.example with POP3\r\n"
        b"\t(pop3-connector 0.1.0) id 0123456789abcdef0123456789abcdef;\r\n"
        b"\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"X-POP3-Connector-For: ann@corp.example\r\n"
        b"X-POP3-Connector-For: bob@corp.example\r\n"
        b"X-POP3-Connector-Account: sales\r\n"
        b"X-POP3-Connector-Id: 0123456789abcdef0123456789abcdef\r\n"
        b"X-POP3-Connector-UIDL: u1\r\n"
    )


def test_the_date_is_when_the_message_was_fetched() -> None:
    envelope = parsed(typical())
    assert trace().lines(replace(envelope, attempt=3, first_failure=1.8e9)) == trace().lines(
        envelope
    )
    later = trace().lines(replace(envelope, first_seen=FIRST_SEEN + 60))
    assert b"Tue, 14 Nov 2023 22:14:20 +0000" in later


@pytest.mark.parametrize(
    ("server", "domain"),
    [
        ("pop.example.net:995", b"pop.example.net"),
        ("pop.example.net", b"pop.example.net"),
        ("192.0.2.1:110", b"[192.0.2.1]"),
        ("", b"unknown"),
        ("2001:db8::1:995", b"2001:db8::1:995"),
        ("a b\r\nX: y", b"a\\x20b\\r\\nX:\\x20y"),
    ],
)
def test_the_server(server: str, domain: bytes) -> None:
    assert lines(server=server)[0] == b"Received: from %s by %s with POP3" % (domain, HOST.encode())


@pytest.mark.parametrize(
    ("uidl", "value"),
    [
        ("000001a25f.4e8f", b"000001a25f.4e8f"),
        ("a\r\nBcc: x@example.org", b"a\\r\\nBcc:\\x20x@example.org"),
        ("a\nb", b"a\\nb"),
        ("a\0b", b"a\\x00b"),
        ("é", b"\\xe9"),
        ("\ud800", b"\\ud800"),
        ("u" * 300, b"u" * 300),
        ("u" * 5000, b"u" * 300),
        ("\U0001f600" * 5000, (b"\\U0001f600" * 30)),
    ],
)
def test_the_uidl_is_escaped_and_cut(uidl: str, value: bytes) -> None:
    assert lines(uidl=uidl)[-2:] == [b"X-POP3-Connector-UIDL: " + value, b""]


def test_without_a_uidl_there_is_no_uidl_line() -> None:
    assert lines(uidl="")[-2:] == [b"X-POP3-Connector-Id: 0123456789abcdef0123456789abcdef", b""]


def test_no_value_makes_a_line_too_long_or_a_line_of_its_own() -> None:
    hostile = "\r\n\0é\U0001f600 " * 2000
    recipients = (hostile, hostile)
    for to in (recipients, recipients[:1]):
        made = Trace(hostile, to, hostile, hostile)
        envelope = parsed(typical(), uidl=hostile, server=hostile)
        wrote = made.lines(replace(envelope, id=hostile))
        assert max(map(len, wrote.split(b"\r\n"))) <= 998
        assert wrote.count(b"\n") == wrote.count(b"\r") == wrote.count(b"\r\n") == 6 + len(to)
        assert b"\0" not in wrote


def test_an_address_that_needs_utf8_stays_as_it_is() -> None:
    wrote = trace("grüße@corp.example").lines(parsed(typical()))
    assert "for <grüße@corp.example>;".encode() in wrote
    assert "\r\nX-POP3-Connector-For: grüße@corp.example\r\n".encode() in wrote


@pytest.mark.parametrize("at", [0.0, 951_782_400.0, 1.7e9, 1.7e9 + 0.999, 4_102_444_799.0])
def test_dates(at: float) -> None:
    written = parsedate_to_datetime(date(at).decode())
    assert written.timestamp() == int(at)
    assert written.strftime("%a, %d %b %Y %H:%M:%S %z").encode() == date(at)


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (-1.0, b"Thu, 01 Jan 1970 00:00:00 +0000"),
        (math.nan, b"Thu, 01 Jan 1970 00:00:00 +0000"),
        (math.inf, b"Fri, 31 Dec 9999 23:59:59 +0000"),
        (1e300, b"Fri, 31 Dec 9999 23:59:59 +0000"),
    ],
)
def test_a_moment_out_of_range(at: float, written: bytes) -> None:
    assert date(at) == written
