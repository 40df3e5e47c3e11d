"""A message comes once: whatever breaks, it is looked for before it is sent again."""

import pytest

from services.deliverer.courier import Courier, MailObject, Throttled
from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.servers.imap import DROP, STORE, imap_server
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, SENDER, content, told
from tests.unit.deliverer.crowds import fates, passing
from tests.unit.deliverer.imap.mailboxes import id_line, mail, mails, opened


async def deliver(courier: Courier, clock: ManualClock, *posts: MailObject) -> list[str]:
    async with passing(clock):
        results = await told(courier, posts)
    assert all(isinstance(result, dict) for result in results), results
    return [r[ANNA].verdict for r in results if isinstance(r, dict)]


async def test_a_connection_cut_after_the_literal_and_the_message_is_there(
    clock: ManualClock,
) -> None:
    async with imap_server() as server, opened(server, clock=clock) as courier:
        await told(courier, [mail(id_="before")])
        server.answer("END", (STORE, DROP))
        assert await deliver(courier, clock, mail(id_="once")) == ["delivered"]
    assert len(server.folders["INBOX"]) == 2
    assert server.verbs().count("SEARCH") == 1


async def test_a_connection_cut_after_the_literal_and_the_message_is_not_there(
    clock: ManualClock,
) -> None:
    async with imap_server() as server, opened(server, clock=clock) as courier:
        await told(courier, [mail(id_="before")])
        server.answer("END", DROP)
        assert await deliver(courier, clock, mail(id_="once")) == ["delivered"]
    assert len(server.folders["INBOX"]) == 2


@pytest.mark.parametrize("there", [STORE, "OK"])
async def test_many_that_went_together_and_were_not_answered(
    clock: ManualClock, there: str
) -> None:
    async with imap_server() as server, opened(server, clock=clock, connections=2) as courier:
        await told(courier, [mail(id_="before")])
        server.answer("END", (STORE, DROP) if there == STORE else DROP)
        assert await deliver(courier, clock, *mails(20)) == ["delivered"] * 20
    messages = [message.data for message in server.folders["INBOX"]]
    assert len(messages) == len(set(messages)) == 21


async def test_a_literal_that_broke_off_leaves_nothing(clock: ManualClock) -> None:
    chunks = [b"Subject: large\r\n\r\n", *[b"0123456789\r\n" * 5000] * 20]
    made = content(chunks=chunks, id_="large", prefix=id_line("large"))
    async with imap_server() as server, opened(server, clock=clock) as courier:
        await told(courier, [mail(id_="before")])
        server.broken_at = 500_000
        assert await deliver(courier, clock, MailObject(made, SENDER, [ANNA])) == ["delivered"]
    assert server.folders["INBOX"][1].data == id_line("large") + b"".join(chunks)
    assert len(server.folders["INBOX"]) == 2


async def test_what_an_earlier_process_left_there_is_found_by_its_id() -> None:
    async with imap_server() as server, opened(server, "/Old/{local}?flags=seen") as courier:
        await told(courier, [mail(id_="one"), mail(id_="two")])
        again = [mail(id_="one", replay=True), mail(id_="three", replay=True)]
        results = await told(courier, again)
    assert isinstance(results[0], dict)
    assert results[0][ANNA].reply == "was there: found in Old/anna by its id"
    assert len(server.folders["Old/anna"]) == 3


async def test_labels_are_given_to_what_is_found_too() -> None:
    offers = "IMAP4rev1 LITERAL+ UIDPLUS AUTH=PLAIN X-GM-EXT-1"
    async with imap_server(offers=offers) as server:
        async with opened(server) as courier:
            await told(courier, [mail(id_="one")])
        async with opened(server, "/?labels=Old") as courier:
            await told(courier, [mail(id_="one", replay=True)])
    (message,) = server.folders["INBOX"]
    assert message.labels == '("Old")'


@pytest.mark.parametrize("finds", ["it", "all", "nothing"])
async def test_whatever_a_search_finds_a_message_is_neither_lost_nor_doubled(finds: str) -> None:
    async with imap_server(finds=finds) as server, opened(server) as courier:
        await told(courier, [mail(id_=f"{n}") for n in range(5)])
        results = await told(courier, [mail(id_="3", replay=True), mail(id_="9", replay=True)])
    replies = [r[ANNA].reply[:9] for r in results if isinstance(r, dict)]
    assert replies == ["was there", "OK [APPEN"]
    assert len(server.folders["INBOX"]) == 6


async def test_a_server_that_was_seen_to_find_is_believed_to_have_nothing() -> None:
    async with imap_server() as server, opened(server, connections=1) as courier:
        await told(courier, [mail(id_="1")])
        await told(courier, [mail(id_="2", replay=True)])
        before = server.verbs().count("FETCH")
        await told(courier, [mail(id_="1", replay=True)])
        await told(courier, [mail(id_="3", replay=True)])
    assert (before, server.verbs().count("FETCH")) == (1, 2)
    assert len(server.folders["INBOX"]) == 3


@pytest.mark.parametrize("said", ["BAD what is HEADER", "NO cannot search"])
async def test_a_server_that_cannot_search_is_believed_to_have_nothing(said: str) -> None:
    async with imap_server() as server, opened(server) as courier:
        server.answer("SEARCH", said)
        await told(courier, [mail(replay=True)])
    assert len(server.folders["INBOX"]) == 1


async def test_a_search_that_fails_for_now_is_waited_for() -> None:
    async with imap_server() as server, opened(server) as courier:
        server.answer("SEARCH", "NO [UNAVAILABLE] the index is away")
        (result,) = await told(courier, [mail(replay=True)])
    assert isinstance(result, Unreachable)
    assert "may have left the message" in str(result)
    assert server.folders["INBOX"] == []


async def test_of_two_folders_the_one_that_has_it_is_told_where_the_other_breaks(
    clock: ManualClock,
) -> None:
    async with (
        imap_server(folders={"anna": [], "bert": []}) as server,
        opened(server, "/{local}", clock=clock) as courier,
    ):
        server.answer("END", "OK done", DROP)
        (result,) = await told(courier, [mail(MESSAGE, ANNA, BERT)])
    assert isinstance(result, dict)
    assert (result[ANNA].verdict, result[BERT].verdict) == ("delivered", "temporary")
    assert result[BERT].lost
    assert len(server.folders["anna"]) == 1


@pytest.mark.parametrize("limit", ["login", "examine"])
async def test_what_may_be_there_is_not_put_aside_as_if_it_were_new(
    clock: ManualClock, limit: str
) -> None:
    """Put aside, it would come again as the first try, and be sent once more, unlooked for."""
    async with imap_server() as server, opened(server, clock=clock, connections=1) as courier:
        await told(courier, [mail(id_="before")])
        server.answer("END", (STORE, DROP))
        if limit == "login":
            server.most = 0
        else:
            server.answer("EXAMINE", *["NO [LIMIT] wait"] * 40)
        assert await deliver(courier, clock, *mails(3)) == ["temporary"] * 3
    assert len(server.folders["INBOX"]) == 4


async def test_what_was_not_sent_is_put_aside_and_no_try_is_counted(clock: ManualClock) -> None:
    async with imap_server() as server, opened(server, clock=clock, connections=1) as courier:
        await told(courier, [mail(id_="before")])
        server.answer("END", *["NO [LIMIT] wait"] * 40)
        async with passing(clock):
            results = await told(courier, mails(3))
    assert fates(results) == {"PutAside"}


async def test_a_server_that_leaves_for_a_limit_may_have_the_message(clock: ManualClock) -> None:
    async with imap_server() as server, opened(server, clock=clock, connections=1) as courier:
        server.answer("END", (STORE, "* BYE [LIMIT] too many commands", DROP))
        async with passing(clock):
            (result,) = await told(courier, [mail(id_="once")])
    assert isinstance(result, Unreachable)
    assert not isinstance(result, Throttled), "nothing would have been delivered"


async def test_done_is_not_believed_before_the_message_was_sent(clock: ManualClock) -> None:
    offers = "IMAP4rev1 AUTH=PLAIN"
    async with imap_server(offers=offers) as server, opened(server, clock=clock) as courier:
        server.answer("GO", "OK done")
        (result,) = await told(courier, [mail(id_="not there")])
    assert isinstance(result, Unreachable)
    assert "before it was sent" in str(result)
    assert server.folders["INBOX"] == []


async def test_a_count_that_is_none_keeps_no_message_back() -> None:
    async with imap_server(finds="nothing") as server, opened(server) as courier:
        server.answer("EXAMINE", (f"* {'9' * 5000} EXISTS", "OK done"))
        (result,) = await told(courier, [mail(replay=True)])
    assert isinstance(result, dict), result
    assert len(server.folders["INBOX"]) == 1
