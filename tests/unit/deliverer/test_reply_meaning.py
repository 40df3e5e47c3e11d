"""What replies mean: the table of docs/delivery.md, and what no real server is known for."""

import re
from pathlib import Path

import pytest

from services.deliverer.smtp.reply import ReplyReader, SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import Meaning, meaning

DOCS = (Path(__file__).parents[3] / "docs/delivery.md").read_text()
ROW = re.compile(r"^\| ([^|]+) \| ([A-Z]+) \| `(.+)` \| ([^|]+) \|$", re.MULTILINE)
CALLED: dict[str, Meaning] = {
    "retry": "temporary",
    "Failed Mail": "permanent",
    "slower": "rate",
    "null sender": "sender",
    "destination": "session",
}


def reply(text: str) -> SmtpReply:
    (one,) = ReplyReader().feed(text.replace("⏎", "\r\n").encode() + b"\r\n")
    return one


@pytest.mark.parametrize(
    ("step", "said", "means"),
    [pytest.param(*row[1:], id=" ".join(row)) for row in ROW.findall(DOCS)],
)
def test_replies_of_real_servers(step: str, said: str, means: str) -> None:
    assert meaning(reply(said), SmtpStep[step]) == CALLED[means]


def test_the_table_is_read() -> None:
    assert len(ROW.findall(DOCS)) > 100


@pytest.mark.parametrize(
    ("step", "said", "means"),
    [
        (SmtpStep.RCPT, "250 2.1.5 ok", "delivered"),
        (SmtpStep.RCPT, "251 will forward", "delivered"),
        (SmtpStep.RCPT, "450 4.2.0 greylisted", "temporary"),
        (SmtpStep.RCPT, "550 5.1.1 no such user", "permanent"),
        (SmtpStep.RCPT, "550 no such user", "permanent"),
        (SmtpStep.RCPT, "554 5.7.1 relay access denied", "permanent"),
        (SmtpStep.RCPT, "501 5.1.3 bad address syntax", "permanent"),
        (SmtpStep.MAIL, "550 5.7.1 sender rejected", "permanent"),
        (SmtpStep.END, "554 5.6.0 message refused", "permanent"),
        (SmtpStep.END, "451 4.3.0 local error", "temporary"),
        # over quota, whatever code is with it
        (SmtpStep.RCPT, "552 5.2.2 mailbox full", "temporary"),
        (SmtpStep.RCPT, "550 5.2.2 mailbox full", "temporary"),
        (SmtpStep.END, "554 5.2.2 mailbox full", "temporary"),
        (SmtpStep.END, "552 exceeded storage allocation", "temporary"),
        (SmtpStep.RCPT, "552 too many recipients", "temporary"),
        # too large
        (SmtpStep.MAIL, "552 message size exceeds fixed limit", "permanent"),
        (SmtpStep.END, "552 5.3.4 message too big", "permanent"),
        (SmtpStep.END, "552 5.2.3 message too long for this mailbox", "permanent"),
        # a verdict on the message or the recipient may name anything
        (
            SmtpStep.END,
            "554 5.7.1 Rejected as spam: Subject contains: Too many connections",
            "permanent",
        ),
        (SmtpStep.END, "550 5.7.1 Rejected: subject 'server is busy' looks like spam", "permanent"),
        (SmtpStep.END, '550 5.7.1 "server is busy" is not what we read', "permanent"),
        (SmtpStep.END, "554 Message rejected, virus found: Slow down.A", "permanent"),
        (SmtpStep.END, "554 rejected due to virus; mailbox full of worms", "permanent"),
        (
            SmtpStep.END,
            "550 Message rejected: attachment quota-report.exe not allowed",
            "permanent",
        ),
        (SmtpStep.END, "550 quota-report.exe is not welcome", "permanent"),
        (
            SmtpStep.END,
            "554 5.7.1 matches a profile with the subject of (too many mails)",
            "permanent",
        ),
        (SmtpStep.END, "552 5.2.0 message rejected: too many MIME parts", "permanent"),
        (SmtpStep.RCPT, "550 unknown user congestion@corp.example", "permanent"),
        (SmtpStep.RCPT, "550 No such user - quota@corp.example", "permanent"),
        (SmtpStep.RCPT, "550 5.1.0 Address rejected - throttle@corp", "permanent"),
        (SmtpStep.RCPT, "550 5.1.1 User quota not found", "permanent"),
        (SmtpStep.RCPT, "550 unknown user throttle", "permanent"),
        # and where it is no such verdict, these mean what they say
        (SmtpStep.END, "554 5.7.1 message rejected: too many spam messages this hour", "rate"),
        (SmtpStep.END, "550 rejected: rate limit exceeded, see the subject", "rate"),
        (SmtpStep.END, "554 rejected by virus scanner: out of disk space", "temporary"),
        (SmtpStep.END, "550 the mailbox isn't there: it's over quota, user's fault", "temporary"),
        (SmtpStep.RCPT, "550 5.1.1 user not found or over quota", "temporary"),
        (SmtpStep.RCPT, "550 user unknown for now, try again later", "temporary"),
        # not the message's fault
        (SmtpStep.GREETING, "554 5.7.1 you are blocked", "session"),
        (SmtpStep.GREETING, "421 4.3.2 going down", "session"),
        (SmtpStep.HELLO, "550 5.7.1 I do not like your name", "session"),
        (SmtpStep.AUTH, "535 5.7.8 wrong password", "session"),
        (SmtpStep.STARTTLS, "454 4.7.0 TLS not available", "session"),
        (SmtpStep.MAIL, "530 5.7.0 must issue a STARTTLS command first", "session"),
        (SmtpStep.MAIL, "550 5.7.0 authentication required", "session"),
        (SmtpStep.MAIL, "554 5.7.11 encryption needed", "session"),
        (SmtpStep.RCPT, "530 authentication required", "session"),
        (SmtpStep.RCPT, "421 4.7.0 too many errors, closing", "session"),
        # the two sides do not understand each other
        (SmtpStep.RCPT, "503 5.5.1 bad sequence", "temporary"),
        (SmtpStep.MAIL, "500 5.5.2 what", "temporary"),
        (SmtpStep.DATA, "502 5.5.1 not implemented", "temporary"),
        # contradictions and codes from nowhere
        (SmtpStep.RCPT, "550 4.2.1 mailbox disabled", "temporary"),
        (SmtpStep.RCPT, "450 5.1.1 no such user", "temporary"),
        (SmtpStep.RCPT, "354 go on", "temporary"),
        (SmtpStep.END, "199 what", "temporary"),
        (SmtpStep.END, "999 what", "temporary"),
    ],
)
def test_replies_of_the_book_and_of_nobody(step: SmtpStep, said: str, means: Meaning) -> None:
    assert meaning(reply(said), step) == means
