"""What stands in a command: names, strings, dates, and the date a message gets."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deliverer.courier import Result
from services.deliverer.imap.commands import date_time, folder_name, quoted, utf7
from services.deliverer.imap.folders import Naming, folder_of
from services.deliverer.imap.trace_date import taken_at


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("INBOX", b"INBOX"),
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),  # RFC 3501 section 5.1.3
        ("Entwürfe", b"Entw&APw-rfe"),
        ("a & b", b"a &- b"),
        ("😀", b"&2D3eAA-"),
    ],
)
def test_modified_utf7(name: str, encoded: bytes) -> None:
    assert utf7(name) == encoded


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n")))
def test_no_name_ends_its_command(name: str) -> None:
    for utf8 in (False, True):
        written = folder_name(name, utf8=utf8)
        assert written.startswith(b'"')
        assert written.endswith(b'"')
        inner = written[1:-1].replace(b"\\\\", b"").replace(b'\\"', b"")
        assert not set(inner) & set(b'"\\\r\n\0')


@pytest.mark.parametrize("text", [b"a\0", b"a\r\nb", b"\n"])
def test_what_cannot_be_quoted_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="quoted"):
        quoted(text)


def test_an_internal_date() -> None:
    zone = timezone(-timedelta(hours=3, minutes=30))
    assert date_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone)) == b'" 2-Jan-2026 03:04:05 -0330"'


DOTS, SLASHES = Naming(".", "INBOX."), Naming("/")


@pytest.mark.parametrize(
    ("template", "naming", "folder"),
    [
        ("", SLASHES, "INBOX"),
        ("", DOTS, "INBOX"),
        ("inbox", DOTS, "INBOX"),
        ("INBOX/Old", DOTS, "INBOX.Old"),
        ("Old/Mail", DOTS, "INBOX.Old.Mail"),
        ("Old/{local}", DOTS, "INBOX.Old.a_b"),
        ("Old/{local}", SLASHES, "Old/a.b"),
        ("{domain}/{mailbox}", SLASHES, "corp.example/a.b@corp.example"),
        ("Inboxes", DOTS, "INBOX.Inboxes"),
    ],
)
def test_which_folder_a_recipient_has(template: str, naming: Naming, folder: str) -> None:
    assert folder_of(template, "a.b@corp.example", naming) == folder


@pytest.mark.parametrize("recipient", ["a/b@x", "..@x", "", "a\r\nb@x", "@x"])
def test_an_address_that_is_no_name_has_no_folder(recipient: str) -> None:
    result = folder_of("{local}", recipient, SLASHES)
    assert isinstance(result, Result)
    assert result.verdict == "permanent"
    assert result.reply.isprintable()


def test_a_server_without_folders_in_folders() -> None:
    assert isinstance(folder_of("a/b", "x@y", Naming("")), Result)
    assert folder_of("a", "x@y", Naming("")) == "a"


OURS = (
    b"Received: from pop.example by us with POP3\r\n\tid 1; Sun, 01 Nov 2026 10:00:00 +0000\r\n"
    b"X-POP3-Connector-Id: 1\r\n"
)
SEVERAL = (
    b"Subject: x\r\n"
    b"Received: from a\r\n\tby b (c; d)\r\n\t; Tue, 3 Feb 2015 04:05:06 +0100\r\n"
    b"Received: x; Mon, 2 Feb 2015 00:00:00 +0000\r\n\r\n"
)
FETCHED = datetime(2026, 11, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("head", "taken"),
    [
        (SEVERAL, datetime(2015, 2, 3, 3, 5, 6, tzinfo=UTC)),
        (b"Received: x; 3 Feb 15 04:05 GMT\n\n", datetime(2015, 2, 3, 4, 5, tzinfo=UTC)),
        (
            b"Received: x; Tue, 3 Feb 2015 04:05:06 -0000\r\n\r\n",
            datetime(2015, 2, 3, 4, 5, 6, tzinfo=UTC),
        ),
        (
            b"Received: x; Sun, 01 Nov 2026 20:00:00 +0000\r\n\r\n",
            datetime(2026, 11, 1, 20, tzinfo=UTC),
        ),
        (b"Received: x; Tue, 03 Nov 2026 20:00:00 +0000\r\n\r\n", FETCHED),  # not yet
        (b"Received: x; Tue, 03 Nov 1926 20:00:00 +0000\r\n\r\n", FETCHED),
        (b"Received: x; tomorrow\r\n\r\n", FETCHED),
        (b"Received: x; Tue, 99 Nov 2026 20:00:00 +9999999\r\n\r\n", FETCHED),
        (b"Subject: x\r\n\r\nReceived: x; Tue, 3 Feb 2015 04:05:06 +0100\r\n", FETCHED),
        (b"", FETCHED),
    ],
)
def test_when_a_provider_took_a_message(head: bytes, taken: datetime) -> None:
    assert taken_at(OURS, head) == taken


@given(st.binary(max_size=300))
def test_any_header_has_a_date_that_can_be_written_or_none(header: bytes) -> None:
    for head in (header, b"Received: x; " + header):
        moment = taken_at(b"", head)
        if moment is not None:
            written = date_time(moment)
            assert len(written) == 28
            assert b"\n" not in written
