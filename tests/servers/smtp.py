"""A mail server that does what it is told: SMTP or LMTP, for what no decent server can show.

It answers correctly by itself. A test puts other answers into ``script``: each is used once, in
order, and then it is correct again. It runs in the test's own event loop.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from scramp import ScramException, ScramMechanism

from tests.servers.listening import listening

DROP = "drop"
"""Close the connection without a word."""

HANG = "hang"
"""Never say anything again, and keep the connection."""

Action = str | tuple[str, ...]
EXTENSIONS = ("PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


@dataclass
class Received:
    """One message: envelope, the parameters of MAIL, and the data between 354 and the final dot.

    Attributes:
        raw: the data as sent, dots doubled.
        accepted: whether the answer to it was positive, for LMTP to any recipient.
    """

    sender: str
    parameters: list[str]
    recipients: list[str]
    raw: bytes
    accepted: bool = False
    tls: bool = False

    @property
    def data(self) -> bytes:
        """The message, its doubled dots undone."""
        return (b"\r\n" + self.raw).replace(b"\r\n..", b"\r\n.")[2:]


@dataclass
class SmtpServer:
    """A running instance.

    Attributes:
        script: answers by ``GREETING``, a verb, ``RCPT address``, ``END`` or (for LMTP, one of the
            replies after the dot) ``END address``. An answer is a reply, DROP, HANG, or a tuple of
            these, done one after the other.
        commands: every command line received, of all connections.
        received: every message of which the final dot came.
        connections: how many there have been.
        open: how many there are.
        most: how many connections it lets in at a time; None for any number.
        beyond: what it does to more; None lets them wait, ungreeted, until another has left.
        rule: what it does in place of the normal thing, by the keys of the script; asked after it,
            with how many messages this connection has carried.
        slow: seconds that it takes over each message, after the final dot.
        writers: one for each connection there has been, to say something unasked.
    """

    extensions: tuple[str, ...] = EXTENSIONS
    lmtp: bool = False
    context: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    mechanisms: str = "PLAIN LOGIN"
    unable: tuple[str, ...] = ()  # mechanisms that are offered, and refuse the right password
    script: dict[str, list[Action]] = field(default_factory=dict)
    most: int | None = None
    beyond: str | None = None
    rule: Callable[[str, int], Action | None] = lambda key, carried: None
    slow: float = 0.0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    commands: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'lmtp' if self.lmtp else 'smtp'}://127.0.0.1:{self.port}"

    def answer(self, to: str, *actions: Action) -> None:
        """Add answers to the script."""
        self.script.setdefault(to, []).extend(actions)

    def scripted(self, *keys: str, carried: int = 0) -> Action | None:
        """Take the next answer for the first of these keys that has one, or ask the rule."""
        for key in keys:
            if self.script.get(key):
                return self.script[key].pop(0)
        return next((told for k in keys if (told := self.rule(k, carried)) is not None), None)


@contextlib.asynccontextmanager
async def smtp_server(
    *, implicit_tls: bool = False, path: str | None = None, **options: object
) -> AsyncIterator[SmtpServer]:
    """Run a server until the block ends.

    Args:
        implicit_tls: TLS from the first byte, by ``context``; otherwise STARTTLS is offered if
            there is a context.
        path: listen on this local socket rather than on a free port.
        options: attributes of the SmtpServer.
    """
    state = SmtpServer(**options)  # type: ignore[arg-type]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state.writers.append(writer)
        session = _Session(state, reader, writer, implicit_tls)
        while state.most is not None and state.open >= state.most:
            if state.beyond is not None:
                state.answer("BEYOND", (state.beyond, DROP))
                await session.say("", "BEYOND")
            state.left.clear()
            await state.left.wait()
        state.open += 1
        try:
            await session.run()
        finally:
            state.open -= 1
            state.left.set()

    context = state.context if implicit_tls else None
    async with listening(serve, path=path, context=context) as state.port:
        yield state


class _Dropped(ConnectionError):
    pass


class _Session:
    def __init__(
        self,
        state: SmtpServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tls: bool,
    ) -> None:
        self.state, self.reader, self.writer, self.tls = state, reader, writer, tls
        self.mail: tuple[str, list[str]] | None = None
        self.recipients: list[str] = []
        self.carried = 0

    async def run(self) -> None:
        await self.say("220 mail.corp.example ready", "GREETING")
        while line := (await self.reader.readline()).decode().rstrip("\r\n"):
            self.state.commands.append(line)
            verb = line.split(" ")[0].upper()
            handler = getattr(self, f"do_{verb.lower()}", None)
            if handler is None:
                await self.say("502 5.5.1 not implemented", verb)
            else:
                await handler(line)

    async def say(self, normal: str, *keys: str) -> str:
        """Do what the script says, or the normal thing; return the first digit of the reply."""
        action = self.state.scripted(*keys, carried=self.carried)
        steps = action if isinstance(action, tuple) else (normal if action is None else action,)
        for step in steps:
            if step == DROP:
                raise _Dropped
            if step == HANG:
                await asyncio.Event().wait()
            self.writer.write(step.encode() + b"\r\n")
            await self.writer.drain()
        return steps[0][0]

    async def do_ehlo(self, line: str) -> None:
        await self.hello("EHLO", not self.state.lmtp)

    async def do_lhlo(self, line: str) -> None:
        await self.hello("LHLO", self.state.lmtp)

    async def do_helo(self, line: str) -> None:
        await self.say("250 mail.corp.example", "HELO")

    async def hello(self, verb: str, right: bool) -> None:
        if not right:
            await self.say("500 5.5.1 wrong protocol", verb)
            return
        offered = list(self.state.extensions)
        if self.state.context is not None and not self.tls:
            offered.append("STARTTLS")
        if self.state.login is not None:
            offered.append(f"AUTH {self.state.mechanisms}")
        lines = ["mail.corp.example", *offered]
        text = "\r\n".join(f"250-{x}" for x in lines[:-1]) + f"\r\n250 {lines[-1]}"
        await self.say(text.lstrip("\r\n"), verb)

    async def do_starttls(self, line: str) -> None:
        if await self.say("220 2.0.0 go ahead", "STARTTLS") == "2":
            assert self.state.context is not None
            await self.writer.start_tls(self.state.context)
            self.tls = True

    async def do_auth(self, line: str) -> None:
        _, mechanism, *initial = line.split(" ")
        right = await self.knows_password(mechanism, initial)
        await self.say("235 2.7.0 welcome" if right else "535 5.7.8 wrong password", "AUTH")

    async def knows_password(self, mechanism: str, initial: list[str]) -> bool:
        user, password = self.state.login or ("", "")
        if mechanism in self.state.unable:
            await self.ask("<1@mail>")
            return False
        if mechanism == "XOAUTH2":
            said = base64.b64decode(initial[0]).decode()
            if said == f"user={user}\1auth=Bearer {password}\1\1":
                return True
            await self.ask('{"status": "401"}')
            return False
        if mechanism == "PLAIN":
            return base64.b64decode(initial[0]).decode() == f"\0{user}\0{password}"
        if mechanism == "CRAM-MD5":
            digest = hmac.new(password.encode(), b"<1@mail>", hashlib.md5).hexdigest()
            return await self.ask("<1@mail>") == f"{user} {digest}"
        if mechanism.startswith("SCRAM"):
            return await self.scram(mechanism, base64.b64decode(initial[0]).decode(), password)
        return [await self.ask(prompt) for prompt in ("Username:", "Password:")] == [user, password]

    async def scram(self, mechanism: str, first: str, password: str) -> bool:
        server = ScramMechanism(mechanism)
        known = server.make_auth_info(password)
        exchange = server.make_server(lambda _: known)
        exchange.set_client_first(first)
        try:
            exchange.set_client_final(await self.ask(exchange.get_server_first()))
        except ScramException:
            return False
        return await self.ask(exchange.get_server_final()) == ""

    async def ask(self, prompt: str) -> str:
        await self.say("334 " + base64.b64encode(prompt.encode()).decode())
        return base64.b64decode(await self.reader.readline()).decode()

    async def do_mail(self, line: str) -> None:
        if self.mail is not None:
            await self.say("503 5.5.1 nested MAIL", "NESTED")
            return
        address, *parameters = line[len("MAIL FROM:") :].split(" ")
        if await self.say("250 2.1.0 sender ok", f"MAIL {address[1:-1]}", "MAIL") == "2":
            self.mail = address[1:-1], parameters

    async def do_rcpt(self, line: str) -> None:
        address = line[len("RCPT TO:") :].split(" ")[0][1:-1]
        normal = "503 5.5.1 no MAIL" if self.mail is None else "250 2.1.5 recipient ok"
        if await self.say(normal, f"RCPT {address}", "RCPT") == "2":
            self.recipients.append(address)

    async def do_data(self, line: str) -> None:
        normal = "354 go on" if self.recipients else "503 5.5.1 no valid recipients"
        if await self.say(normal, "DATA") != "3":
            return
        lines = []
        while (line_of_data := await self.reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line_of_data)
        sender, parameters = self.mail or ("", [])
        message = Received(sender, parameters, self.recipients, b"".join(lines), tls=self.tls)
        self.state.received.append(message)
        self.mail, self.recipients = None, []
        await asyncio.sleep(self.state.slow)
        normal = "250 2.0.0 taken" if message.recipients else "554 5.5.1 no valid recipients"
        for recipient in message.recipients if self.state.lmtp else ("",):
            message.accepted |= await self.say(normal, f"END {recipient}", "END") == "2"
        self.carried += message.accepted

    async def do_rset(self, line: str) -> None:
        self.mail, self.recipients = None, []
        await self.say("250 2.0.0 reset", "RSET")

    async def do_quit(self, line: str) -> None:
        await self.say("221 2.0.0 bye", "QUIT")
        raise _Dropped
