"""Messages that are given to a mail server's courier together, and what each is told by itself."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

import pytest

from services.deliverer.courier import (
    ClaimLost,
    CourierResult,
    DeliveryRequest,
    MailContent,
    MailObject,
)
from services.deliverer.destinations import courier_for
from services.deliverer.servers.courier import ServerCourier
from services.deliverer.smtp.session import SmtpSession
from shared.errors import SpoolMissing, Unreachable
from tests.servers.smtp import DROP, HANG, SmtpServer, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, CARL, SENDER, content, requests, told, until


def posts(*recipients: str) -> list[MailObject]:
    """Return a message for each of these recipients, each with another text."""
    return [MailObject(text(n), SENDER, [r]) for n, r in enumerate(recipients)]


def text(number: int, *, held: bool = True) -> MailContent:
    return content(b"Subject: %d\r\n\r\n.%d\r\n" % (number, number), held=held)


@contextlib.asynccontextmanager
async def opened(
    server: SmtpServer, connections: int = 1
) -> AsyncIterator[ServerCourier[SmtpSession]]:
    together = "?pipelining=full" if server.lmtp else ""
    made = courier_for("local", server.url + together, connections=connections)
    assert isinstance(made, ServerCourier)
    try:
        yield made
    finally:
        await made.close()


class Giving:
    """Messages being delivered, and what was told of them so far."""

    def __init__(self, courier: ServerCourier[SmtpSession], given: list[MailObject]) -> None:
        self.told: dict[int, CourierResult] = {}
        self.task = asyncio.create_task(courier.deliver(requests(given, self.told)))

    async def withdraw(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def verdicts(delivered: list[CourierResult]) -> list[str]:
    return [
        type(d).__name__ if isinstance(d, Exception) else next(iter(d.values())).verdict
        for d in delivered
    ]


def subjects(server: SmtpServer) -> list[str]:
    return sorted(m.data.decode().split("Subject: ")[1][0] for m in server.received)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("connections", [1, 3])
async def test_all_arrive_whole_over_so_many_connections(lmtp: bool, connections: int) -> None:
    given = posts(*[ANNA, BERT, CARL] * 10)
    async with smtp_server(lmtp=lmtp) as server, opened(server, connections) as courier:
        assert verdicts(await told(courier, given)) == ["delivered"] * 30
        assert verdicts(await told(courier, given)) == ["delivered"] * 30
    assert server.connections == connections
    expected = sorted((p.content.prefix + (p.content.data or b""), p.recipients[0]) for p in given)
    assert sorted((m.data, m.recipients[0]) for m in server.received) == sorted(expected * 2)


async def test_none_waits_for_one_that_takes_its_time() -> None:
    async with smtp_server() as server, opened(server, 2) as courier:
        server.answer(f"RCPT {BERT}", HANG)
        giving = Giving(courier, posts(ANNA, BERT, CARL, ANNA))
        await until(lambda: sorted(giving.told) == [0, 2, 3])
        assert not giving.task.done()
        await giving.withdraw()
        assert sorted(giving.told) == [0, 2, 3]
    assert len(server.received) == 3


async def test_what_was_delivered_does_not_wait_in_memory_for_the_rest() -> None:
    given = posts(ANNA, BERT, CARL, ANNA)
    texts = [weakref.ref(post.content.chunks) for post in given]
    async with smtp_server() as server, opened(server, 2) as courier:
        server.answer(f"RCPT {BERT}", HANG)
        giving = Giving(courier, given)
        del given
        await until(lambda: len(giving.told) == 3)
        assert [text() is None for text in texts] == [True, False, True, True]
        await giving.withdraw()


async def test_what_is_withdrawn_makes_way_for_others() -> None:
    async with smtp_server() as server, opened(server) as courier:
        server.answer("MAIL", HANG)
        hanging = Giving(courier, posts(ANNA, ANNA))
        await until(lambda: len(server.commands) > 1)
        other = Giving(courier, posts(BERT))
        await hanging.withdraw()
        await other.task
        assert hanging.told == {}
    assert [m.recipients for m in server.received] == [[BERT]]


async def test_what_is_withdrawn_at_its_end_takes_no_other_batch_with_it() -> None:
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        server.answer("END", HANG)
        hanging, other = Giving(courier, posts(ANNA)), Giving(courier, posts(BERT))
        await until(lambda: len(server.received) == 1)
        await hanging.withdraw()
        async with asyncio.timeout(10):
            await other.task
    assert [m.recipients for m in server.received] == [[ANNA], [BERT]]


async def test_a_defect_of_who_is_told_is_not_waited_for_in_vain() -> None:
    def tell(_: CourierResult) -> None:
        raise RuntimeError("a defect")

    async with smtp_server() as server, opened(server) as courier:
        with pytest.raises(RuntimeError, match="a defect"):
            await courier.deliver([DeliveryRequest(post, tell) for post in posts(ANNA)])
        assert verdicts(await told(courier, posts(BERT))) == ["delivered"]


class Watching(asyncio.Protocol):
    """A server that takes everything, and notes what came along with the end of each message."""

    def __init__(self, greeting: bytes, extensions: bytes, along: list[bytes]) -> None:
        self._greeting, self._extensions, self._along = greeting, extensions, along
        self._held, self._message = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 " + self._greeting + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = b"\r\n.\r\n"
        while (end if self._message else b"\r\n") in self._held:
            if self._message:
                _, _, self._held = self._held.partition(end)
                self._along.append(self._held)
                self._message = False
                self._transport.write(b"250 taken\r\n")
            else:
                line, _, self._held = self._held.partition(b"\r\n")
                self._message = line == b"DATA"
                hello = b"250-ready\r\n250 " + self._extensions
                verb = line[:4]
                reply = {b"DATA": b"354 go on", b"LHLO": hello, b"EHLO": hello}.get(verb, b"250 ok")
                self._transport.write(reply + b"\r\n")


DOVECOT, CYRUS = b"mail.corp.example Dovecot ready.", b"mail Cyrus LMTP 3.6.1-Debian-3.6.1-4 ready"
PERL = b"mail.corp.example LMTP Net::Server::Mail (Perl) Service ready"


@pytest.mark.parametrize(
    ("scheme", "greeting", "extensions", "option", "announced"),
    [
        ("lmtp", DOVECOT, b"PIPELINING", "", 2),
        ("lmtp", CYRUS, b"PIPELINING", "", 2),
        ("lmtp", DOVECOT, b"8BITMIME", "", 0),
        ("lmtp", DOVECOT, b"PIPELINING", "&pipelining=commands", 0),
        ("lmtp", DOVECOT, b"PIPELINING", "&pipelining=none", 0),
        ("lmtp", PERL, b"PIPELINING", "", 0),
        ("lmtp", PERL, b"PIPELINING", "&pipelining=full", 2),
        ("smtp", DOVECOT, b"PIPELINING", "", 0),
        ("smtp", b"ready", b"PIPELINING", "&pipelining=full", 2),
    ],
)
async def test_the_next_message_is_announced_with_the_end_of_this_one_where_that_is_taken(
    scheme: str, greeting: bytes, extensions: bytes, option: str, announced: int
) -> None:
    along = list[bytes]()
    loop = asyncio.get_running_loop()
    serve = partial(Watching, greeting, extensions, along)
    async with await loop.create_server(serve, "127.0.0.1") as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}?tls=none{option}"
        courier = courier_for("local", url, connections=1)
        assert verdicts(await told(courier, posts(ANNA, BERT, CARL))) == ["delivered"] * 3
        await courier.close()
    groups = [b"RCPT TO:<%s>\r\nDATA\r\n" % r.encode() for r in (BERT, CARL)][:announced]
    assert len(along) == 3
    assert [x.endswith(g) for x, g in zip(along, groups, strict=False)] == [True] * announced
    assert along[announced:] == [b""] * (3 - announced)


async def test_a_connection_lost_at_the_end_of_one_does_not_cost_the_next() -> None:
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        server.answer(f"END {ANNA}", DROP)
        first, second = await told(courier, posts(ANNA, BERT))
    assert not isinstance(first, Exception)
    assert first[ANNA].lost
    assert verdicts([second]) == ["delivered"]
    assert subjects(server) == ["0", "1"]


async def test_what_follows_a_message_that_is_never_sent_is_not_forgotten() -> None:
    """It was bound to a connection that broke with the last byte of the one before."""
    async with smtp_server(lmtp=True) as server, opened(server) as courier:

        async def breaking() -> AsyncGenerator[bytes, None]:
            yield b"Subject: 0\r\n\r\n"
            (worker,) = courier._workers
            session = worker.session
            assert session is not None
            server.writers[0].transport.abort()
            await until(lambda: not session.connection.idle)

        first, second = posts(ANNA, BERT)
        first = first._replace(content=first.content._replace(data=None, chunks=breaking))
        async with asyncio.timeout(20):
            broken, delivered = await told(courier, [first, second])
    assert isinstance(broken, Unreachable)
    assert verdicts([delivered]) == ["delivered"]
    assert subjects(server) == ["1"]


async def test_one_that_is_claimed_no_longer_is_not_sent_though_it_was_announced() -> None:
    given = posts(ANNA, BERT, CARL)
    given[1] = MailObject(text(1, held=False), SENDER, [BERT])
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        first, lost, last = await told(courier, given)
        await until(lambda: (server.connections, server.open) == (2, 1))  # cut in its middle
    assert isinstance(lost, ClaimLost)
    assert verdicts([first, last]) == ["delivered"] * 2
    assert subjects(server) == ["0", "2"]


async def test_what_is_announced_may_be_refused() -> None:
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        server.answer(f"RCPT {BERT}", "550 5.1.1 no such user")
        server.answer(f"END {CARL}", "452 4.2.2 mailbox full")
        delivered = await told(courier, posts(ANNA, BERT, CARL, ANNA))
    assert verdicts(delivered) == ["delivered", "permanent", "temporary", "delivered"]
    assert subjects(server) == ["0", "2", "3"]
    assert server.connections == 1


async def test_a_server_that_goes_down_in_between_is_asked_anew_for_what_was_announced() -> None:
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        server.answer(f"MAIL {SENDER}", "250 ok", ("421 4.3.2 going down", DROP))
        delivered = await told(courier, posts(ANNA, BERT))
    assert verdicts(delivered) == ["delivered"] * 2
    assert (subjects(server), server.connections) == (["0", "1"], 2)


async def test_what_cannot_be_sent_as_it_is_is_not_announced() -> None:
    given = posts(ANNA, "bad>address@corp.example", BERT, "chloé@corp.example", CARL)
    given[1] = given[1]._replace(recipients=[*given[1].recipients, ANNA])
    extensions = ("PIPELINING", "8BITMIME")
    async with smtp_server(lmtp=True, extensions=extensions) as server, opened(server) as courier:
        delivered = await told(courier, given)
    assert verdicts(delivered) == ["delivered", "permanent", "delivered", "permanent", "delivered"]
    both = delivered[1]
    assert not isinstance(both, Exception)
    assert both[ANNA].verdict == "delivered"
    assert subjects(server) == ["0", "1", "2", "4"]


async def test_a_server_out_of_order_fails_each() -> None:
    async with smtp_server(lmtp=True) as server, opened(server) as courier:
        server.answer("GREETING", *["554 5.3.2 closed"] * 3)
        delivered = await told(courier, posts(ANNA, BERT, CARL))
    assert [type(d) for d in delivered] == [Unreachable] * 3


@pytest.mark.parametrize("lmtp", [True, False])
async def test_of_what_is_missing_no_server_hears_and_no_session_is_cut(lmtp: bool) -> None:
    """Also where messages follow each other, and the next one would be announced."""
    given = posts(ANNA, BERT, CARL, ANNA, BERT)
    for n in (1, 2, 4):
        missing = content(chunks=[], error=SpoolMissing(str(n)))
        given[n] = given[n]._replace(content=missing)
    async with smtp_server(lmtp=lmtp) as server, opened(server) as courier:
        first = await told(courier, [MailObject(text(9), SENDER, [ANNA])])
        found = await told(courier, given)
    assert verdicts(first) == ["delivered"]
    assert [isinstance(each, SpoolMissing) for each in found] == [False, True, True, False, True]
    assert verdicts([found[0], found[3]]) == ["delivered", "delivered"]
    assert subjects(server) == ["0", "3", "9"]
    assert sum(command.startswith("MAIL") for command in server.commands) == 3
    assert server.connections == 1
