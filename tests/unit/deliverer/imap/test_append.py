"""Messages put into folders: how they are sent, marked, named; and what replies make of them."""

import pytest

from services.deliverer.courier import MailObject, Result
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from tests.servers.imap import USUAL, ImapServer, imap_server
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, SENDER, content, told
from tests.unit.deliverer.imap.mailboxes import id_line, mail, mails, opened


def stored(server: ImapServer, folder: str = "INBOX") -> list[bytes]:
    return [message.data for message in server.folders[folder]]


async def delivered(server: ImapServer, path: str = "", *posts: MailObject) -> dict[str, Result]:
    async with opened(server, path) as courier:
        (result,) = await told(courier, posts or [mail()])
    assert isinstance(result, dict), result
    return result


async def test_a_message_lies_in_the_folder_as_it_was_and_is_not_seen() -> None:
    async with imap_server() as server:
        result = await delivered(server)
    (message,) = server.folders["INBOX"]
    assert message.data == id_line("3f9a") + MESSAGE
    assert (message.flags, message.at_once) == ("", True)
    said = f"OK [APPENDUID 7 1] done (said by 127.0.0.1:{server.port} to APPEND)"
    assert result == {ANNA: Result("delivered", said)}


async def test_flags_and_the_date_when_the_provider_took_it() -> None:
    message = b"Received: from x by y; Tue, 3 Feb 2015 04:05:06 +0100 (CET)\r\n" + MESSAGE
    async with imap_server() as server:
        await delivered(server, "/?flags=seen,flagged,$Moved", mail(message))
    (there,) = server.folders["INBOX"]
    assert there.flags == "\\Seen \\Flagged $Moved"
    assert there.date == " 3-Feb-2015 04:05:06 +0100"


@pytest.mark.parametrize(
    ("offers", "size", "at_once"),
    [
        (USUAL, 60_000, True),
        (USUAL, 70_000, False),
        (USUAL.replace("LITERAL+", "LITERAL-"), 4_000, True),
        (USUAL.replace("LITERAL+", "LITERAL-"), 5_000, False),
        (USUAL.replace("LITERAL+", ""), 100, False),
    ],
)
async def test_what_is_sent_without_asking_first(offers: str, size: int, at_once: bool) -> None:
    body = b"Subject: x\r\n\r\n" + b"x" * size
    async with imap_server(offers=offers) as server:
        await delivered(server, "", mail(body))
    (message,) = server.folders["INBOX"]
    assert message.data == id_line("3f9a") + body
    assert message.at_once == at_once


async def test_line_ends_are_crlf_in_a_message_in_chunks_too() -> None:
    made = content(chunks=[b"Subject: x\n\nline\r", b"\nline\r\r\nl\ni", b"ne"], prefix=b"A: b\r\n")
    async with imap_server() as server:
        await delivered(server, "", MailObject(made, SENDER, [ANNA]))
    assert stored(server) == [b"A: b\r\nSubject: x\r\n\r\nline\r\nline\r\nl\r\nine"]


async def test_nul_goes_as_literal8_where_the_server_takes_that() -> None:
    odd = b"Subject: x\r\n\r\na\0b\r\n"
    for offers in (USUAL + " BINARY", USUAL):
        async with imap_server(offers=offers) as server:
            await delivered(server, "", mail(odd))
        (message,) = server.folders["INBOX"]
        assert message.data == id_line("3f9a") + odd
        assert message.binary == ("BINARY" in offers)


async def test_an_8_bit_header_goes_as_utf8_where_that_is_enabled() -> None:
    odd = "Subject: Grüße\r\n\r\nx\r\n".encode()
    async with imap_server(offers=USUAL + " UTF8=ACCEPT") as server:
        await delivered(server, "/Grüße", mail(odd))
    (message,) = server.folders["Grüße"]
    assert message.data == id_line("3f9a") + odd
    assert message.utf8
    assert message.binary


async def test_an_8_bit_header_that_is_no_utf8_goes_as_it_is() -> None:
    odd = b"Subject: Gr\xfc\xdfe\r\n\r\nx\r\n"
    async with imap_server(offers=USUAL + " UTF8=ACCEPT") as server:
        await delivered(server, "", mail(odd))
    (message,) = server.folders["INBOX"]
    assert message.data == id_line("3f9a") + odd
    assert not message.utf8


async def test_small_messages_for_one_folder_go_in_one_command() -> None:
    async with imap_server() as server, opened(server, "/New", connections=1) as courier:
        results = await told(courier, mails(40))
        assert all(isinstance(r, dict) and r[ANNA].verdict == "delivered" for r in results)
    assert len(stored(server, "New")) == len(set(stored(server, "New"))) == 40
    assert server.verbs().count("APPEND") == 3  # 32 for nothing, as there is no folder yet; 8


async def test_each_recipient_has_a_folder_and_those_who_share_one_share_the_message() -> None:
    async with imap_server() as server:
        await delivered(server, "/Post/{local}", mail(MESSAGE, ANNA, BERT, "anna@other.example"))
    assert len(stored(server, "Post/anna")) == len(stored(server, "Post/bert")) == 1
    assert "SUBSCRIBE" in server.verbs()


async def test_folders_are_named_as_the_server_names_them() -> None:
    async with imap_server(delimiter=".", prefix="INBOX.") as server:
        await delivered(server, "/Old mail/{mailbox}", mail(MESSAGE, "a.b@corp.example", ANNA))
    assert set(server.folders) == {
        "INBOX",
        "INBOX.Old mail.a_b@corp_example",
        "INBOX.Old mail.anna@corp_example",
    }
    offers = USUAL.replace("NAMESPACE", "")
    async with imap_server(delimiter="\\\\", offers=offers) as server:
        await delivered(server, "/Post & für/x")
    assert set(server.folders) == {"INBOX", "Post &- f&APw-r\\x"}


async def test_a_recipient_who_can_have_no_folder_fails_alone() -> None:
    async with imap_server() as server:
        result = await delivered(server, "/{local}", mail(MESSAGE, ".x@corp.example", BERT))
    assert result[".x@corp.example"].verdict == "permanent"
    assert result[BERT].verdict == "delivered"


async def test_labels_of_gmail_are_given_to_what_was_appended() -> None:
    offers = USUAL + " X-GM-EXT-1"
    async with (
        imap_server(offers=offers) as server,
        opened(server, "/?labels=Old, Für,\\Important") as courier,
    ):
        await told(courier, mails(3))
    assert [m.labels for m in server.folders["INBOX"]] == ['("Old" "F&APw-r" \\Important)'] * 3


async def test_labels_that_are_refused_keep_no_message_from_its_folder() -> None:
    async with imap_server(offers=USUAL + " X-GM-EXT-1") as server:
        server.answer("STORE", "NO not that one")
        result = await delivered(server, "/?labels=Old")
    assert result[ANNA].verdict == "delivered"
    assert "without its labels: NO not that one" in result[ANNA].reply


@pytest.mark.parametrize("uids", ["1:4294967295", "1,2", "x", "1:2:3"])
async def test_labels_are_given_to_no_message_of_others(uids: str) -> None:
    async with imap_server(offers=USUAL + " X-GM-EXT-1") as server:
        server.answer("END", f"OK [APPENDUID 7 {uids}] done")
        result = await delivered(server, "/?labels=Old")
    assert result[ANNA].verdict == "delivered"
    assert "STORE" not in server.verbs()


async def test_labels_are_asked_of_gmail_alone() -> None:
    async with imap_server() as server, opened(server, "/?labels=Old") as courier:
        (result,) = await told(courier, [mail()])
    assert isinstance(result, Unreachable)
    assert "it is no Gmail" in str(result)
    assert stored(server) == []


async def test_a_server_that_says_how_much_it_takes_is_sent_no_more() -> None:
    async with imap_server(offers=USUAL + " APPENDLIMIT=50") as server:
        result = await delivered(server)
    assert result[ANNA].verdict == "permanent"
    assert "by APPENDLIMIT" in result[ANNA].reply
    assert "APPEND" not in server.verbs()


@pytest.mark.parametrize("limit", ["0", "9" * 5000, "", "x"])
async def test_a_limit_that_is_none_keeps_no_message_back(limit: str) -> None:
    async with imap_server(offers=f"{USUAL} APPENDLIMIT={limit}") as server:
        result = await delivered(server)
    assert result[ANNA].verdict == "delivered"


async def test_where_fewer_came_than_went_together_each_is_looked_for() -> None:
    async with imap_server() as server, opened(server, connections=1) as courier:
        server.answer("END", "OK [APPENDUID 7 1] that was one")
        results = await told(courier, mails(3))
    replies = [r[ANNA].reply for r in results if isinstance(r, dict)]
    assert [reply[:9] for reply in replies] == ["was there"] * 3
    assert len(stored(server)) == 3


async def test_of_those_that_went_together_the_one_that_is_too_large_fails_alone() -> None:
    async with imap_server() as server, opened(server, connections=1) as courier:
        server.answer("END", "NO [TOOBIG] one of them", "OK one", "NO [TOOBIG] this one", "OK one")
        results = await told(courier, mails(3))
    verdicts = [r[ANNA].verdict for r in results if isinstance(r, dict)]
    assert verdicts == ["delivered", "permanent", "delivered"]
    assert len(stored(server)) == 2


@pytest.mark.parametrize("error", [SpoolMissing("k"), SpoolUnavailable("away")])
async def test_of_a_message_that_cannot_be_read_no_server_hears(error: Exception) -> None:
    made = content(chunks=[b"Subject: x\r\n\r\n"], error=error)
    async with imap_server() as server, opened(server) as courier:
        (result,) = await told(courier, [MailObject(made, SENDER, [ANNA])])
    assert result is error
    assert "APPEND" not in server.verbs()


async def test_a_message_that_is_ours_no_longer_is_not_completed() -> None:
    made = content(held=False)
    async with imap_server() as server, opened(server) as courier:
        (result,) = await told(courier, [MailObject(made, SENDER, [ANNA])])
        assert type(result).__name__ == "ClaimLost"
        results = await told(courier, [MailObject(made, SENDER, [ANNA]), *mails(2)])
    assert type(results[0]).__name__ == "ClaimLost"
    assert len(stored(server)) == 2
