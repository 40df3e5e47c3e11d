"""The POP3 client against a real Dovecot."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from shared.errors import LoginRefused, MaildropBusy, ServerFault
from shared.network.tls import Trust
from tests.servers.dovecot import Dovecot, dovecot
from tests.unit.fetcher.pop3_session import uidls_of

USERS = {
    name: f"secret of {name}"
    for name in ("mixed", "many", "large", "delete", "abort", "top", "sales@corp.example")
} | {"odd": " spaces: {PLAIN} ümlaut "}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with dovecot(tmp_path_factory.mktemp("dovecot"), USERS) as running:
        yield running


def login(
    server: Dovecot, user: str, tls: Literal["implicit", "starttls", "none"] = "none"
) -> Login:
    port = server.pop3s if tls == "implicit" else server.pop3
    secret = USERS[user]
    return Login(server.host, port, tls, user, lambda: secret, trust=Trust(str(server.ca_file)))


async def retrieved(session: Pop3Session, numbers: list[int]) -> list[bytes]:
    found = []
    async for message in session.retrieve(numbers):
        assert message.refused is None
        found.append(b"".join([chunk async for chunk in message.chunks()]))
    return found


def mixed_mail(count: int) -> list[bytes]:
    """Make messages of many sizes, full of dots, long lines and bytes beyond ASCII."""
    rng = random.Random(7)
    lines = [b"", b".", b"..", b"...x", b".\r", b"\r", b"gr\xfc\xdfe", b"x" * 70, b"y" * 40_000]
    messages = []
    for number in range(count):
        body = b"".join(line + b"\r\n" for line in rng.choices(lines, k=rng.randrange(40)))
        messages.append(b"Subject: %d\r\n\r\n" % number + body * rng.choice([1, 1, 1, 10]))
    return messages


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_every_byte_of_mixed_mail_arrives(
    server: Dovecot, tls: Literal["implicit", "starttls", "none"]
) -> None:
    messages = mixed_mail(300)
    if not server.files("mixed"):
        server.put_all("mixed", messages)
    session = await Pop3Session.open(login(server, "mixed", tls))
    assert "PIPELINING" in session.capabilities
    assert (await session.surveyor.stat())[0] == len(messages)
    listed = (await session.surveyor.survey()).uidls
    assert listed is not None
    numbers = list(listed.numbers.values())
    assert numbers == list(range(1, len(messages) + 1))
    assert await retrieved(session, numbers) == messages
    assert await session.surveyor.sizes() == {n: len(raw) for n, raw in enumerate(messages, 1)}
    await session.quit()


async def test_uidls_are_the_same_in_the_next_session(server: Dovecot) -> None:
    server.put("sales@corp.example", b"Subject: a\r\n\r\n", b"Subject: b\r\n\r\n")
    listings = []
    for _ in range(2):
        session = await Pop3Session.open(login(server, "sales@corp.example"))
        listings.append((await session.surveyor.survey()).uidls)
        await session.quit()
    assert listings[0] == listings[1]


async def test_a_password_with_spaces_and_umlauts(server: Dovecot) -> None:
    session = await Pop3Session.open(login(server, "odd"))
    assert await session.surveyor.stat() == (0, 0)
    assert (await session.surveyor.survey()).uidls == uidls_of([])
    await session.quit()


async def test_a_wrong_password_is_refused(server: Dovecot) -> None:
    wrong = Login(server.host, server.pop3, "none", "mixed", lambda: "no such secret")
    with pytest.raises(LoginRefused, match="AUTH"):
        await Pop3Session.open(wrong)


async def test_a_maildrop_that_is_held_by_another_session_is_busy(tmp_path: Path) -> None:
    with dovecot(tmp_path, {"held": "x"}, extra="mail_max_userip_connections = 1") as server:
        mine = Login(server.host, server.pop3, "none", "held", lambda: "x")
        async with contextlib.AsyncExitStack() as held:
            held.push_async_callback((await Pop3Session.open(mine)).quit)
            with pytest.raises(MaildropBusy, match="Maximum number of connections"):
                # Dovecot counts a session beside letting it in; on a busy machine after that.
                for _ in range(20):
                    held.push_async_callback((await Pop3Session.open(mine)).quit)


async def test_the_systems_authorities_do_not_vouch_for_a_test(server: Dovecot) -> None:
    unknown = Login(server.host, server.pop3s, "implicit", "mixed", lambda: USERS["mixed"])
    with pytest.raises(ServerFault, match="certificate is refused"):
        await Pop3Session.open(unknown)


async def test_a_message_of_megabytes_comes_in_bounded_pieces(server: Dovecot) -> None:
    raw = b"Subject: large\r\n\r\n" + b"".join(
        b".%07d" % n + b"z" * 65 + b"\r\n" for n in range(400_000)
    )
    server.put("large", raw)
    session = await Pop3Session.open(login(server, "large"))
    pieces = []
    async for message in session.retrieve([1]):
        pieces = [chunk async for chunk in message.chunks()]
    await session.quit()
    assert b"".join(pieces) == raw
    assert max(map(len, pieces)) < 1_000_000


async def test_top_gives_the_header_block(server: Dovecot) -> None:
    server.put("top", b"Subject: x\r\n\r\n.one\r\ntwo\r\n")
    session = await Pop3Session.open(login(server, "top"))
    tops = [top async for top in session.tops([1, 2])]
    assert tops == [(1, b"Subject: x\r\n\r\n"), (2, None)]
    await session.round_trip()
    await session.quit()


async def test_deletions_reach_the_maildir_with_quit(server: Dovecot) -> None:
    messages = [b"Subject: %d\r\n\r\n" % n for n in range(1200)]
    server.put_all("delete", messages)
    session = await Pop3Session.open(login(server, "delete"))
    odd = list(range(1, 1201, 2))
    assert await session.delete([*odd, 1]) == odd  # the second DELE of message 1 is refused
    assert len(server.files("delete")) == 1200
    await session.quit()
    assert server.messages("delete") == messages[1::2]


async def test_nothing_is_deleted_by_an_aborted_session(server: Dovecot) -> None:
    server.put("abort", b"Subject: 1\r\n\r\n", b"Subject: 2\r\n\r\n")
    session = await Pop3Session.open(login(server, "abort"))
    assert await session.delete([1]) == [1]
    await session.abort()
    assert len(server.files("abort")) == 2


async def test_many_small_messages_come_through_the_pipeline(server: Dovecot) -> None:
    messages = [b"Subject: %d\r\n\r\nsmall\r\n" % n for n in range(3000)]
    server.put_all("many", messages)
    session = await Pop3Session.open(login(server, "many", "implicit"))
    backwards = list(range(3000, 0, -1))
    assert await retrieved(session, backwards) == messages[::-1]
    await session.quit()
