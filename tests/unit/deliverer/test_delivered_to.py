"""What of a header is renamed on its way to a mail server, and what never is."""

import dkim
import pytest

from services.deliverer.smtp.delivered_to import edit_for, renamed, without_delivered_to
from tests.corpus.messages import dkim_signed

TO = ("Sales@corp.example", "grüße@corp.example")
ABOVE, BELOW = b"Received: x\r\n", b"Subject: s\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"Delivered-To: sales@corp.example\r\n",
        b"Delivered-To:sales@corp.example\r\n",
        b"delivered-to : SALES@CORP.EXAMPLE\r\n",
        b"DELIVERED-TO\t:\tsales@corp.example \r\n",
        b"Delivered-To: <sales@corp.example>\r\n",
        b'Delivered-To: "Sales" <sales@corp.example> (a comment)\r\n',
        b"Delivered-To: ann@corp.example, sales@corp.example\r\n",
        b"Delivered-To:\r\n sales@corp.example\r\n",
        b"Delivered-To: mailing list\r\n\tsales@corp.example;\r\n more\r\n",
        "Delivered-To: GRÜSSE@corp.example\r\n".encode(),
        "Delivered-To: grüße@corp.example\r\n".encode(),
    ],
)
@pytest.mark.parametrize("above", [b"", ABOVE])
def test_a_line_that_names_a_recipient_is_renamed(above: bytes, line: bytes) -> None:
    assert renamed(TO, above + line + BELOW) == above + b"X-Original-" + line + BELOW
    assert renamed(TO, above + line) == above + b"X-Original-" + line


@pytest.mark.parametrize(
    "line",
    [
        b"Delivered-To: ann@corp.example\r\n",
        b"Delivered-To: other-sales@corp.example\r\n",
        b"Delivered-To: sales@corp.example.net\r\n",
        b"Delivered-To: \xff\r\n",
        b"Delivered-To:\r\n",
        b"X-Delivered-To: sales@corp.example\r\n",
        b"X-Original-Delivered-To: sales@corp.example\r\n",
        b"Delivered-To-Others: sales@corp.example\r\n",
        b"To: sales@corp.example\r\n",
        b"Subject: folded\r\n Delivered-To: sales@corp.example\r\n",
    ],
)
def test_what_names_nobody_here_stays(line: bytes) -> None:
    header = ABOVE + line + BELOW
    assert renamed(TO, header) is header


def test_all_that_name_a_recipient_are_renamed_and_only_they() -> None:
    ours, other = b"Delivered-To: sales@corp.example\r\n", b"Delivered-To: ann@corp.example\r\n"
    header = ours + other + BELOW + ours
    assert renamed(TO, header) == b"X-Original-" + ours + other + BELOW + b"X-Original-" + ours


@pytest.mark.parametrize("name", [b"DKIM-Signature", b"dkim-signature ", b"ARC-Message-Signature"])
@pytest.mark.parametrize(
    "signed",
    [
        b"h=from:delivered-to:subject; b=x",
        b"v=1; h=From : Delivered-To\r\n\t: Subject; b=x",
        b"v=1; h =DELIVERED-TO; b=x",
        b"v=1; h=from:\r\n delivered-\r\n to",
    ],
)
def test_a_line_that_a_signature_covers_stays(name: bytes, signed: bytes) -> None:
    line = b"Delivered-To: sales@corp.example\r\n"
    header = name + b": " + signed + b"\r\n" + line + BELOW
    assert renamed(TO, header) is header
    assert renamed(TO, line + header) == b"X-Original-" + line + header


@pytest.mark.parametrize(
    "signature",
    [
        b"DKIM-Signature: h=from:x-delivered-to:subject; b=x\r\n",
        b"DKIM-Signature: bh=delivered-to; h=from; b=x\r\n",
        b"DKIM-Signature: v=1; b=delivered-to\r\n",
        b"X-DKIM-Signature: h=delivered-to; b=x\r\n",
        b"ARC-Seal: h=delivered-to; b=x\r\n",
    ],
)
def test_a_signature_over_something_else_keeps_nothing(signature: bytes) -> None:
    line = b"Delivered-To: sales@corp.example\r\n"
    assert renamed(TO, signature + line) == signature + b"X-Original-" + line


@pytest.mark.parametrize("covered", [True, False])
def test_a_signature_is_as_good_as_before(covered: bool) -> None:
    line = b"Delivered-To: sales@corp.example"
    signed, dns = dkim_signed(b"body\r\n", line, also=(b"delivered-to",) if covered else ())
    header, blank, body = signed.partition(b"\r\n\r\n")
    top = line + b"\r\n" + header + b"\r\n"
    sent = renamed(TO, top)
    assert sent.count(b"X-Original-") == (1 if covered else 2)
    assert dkim.verify(top + blank[2:] + body, dnsfunc=dns)
    assert dkim.verify(sent + blank[2:] + body, dnsfunc=dns)


def test_where_it_is_to_be_kept_it_is_kept() -> None:
    header = b"Delivered-To: sales@corp.example\r\n"
    assert edit_for(TO, keep=True)(header) is header
    assert edit_for(TO, keep=False)(header) == b"X-Original-" + header


def test_our_own_line_of_an_older_version_becomes_that_of_today() -> None:
    older = b"Received: x\r\nDelivered-To: a@b\r\nDelivered-To: c@d\r\nX-POP3-Connector-Id: 1\r\n"
    assert without_delivered_to(older) == older.replace(b"Delivered-To", b"X-POP3-Connector-For")
