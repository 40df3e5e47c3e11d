"""A real mail server takes our lines and the message's own for one header block.

Postfix ends the header block at the first line that is no field. Without the field that completes
such a first line (an mbox line, say), it would deliver From and Subject as part of the body.
"""

import smtplib

import pytest

from tests.corpus.messages import sound_messages
from tests.servers.postfix import postfix
from tests.servers.process import wait_until
from tests.unit.rewriter.envelopes import arrives, parsed
from tests.unit.rewriter.test_rewrite import REWRITER

ODD = {name: raw for name, raw in sound_messages().items() if name.endswith("line first")}


def test_a_first_line_that_is_no_field_does_not_end_the_header() -> None:
    sent = [arrives(REWRITER.handle(parsed(raw))) for raw in ODD.values()]
    assert len(sent) >= 6
    # By default Postfix takes the Return-Path out of the header block it sees.
    with postfix(options={"message_drop_headers": ""}) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as session:
            for message in sent:
                session.sendmail("", "sales@corp.example", message)
        wait_until(lambda: len(server.maildir("sales")) == len(sent), "all messages")
        stored = sorted(server.messages("sales"))
    assert stored == sorted(message.replace(b"\r\n", b"\n") for message in sent)


@pytest.mark.parametrize(("clients", "same"), [("permit_inet_interfaces", False), ("", True)])
def test_a_header_is_completed_for_the_same_machine_unless_that_is_switched_off(
    clients: str, same: bool
) -> None:
    """As the documentation has it; the first is the default of Postfix."""
    message = b"From: ann\r\nTo: sales, info\r\nSubject: bare addresses, no Date\r\n\r\nx\r\n"
    with postfix(options={"local_header_rewrite_clients": clients}) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as session:
            session.sendmail("", "sales@corp.example", message)
        wait_until(lambda: server.maildir("sales") != [], "the message")
        (stored,) = server.messages("sales")
    assert (stored == message.replace(b"\r\n", b"\n")) is same
    assert (b"From: ann@" in stored) is not same
