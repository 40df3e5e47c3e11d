import pytest

from services.deliverer.reply import Malformed, Meaning, Reply, ReplyReader, Step, meaning

MULTILINE = b"250-mail.corp.example\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"


def reply(text: str) -> Reply:
    (one,) = ReplyReader().feed(text.encode() + b"\r\n")
    return one


@pytest.mark.parametrize(
    ("step", "said", "means"),
    [
        (Step.RCPT, "250 2.1.5 ok", "delivered"),
        (Step.RCPT, "251 will forward", "delivered"),
        (Step.RCPT, "450 4.2.0 greylisted", "temporary"),
        (Step.RCPT, "550 5.1.1 no such user", "permanent"),
        (Step.RCPT, "550 no such user", "permanent"),
        (Step.RCPT, "554 5.7.1 relay access denied", "permanent"),
        (Step.RCPT, "501 5.1.3 bad address syntax", "permanent"),
        (Step.MAIL, "550 5.7.1 sender rejected", "permanent"),
        (Step.END, "554 5.6.0 message refused", "permanent"),
        (Step.END, "451 4.3.0 local error", "temporary"),
        # over quota, whatever code is with it
        (Step.RCPT, "552 5.2.2 mailbox full", "temporary"),
        (Step.RCPT, "550 5.2.2 mailbox full", "temporary"),
        (Step.END, "554 5.2.2 mailbox full", "temporary"),
        (Step.END, "552 exceeded storage allocation", "temporary"),
        (Step.RCPT, "552 too many recipients", "temporary"),
        # too large
        (Step.MAIL, "552 message size exceeds fixed limit", "permanent"),
        (Step.END, "552 5.3.4 message too big", "permanent"),
        (Step.END, "552 5.2.3 message too long for this mailbox", "permanent"),
        # not the message's fault
        (Step.GREETING, "554 5.7.1 you are blocked", "session"),
        (Step.GREETING, "421 4.3.2 too many connections", "session"),
        (Step.HELLO, "550 5.7.1 I do not like your name", "session"),
        (Step.AUTH, "535 5.7.8 wrong password", "session"),
        (Step.STARTTLS, "454 4.7.0 TLS not available", "session"),
        (Step.MAIL, "530 5.7.0 must issue a STARTTLS command first", "session"),
        (Step.MAIL, "550 5.7.0 authentication required", "session"),
        (Step.MAIL, "554 5.7.11 encryption needed", "session"),
        (Step.RCPT, "530 authentication required", "session"),
        (Step.RCPT, "421 4.7.0 too many errors, closing", "session"),
        # the two sides do not understand each other
        (Step.RCPT, "503 5.5.1 bad sequence", "temporary"),
        (Step.MAIL, "500 5.5.2 what", "temporary"),
        (Step.DATA, "502 5.5.1 not implemented", "temporary"),
        # contradictions and codes from nowhere
        (Step.RCPT, "550 4.2.1 mailbox disabled", "temporary"),
        (Step.RCPT, "450 5.1.1 no such user", "temporary"),
        (Step.RCPT, "354 go on", "temporary"),
        (Step.END, "199 what", "temporary"),
        (Step.END, "999 what", "temporary"),
    ],
)
def test_meaning(step: Step, said: str, means: Meaning) -> None:
    assert meaning(reply(said), step) == means


def test_replies_come_out_however_the_bytes_are_cut() -> None:
    data = b"220 hello\r\n" + MULTILINE + b"354\r\n"
    whole = ReplyReader().feed(data)
    assert [r.code for r in whole] == [220, 250, 354]
    assert whole[1].lines == (b"mail.corp.example", b"SIZE 1000", b"8BITMIME")
    reader = ReplyReader()
    assert [r for i in range(len(data)) for r in reader.feed(data[i : i + 1])] == whole
    assert reader.clean


def test_a_reply_that_has_only_begun_is_not_clean() -> None:
    reader = ReplyReader()
    assert reader.feed(b"250-more\r\n") == []
    assert not reader.clean


@pytest.mark.parametrize("junk", [b"HTTP/1.1 400\r\n", b"\r\n", b"25 x\r\n", b"250x\r\n"])
def test_what_is_no_reply_is_said_to_be_none(junk: bytes) -> None:
    with pytest.raises(Malformed, match="not an SMTP reply"):
        ReplyReader().feed(junk)


def test_a_reply_without_end_is_refused() -> None:
    reader = ReplyReader()
    with pytest.raises(Malformed, match="more than 65536 bytes"):
        for _ in range(10_000):
            reader.feed(b"250-and another line\r\n")
    with pytest.raises(Malformed, match="more than 65536 bytes"):
        ReplyReader().feed(b"2" * 70_000)


def test_what_was_said_is_safe_to_show_and_names_who_said_it() -> None:
    (evil,) = ReplyReader().feed(b"550-5.1.1 no \x1b[31muser\r\n550 5.1.1 here\xff\r\n")
    said = evil.said("mail.corp.example:25", Step.RCPT)
    assert said == ("550 5.1.1 no \\x1b[31muser here\ufffd (said by mail.corp.example:25 to RCPT)")
