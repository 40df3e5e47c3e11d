"""Commands that are sent together, and servers that offer to take them so and do not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.deliverer.servers.pool import IDLE_SECONDS
from services.deliverer.servers.promise import WEEK
from services.deliverer.smtp.envelope_commands import FIRST_SECONDS, REST_SECONDS
from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.servers.smtp import DROP, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, SENDER, content, courier

Lines = Sequence[bytes]


@dataclass
class Careless:
    """A server that offers PIPELINING and takes commands as they come in packets, in its own way.

    Attributes:
        way: what it does with a packet of several commands; see ``_Careless``.
        packets: the commands of each packet.
        received: what came as messages.
        connections: how many there have been.
    """

    way: str
    packets: list[Lines] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def together(self) -> int:
        """How many packets had several commands."""
        return sum(len(lines) > 1 for lines in self.packets)


class _Careless(asyncio.Protocol):
    REPLIES = ((b"DATA", b"354 go on"), (b"QUIT", b"221 bye"), (b"", b"250 ok"))

    def __init__(self, state: Careless) -> None:
        self.state = state
        self.message: bytes | None = None
        self.owed: list[bytes] = []
        state.connections += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 ready\r\n")

    def data_received(self, data: bytes) -> None:
        if self.message is not None:
            self.message += data
            if self.message.endswith(b"\r\n.\r\n"):
                self.state.received.append(self.message)
                self.message = None
                self.say(b"250 taken")
            return
        lines = data.split(b"\r\n")[:-1]
        self.state.packets.append(lines)
        if len(lines) > 1:
            getattr(self, self.state.way)(lines)
        else:
            self.say(*self.owed, self.reply(lines[0]))
            self.owed = []

    def reply(self, line: bytes) -> bytes:
        if line.startswith((b"EHLO", b"LHLO")):
            return b"250-ready\r\n250 PIPELINING"
        self.message = b"" if line == b"DATA" else None
        return next(reply for verb, reply in self.REPLIES if line.startswith(verb))

    def say(self, *replies: bytes) -> None:
        self.transport.write(b"".join(reply + b"\r\n" for reply in replies))

    def loses_the_rest(self, lines: Lines) -> None:
        self.say(self.reply(lines[0]))

    def loses_all(self, lines: Lines) -> None:
        pass

    def answers_late(self, lines: Lines) -> None:
        self.say(self.reply(lines[0]))
        self.owed = [self.reply(line) for line in lines[1:-1]]

    def reads_one_line(self, lines: Lines) -> None:
        self.say(b"500 5.5.2 line too long")

    def finds_bad_syntax(self, lines: Lines) -> None:
        self.say(b"501 syntax error in parameters")

    def refuses_the_rest(self, lines: Lines) -> None:
        self.say(self.reply(lines[0]), *[b"503 5.5.1 bad sequence of commands"] * (len(lines) - 1))

    def refuses_data(self, lines: Lines) -> None:
        good = [self.reply(line) for line in lines[:-1]]
        self.say(*good, b"503 5.5.0 <DATA>: Data command rejected: Improper use of pipelining")

    def finds_nobody(self, lines: Lines) -> None:
        self.say(*[self.reply(line) for line in lines[:-1]], b"554 5.5.1 no valid recipients")

    def goes_out_of_turn(self, lines: Lines) -> None:
        self.say(*reversed([self.reply(line) for line in lines]))

    def says_yes_to_all(self, lines: Lines) -> None:
        self.say(*[b"250 ok"] * len(lines))

    def calls_it_a_fault(self, lines: Lines) -> None:
        self.say(b"554 SMTP synchronization error")
        self.transport.close()

    def says_goodbye(self, lines: Lines) -> None:
        self.say(b"421 4.7.0 improper command pipelining")
        self.transport.close()

    def hangs_up(self, lines: Lines) -> None:
        self.say(self.reply(lines[0]))
        self.transport.close()


WAYS = (
    "loses_the_rest",
    "loses_all",
    "answers_late",
    "reads_one_line",
    "finds_bad_syntax",
    "refuses_the_rest",
    "refuses_data",
    "finds_nobody",
    "goes_out_of_turn",
    "says_yes_to_all",
    "calls_it_a_fault",
    "says_goodbye",
    "hangs_up",
)


@asynccontextmanager
async def careless(way: str) -> AsyncIterator[Careless]:
    state = Careless(way)
    server = await asyncio.get_running_loop().create_server(lambda: _Careless(state), "127.0.0.1")
    state.port = server.sockets[0].getsockname()[1]
    async with server:
        yield state


@pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_does_not_keep_it_costs_one_fresh_connection_and_is_remembered(
    way: str, scheme: str
) -> None:
    async with careless(way) as server:
        url, clock = f"{scheme}://127.0.0.1:{server.port}?tls=none", ManualClock()
        async with courier(url, clock, patience=0.005) as smtp:
            first = await smtp.deliver(content(id_="1"), SENDER, [ANNA])
            await clock.advance(IDLE_SECONDS)
            second = await smtp.deliver(content(id_="2"), SENDER, [BERT])
    assert (first[ANNA].verdict, second[BERT].verdict) == ("delivered", "delivered")
    assert len(server.received) == 2
    assert (server.together, server.connections) == (1, 3)


async def test_after_a_week_it_is_tried_again() -> None:
    clock = ManualClock()
    async with (
        careless("refuses_the_rest") as server,
        courier(f"smtp://127.0.0.1:{server.port}?tls=none", clock) as smtp,
    ):
        for _ in range(2):
            await smtp.deliver(content(), SENDER, [ANNA])
        assert server.together == 1
        await clock.advance(WEEK)
        await smtp.deliver(content(), SENDER, [ANNA])
    assert (server.together, len(server.received)) == (2, 3)


def test_the_fall_back_does_not_take_minutes() -> None:
    assert max(FIRST_SECONDS, REST_SECONDS) <= 60


@pytest.mark.parametrize("reply", ["500 5.5.2 what", "503 5.5.1 no MAIL"])
async def test_what_is_refused_all_the_same_is_not_held_against_pipelining(reply: str) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer(f"RCPT {ANNA}", reply, reply)
        refused = await smtp.deliver(content(), SENDER, [ANNA])
        await smtp.deliver(content(), SENDER, [BERT])
        async with courier(server.url) as other:
            await other.deliver(content(), SENDER, [BERT])
    assert refused[ANNA].verdict == "temporary"
    assert reply in refused[ANNA].reply
    assert [m.recipients for m in server.received] == [[BERT], [BERT]]


async def test_a_connection_that_broke_is_not_held_against_a_server_that_kept_it() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        server.answer(f"RCPT {ANNA}", DROP, DROP, DROP)
        with pytest.raises(Unreachable, match="closed the connection"):
            await smtp.deliver(content(), SENDER, [ANNA])
    assert len(server.received) == 1


@pytest.mark.parametrize(("option", "together"), [("", 1), ("&pipelining=none", 0)])
async def test_it_can_be_turned_off(option: str, together: int) -> None:
    async with careless("loses_the_rest") as server:
        url = f"smtp://127.0.0.1:{server.port}?tls=none{option}"
        async with courier(url, patience=0.005) as smtp:
            await smtp.deliver(content(), SENDER, [ANNA])
    assert (server.together, len(server.received)) == (together, 1)
