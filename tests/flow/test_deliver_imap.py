"""The deliverer against real IMAP servers, Dovecot and Cyrus; another client reads them."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from services.deliverer.courier import MailContent, MailObject, Result
from services.deliverer.destinations import courier_for
from services.deliverer.imap.session import NON_SYNC
from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.corpus.messages import sample_messages
from tests.flow.imap_mailbox import Mailbox
from tests.servers.cyrus import cyrus
from tests.servers.dovecot import Dovecot, dovecot, quota
from tests.servers.proxy import Proxy, proxy
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, SENDER, told, until
from tests.unit.deliverer.crowds import fates, passing
from tests.unit.deliverer.imap.mailboxes import id_line, mail

USERS = {"anna": "secret"}
FOLDERS = {"dovecot": "", "cyrus": "INBOX."}
"""What stands before the names of folders."""

LEAVE = {"dovecot": b"+ OK\r\n", "cyrus": b"+ go ahead\r\n"}
"""What they say when a literal may come."""


@pytest.fixture(scope="module")
def at_dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with dovecot(tmp_path_factory.mktemp("dovecot"), USERS) as server:
        yield server


@pytest.fixture(scope="module")
def at_cyrus() -> Iterator[Mailbox]:
    with cyrus() as server:
        yield Mailbox(server.imap)


@pytest.fixture(params=["dovecot", "cyrus"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mailbox(kind: str, request: pytest.FixtureRequest) -> Mailbox:
    server: Dovecot | Mailbox = request.getfixturevalue(f"at_{kind}")
    return server if isinstance(server, Mailbox) else Mailbox(server.imap)


async def put(mailbox: Mailbox, path: str, *posts: MailObject) -> list[Result | Exception]:
    """Deliver messages to anna; return what became of each."""
    tls = "&tls=none" if "?" in path else "?tls=none"
    made = courier_for("away", f"{mailbox.url}/{path}{tls}", connections=4)
    try:
        results = await told(made, posts)
    finally:
        await made.close()
    return [r if isinstance(r, Exception) else r[ANNA] for r in results]


async def read(mailbox: Mailbox, folder: str) -> list[bytes]:
    return await asyncio.to_thread(mailbox.messages, folder)


async def test_what_arrives_is_what_was_sent(kind: str, mailbox: Mailbox) -> None:
    messages = sample_messages(60, seed=16)
    posts = [mail(m, id_=f"{n:032x}") for n, m in enumerate(messages)]
    results = await put(mailbox, "Sent on/{local}", *posts)
    assert {r.verdict for r in results if isinstance(r, Result)} == {"delivered"}
    there = await read(mailbox, f"{FOLDERS[kind]}Sent on.anna")
    wanted = [id_line(f"{n:032x}") + crlf(m) for n, m in enumerate(messages)]
    assert sorted(there) == sorted(wanted)
    assert "Sent on.anna" in await asyncio.to_thread(mailbox.subscribed)


def crlf(message: bytes) -> bytes:
    """Return a message with the line ends that a mail server gets (``test_line_ends``)."""
    return message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


async def test_it_is_not_seen_and_lies_where_its_date_puts_it(kind: str, mailbox: Mailbox) -> None:
    dated = b"Received: from a by b; Tue, 3 Feb 2015 04:05:06 +0100\r\n" + MESSAGE
    await put(mailbox, "Dated", mail(dated, id_="1"))
    await put(mailbox, "Dated?flags=seen,flagged,$Moved", mail(dated, id_="2"))
    folder = f"{FOLDERS[kind]}Dated"
    first, second = await asyncio.to_thread(mailbox.filed, folder)
    assert first.flags == frozenset()
    assert {flag.lower() for flag in second.flags} == {"\\seen", "\\flagged", "$moved"}
    for message in (first, second):
        moment = datetime.strptime(message.date.strip(), "%d-%b-%Y %H:%M:%S %z")
        assert moment.isoformat().endswith(("04:05:06+01:00", "03:05:06+00:00"))


ODD = {
    "latin-1": b"Subject: Gr\xfc\xdfe\r\n\r\nx\r\n",
    "utf-8": "Subject: Grüße\r\n\r\nx\r\n".encode(),
    "no end of line": b"Subject: x\r\n\r\nno end of line",
    "long line": b"Subject: x\r\n\r\n" + b"long " * 30_000 + b"\r\n",
    "long name": b"X" * 70_000 + b": long name\r\n\r\nx\r\n",
    "NUL in body": b"Subject: x\r\n\r\na\0b\r\n",
    "NUL in header": b"Subject: a\0b\r\n\r\nx\r\n",
    "no header": b"no header\r\n\r\nx\r\n",
}
AS_STORED = {
    # Known to be so: it does as much over LMTP, unless munge8bit is off.
    ("cyrus", "latin-1"): b"Subject: GrXXe\r\n\r\nx\r\n",
    ("cyrus", "utf-8"): b"Subject: GrXXXXe\r\n\r\nx\r\n",
    # To a client that does not ask for BINARY.
    ("dovecot", "NUL in body"): b"Subject: x\r\n\r\na\x80b\r\n",
    ("dovecot", "NUL in header"): b"Subject: a\x80b\r\n\r\nx\r\n",
}
REFUSED = {
    ("cyrus", "NUL in header"): "NO Message contains NUL characters",
    ("cyrus", "no header"): "NO Message contains invalid header",
}


@pytest.mark.parametrize("odd", ODD)
async def test_odd_mail_arrives_or_fails_for_good(kind: str, mailbox: Mailbox, odd: str) -> None:
    (result,) = await put(mailbox, odd, mail(ODD[odd]))
    assert isinstance(result, Result)
    there = await read(mailbox, FOLDERS[kind] + odd)
    if (kind, odd) in REFUSED:
        assert (result.verdict, there) == ("permanent", [])
        assert result.reply.startswith(REFUSED[kind, odd])
    else:
        assert result.verdict == "delivered", result
        assert there == [id_line("3f9a") + AS_STORED.get((kind, odd), ODD[odd])]


async def test_thirty_megabytes_are_never_held(kind: str, mailbox: Mailbox) -> None:
    line = b"0123456789abcdef" * 4 + b"\r\n"
    piece, count = line * 1000, 30 * 1024 * 1024 // (len(line) * 1000)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"Subject: large\r\n\r\n"
        for _ in range(count):
            yield piece

    prefix = id_line("large")
    size = len(prefix) + 18 + count * len(piece)
    large = MailContent("large", prefix, size, chunks, None)
    tracemalloc.start()
    try:
        (result,) = await put(mailbox, "Large", MailObject(large, SENDER, [ANNA]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(result, Result)
    assert result.verdict == "delivered"
    print(f"{size} bytes, {peak} of memory at the peak")
    assert peak < 4 * 1024 * 1024
    (there,) = await read(mailbox, f"{FOLDERS[kind]}Large")
    assert len(there) == size
    assert there == prefix + b"Subject: large\r\n\r\n" + piece * count


async def test_a_folder_that_several_make_at_once_is_made_once(kind: str, mailbox: Mailbox) -> None:
    posts = [mail(MESSAGE, id_=f"{n:032x}") for n in range(8)]
    results = await asyncio.gather(*(put(mailbox, "At once", each) for each in posts))
    assert fates([{ANNA: r} for (r,) in results if isinstance(r, Result)]) == {"delivered"}
    assert len(await read(mailbox, f"{FOLDERS[kind]}At once")) == 8


async def test_an_address_that_can_be_no_folder_fails_for_good(mailbox: Mailbox) -> None:
    made = courier_for("away", f"{mailbox.url}/{{local}}?tls=none")
    (result,) = await told(made, [mail(MESSAGE, "a\x7f/b@corp.example", BERT)])
    await made.close()
    assert isinstance(result, dict)
    assert result["a\x7f/b@corp.example"].verdict == "permanent"
    assert result[BERT].verdict == "delivered"


async def test_a_wrong_password_is_the_destinations(mailbox: Mailbox) -> None:
    wrong = Mailbox(mailbox.port, password="wrong")
    (result,) = await put(wrong, "", mail())
    assert isinstance(result, Unreachable)
    assert "(said to the login)" in str(result)


@pytest.fixture
def between(mailbox: Mailbox) -> Iterator[Proxy]:
    with proxy(mailbox.port) as instance:
        yield instance


@pytest.mark.parametrize("size", [100, 300_000])
async def test_a_connection_cut_after_the_literal(
    kind: str, mailbox: Mailbox, between: Proxy, size: int, clock: ManualClock
) -> None:
    """The server has the message; of its reply nothing comes."""
    url = mailbox.url.replace(f":{mailbox.port}", f":{between.port}")
    courier = courier_for("away", f"{url}/Cut {size}?tls=none", clock=clock, connections=1)
    body = b"Subject: cut\r\n\r\n" + b"x" * 70 * (size // 70) + b"\r\n"
    try:
        await told(courier, [mail(id_="before")])
        between.cut_after = between.passed + (len(LEAVE[kind]) if size > NON_SYNC else 0)
        async with passing(clock), asyncio.TaskGroup() as group:
            group.create_task(_mend(between))
            (result,) = await told(courier, [mail(body, id_="cut")])
    finally:
        await courier.close()
    assert isinstance(result, dict), result
    assert "was there" in result[ANNA].reply
    there = await read(mailbox, f"{FOLDERS[kind]}Cut {size}")
    assert sorted(there) == sorted([id_line("before") + MESSAGE, id_line("cut") + body])


async def _mend(between: Proxy) -> None:
    await until(lambda: between.cuts > 0)
    between.cut_after = None


async def test_over_tls_and_by_starttls(at_dovecot: Dovecot) -> None:
    for url in (
        f"imaps://anna:secret@127.0.0.1:{at_dovecot.imaps}/TLS?ca_file={at_dovecot.ca_file}",
        f"imap://anna:secret@127.0.0.1:{at_dovecot.imap}/TLS?ca_file={at_dovecot.ca_file}",
    ):
        courier = courier_for("away", url)
        assert fates(await told(courier, [mail(id_=url[:5])])) == {"delivered"}
        await courier.close()
    untrusted = courier_for("away", f"imaps://anna:secret@127.0.0.1:{at_dovecot.imaps}/TLS")
    (result,) = await told(untrusted, [mail(id_="no")])
    await untrusted.close()
    assert isinstance(result, Unreachable)
    assert "ca_file has to name" in str(result)
    assert len(await read(Mailbox(at_dovecot.imap), "TLS")) == 2


async def test_scram_keeps_the_password_from_the_server(tmp_path: Path) -> None:
    with dovecot(tmp_path, USERS, extra="auth_mechanisms = plain scram-sha-256") as server:
        mailbox = Mailbox(server.imap)
        assert [r for r in await put(mailbox, "", mail()) if isinstance(r, Result)]
        log = server.log.read_text()
    assert "method=SCRAM-SHA-256" in log
    assert "method=PLAIN" not in log.partition("imap-login")[2].partition("Logged out")[0]


async def test_a_full_mailbox_is_waited_for(tmp_path: Path) -> None:
    with dovecot(tmp_path, USERS, extra=quota("10K")) as small:
        mailbox = Mailbox(small.imap)
        filler = b"Subject: filler\r\n\r\n" + b"x" * 70 + b"\r\n" * 3_500
        results = [
            *await put(mailbox, "", mail(filler)),
            *await put(mailbox, "", mail(b"Subject: x\r\n\r\n" + b"x\r\n" * 2500, id_="more")),
        ]
    assert [r.verdict for r in results if isinstance(r, Result)] == ["delivered", "temporary"]
    assert "OVERQUOTA" in str(results[1])


async def test_more_connections_than_the_server_takes_cost_no_message(tmp_path: Path) -> None:
    with dovecot(tmp_path, USERS, extra="mail_max_userip_connections = 2\n") as small:
        mailbox = Mailbox(small.imap)
        courier = courier_for("away", f"{mailbox.url}/?tls=none", connections=8)
        body = b"Subject: x\r\n\r\n" + b"x" * 70_000 + b"\r\n"
        posts = [mail(body, id_=f"{n:032x}") for n in range(30)]
        delivered = fates(await told(courier, posts))
        await courier.close()
        there = small.messages("anna")
    assert delivered == {"delivered"}
    assert len(there) == 30
