import pytest

from services.deliverer.servers.reader import Malformed
from services.deliverer.smtp.reply import ReplyReader, SmtpStep

MULTILINE = b"250-mail.corp.example\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"


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
    said = evil.sentence("mail.corp.example:25", SmtpStep.RCPT)
    assert said == ("550 5.1.1 no \\x1b[31muser here\ufffd (said by mail.corp.example:25 to RCPT)")
