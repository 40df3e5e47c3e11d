"""An IMAP server that does what it is told, for what no decent server can show.

It answers correctly by itself, with LITERAL+, UIDPLUS, MULTIAPPEND and, where it is told to offer
that, Gmail's labels and UTF-8. A test puts other answers into ``script``: each is used once, in
order, and then it is correct again. It runs in the test's own event loop.
"""

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.servers.listening import listening

DROP = "drop"
"""Close the connection without a word."""

HANG = "hang"
"""Never say anything again, and keep the connection."""

STORE = "store"
"""Do what was asked for, and say nothing of it."""

Action = str | tuple[str, ...]
USUAL = "IMAP4rev1 LITERAL+ UIDPLUS MULTIAPPEND NAMESPACE ID ENABLE SASL-IR AUTH=PLAIN"
_LITERAL = re.compile(rb"(~?)\{(\d+)(\+?)\}$")
_APPEND = re.compile(rb'(?:\(([^)]*)\) )?(?:"([^"]*)" )?(UTF8 \( ?)?$')


@dataclass
class Stored:
    """A message in a folder.

    Attributes:
        binary: it came as literal8; ``utf8``: with the UTF8 extension of APPEND.
        at_once: it came without asking first.
    """

    data: bytes
    flags: str
    date: str
    binary: bool = False
    utf8: bool = False
    at_once: bool = False
    labels: str = ""


@dataclass
class ImapServer:
    """A running instance.

    Attributes:
        offers: its capabilities.
        login: user name and password; ``token``: the access token in place of it, by XOAUTH2.
        folders: what lies in them, by name as it stands in commands; APPEND makes none.
        delimiter: and prefix, of NAMESPACE.
        script: answers by ``GREETING``, a verb, ``GO`` (in place of ``+``) or ``END`` (when an
            APPEND is complete). An answer is what follows the tag; with ``* `` or ``+ `` before it,
            it is sent as it stands; DROP, HANG or STORE; or a tuple of these, one after the other.
        commands: every command line received, less tags and literals, of all connections.
        connections: how many there have been.
        most: how many connections may be logged in at a time; None for any number.
        finds: what SEARCH finds: ``it``, ``all`` or ``nothing``.
        broken_at: cut the connection after so many bytes of a literal; None for never.
    """

    offers: str = USUAL
    login: tuple[str, str] = ("anna", "secret")
    token: str = "token"
    explains: str = ""  # why a token is refused
    folders: dict[str, list[Stored]] = field(default_factory=lambda: {"INBOX": []})
    delimiter: str = "/"
    prefix: str = ""
    context: ssl.SSLContext | None = None
    script: dict[str, list[Action]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    inside: int = 0
    most: int | None = None
    broken_at: int | None = None
    finds: str = "it"
    port: int = 0

    @property
    def url(self) -> str:
        return f"imap://{self.login[0]}:{self.login[1]}@127.0.0.1:{self.port}"

    def answer(self, to: str, *actions: Action) -> None:
        """Add answers to the script."""
        self.script.setdefault(to, []).extend(actions)

    def verbs(self) -> list[str]:
        """Return the verbs of the commands that were received."""
        words = [line.split(" ") for line in self.commands]
        return [w[1] if w[0] == "UID" else w[0] for w in words]


@contextlib.asynccontextmanager
async def imap_server(**options: object) -> AsyncIterator[ImapServer]:
    """Run a server until the block ends; options are attributes of the ImapServer."""
    state = ImapServer(**options)  # type: ignore[arg-type]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        session = _Session(state, reader, writer)
        try:
            await session.run()
        finally:
            state.inside -= session.counted

    async with listening(serve) as state.port:
        yield state


class _Dropped(ConnectionError):
    pass


class _Session:
    def __init__(
        self, state: ImapServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.state, self.reader, self.writer = state, reader, writer
        self.tag, self.selected, self.tls, self.counted = "*", "", False, 0

    async def run(self) -> None:
        await self.say(f"* OK [CAPABILITY {self.offered}] ready", "GREETING")
        while line := await self.reader.readline():
            self.tag, _, command = line.decode().rstrip("\r\n").partition(" ")
            verb, _, rest = command.partition(" ")
            if verb == "UID":
                verb, _, rest = rest.partition(" ")
            if verb != "APPEND":
                self.state.commands.append(command)
            handler = getattr(self, f"do_{verb.lower()}", None)
            if handler is None:
                await self.say("BAD unknown command", verb)
            else:
                await handler(rest)

    @property
    def offered(self) -> str:
        tls = " STARTTLS" if self.state.context is not None and not self.tls else ""
        return self.state.offers + tls

    async def say(self, normal: str, *keys: str) -> bool:
        """Do what the script says, or the normal thing; return whether that was OK or STORE."""
        script = self.state.script
        action = next((script[key].pop(0) for key in keys if script.get(key)), normal)
        steps = action if isinstance(action, tuple) else (action,)
        for step in steps:
            if step == DROP:
                raise _Dropped
            if step == HANG:
                await asyncio.Event().wait()
            if step != STORE:
                line = step if step[:2] in ("* ", "+ ") else f"{self.tag} {step}"
                self.writer.write(line.encode() + b"\r\n")
                await self.writer.drain()
        return STORE in steps or any(s.startswith(("OK", "* OK", "+ ")) for s in steps)

    async def do_capability(self, rest: str) -> None:
        await self.say(f"* CAPABILITY {self.offered}")
        await self.say("OK done", "CAPABILITY")

    async def do_starttls(self, rest: str) -> None:
        if await self.say("OK go ahead", "STARTTLS"):
            assert self.state.context is not None
            await self.writer.start_tls(self.state.context)
            self.tls = True

    async def do_authenticate(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if not initial:
            await self.say("+ ")
            initial = (await self.reader.readline()).decode()
        if mechanism == "XOAUTH2":
            await self.let_in_by_token(base64.b64decode(initial).decode())
            return
        if mechanism != "PLAIN":
            await self.say("NO not that way", "AUTHENTICATE")
            return
        _, user, password = base64.b64decode(initial).decode().split("\0")
        await self.let_in((user, password))

    async def let_in_by_token(self, given: str) -> None:
        user, token = self.state.login[0], self.state.token
        if given == f"user={user}\1auth=Bearer {token}\1\1":
            await self.let_in(self.state.login)
            return
        said = json.dumps({"status": "401", "error_description": self.state.explains})
        await self.say("+ " + base64.b64encode(said.encode()).decode())
        assert await self.reader.readline() == b"\r\n"
        await self.say("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)")

    async def do_login(self, rest: str) -> None:
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
        while (found := _LITERAL.search(rest.encode())) is not None:
            await self.say("+ go on")
            words.append((await self.reader.readexactly(int(found[2]))).decode())
            rest = (await self.reader.readline()).decode().rstrip("\r\n")
        user, password = (re.sub(r"\\(.)", r"\1", word) for word in words)
        await self.let_in((user, password))

    async def let_in(self, given: tuple[str, str]) -> None:
        if self.state.most is not None and self.state.inside >= self.state.most:
            await self.say("NO [ALERT] Too many simultaneous connections. (Failure)")
        elif given != self.state.login:
            await self.say("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "LOGIN")
        elif await self.say(f"OK [CAPABILITY {self.offered}] welcome", "LOGIN"):
            self.state.inside += 1
            self.counted = 1

    async def do_id(self, rest: str) -> None:
        await self.say("OK done", "ID")

    async def do_enable(self, rest: str) -> None:
        await self.say(f"* ENABLED {rest}")
        await self.say("OK done", "ENABLE")

    async def do_namespace(self, rest: str) -> None:
        await self.say(f'* NAMESPACE (("{self.state.prefix}" "{self.state.delimiter}")) NIL NIL')
        await self.say("OK done", "NAMESPACE")

    async def do_list(self, rest: str) -> None:
        await self.say(f'* LIST (\\Noselect) "{self.state.delimiter}" ""')
        await self.say("OK done", "LIST")

    async def do_create(self, rest: str) -> None:
        name = _unquoted(rest)
        if name in self.state.folders:
            await self.say("NO [ALREADYEXISTS] it is there", "CREATE")
        elif await self.say("OK made", "CREATE"):
            self.state.folders[name] = []

    async def do_subscribe(self, rest: str) -> None:
        await self.say("OK done", "SUBSCRIBE")

    async def do_select(self, rest: str) -> None:
        self.selected = _unquoted(rest)
        there = self.selected in self.state.folders
        await self.say("OK done" if there else "NO [NONEXISTENT] no such folder", "SELECT")

    async def do_examine(self, rest: str) -> None:
        self.selected = _unquoted(rest)
        there = self.state.folders.get(self.selected)
        await self.say(f"* {len(there or ())} EXISTS")
        normal = "NO [NONEXISTENT] no such folder" if there is None else "OK done"
        await self.say(normal, "EXAMINE")

    async def do_search(self, rest: str) -> None:
        _, name, value = rest.split(" ")
        line = f"{name}: {_unquoted(value)}".encode()
        messages = enumerate(self.state.folders[self.selected], 1)
        found = [str(uid) for uid, message in messages if line in message.data]
        if self.state.finds != "it":
            everything = range(1, len(self.state.folders[self.selected]) + 1)
            found = list(map(str, everything)) if self.state.finds == "all" else []
        await self.say(" ".join(["* SEARCH", *found]))
        await self.say("OK done", "SEARCH")

    async def do_fetch(self, rest: str) -> None:
        numbers, _, _ = rest.partition(" ")
        first, _, last = numbers.partition(":")
        some = range(int(first), int(last) + 1) if last else map(int, numbers.split(","))
        for number in some:
            data = self.state.folders[self.selected][number - 1].data
            found = re.search(rb"X-POP3-Connector-Id: .*\r\n", data)
            field = (b"" if found is None else found[0]) + b"\r\n"
            asked = b"BODY[HEADER.FIELDS (X-POP3-Connector-Id)]"
            self.writer.write(
                b"* %d FETCH (UID %d %s {%d}\r\n%s)\r\n"
                % (number, number, asked, len(field), field)
            )
        await self.say("OK done", "FETCH")

    async def do_store(self, rest: str) -> None:
        uids, _, labels = rest.split(" ", 2)
        if await self.say("OK done", "STORE"):
            first, _, last = uids.partition(":")
            for uid in range(int(first), int(last or first) + 1):
                self.state.folders[self.selected][uid - 1].labels = labels

    async def do_append(self, rest: str) -> None:
        name, _, rest = _split_name(rest)
        taken, shown = list[Stored](), [f'APPEND "{name}"']
        missing = name not in self.state.folders
        while rest.strip() or not taken:
            head, binary, size, at_once = _literal(rest)
            shown.append(rest.strip())
            found = _APPEND.match(head.strip(b" ") + b" " if head.strip(b" ") else b"")
            if not at_once:
                normal = "NO [TRYCREATE] no such folder" if missing else "+ go on"
                if not await self.say(normal, "GO"):
                    self.state.commands.append(" ".join(shown))
                    return
            data = await self.literal(size)
            flags, date, utf8 = found.groups(b"") if found is not None else (b"", b"", b"")
            taken.append(
                Stored(data, flags.decode(), date.decode(), binary, bool(utf8), bool(at_once))
            )
            rest = (await self.reader.readline()).decode()
            if not rest:
                raise _Dropped
            rest = rest.removeprefix(")") if utf8 else rest
        self.state.commands.append(" ".join(shown))
        await self.end(name, taken)

    async def end(self, name: str, taken: list[Stored]) -> None:
        if name not in self.state.folders:
            await self.say("NO [TRYCREATE] no such folder", "END")
            return
        there = self.state.folders[name]
        first, last = len(there) + 1, len(there) + len(taken)
        uids = str(first) if first == last else f"{first}:{last}"
        script = self.state.script.get("END")
        if script and STORE in script[0]:
            there += taken
            await self.say("", "END")
        elif await self.say(f"OK [APPENDUID 7 {uids}] done", "END"):
            there += taken

    async def literal(self, size: int) -> bytes:
        if self.state.broken_at is not None and size > self.state.broken_at:
            await self.reader.readexactly(self.state.broken_at)
            self.state.broken_at = None
            raise _Dropped
        return await self.reader.readexactly(size)

    async def do_logout(self, rest: str) -> None:
        await self.say("* BYE", "LOGOUT")
        raise _Dropped


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text.strip('"'))


def _split_name(rest: str) -> tuple[str, str, str]:
    found = re.match(r'"((?:[^"\\]|\\.)*)" ?', rest)
    assert found is not None, rest
    return re.sub(r"\\(.)", r"\1", found[1]), "", rest[found.end() :]


def _literal(rest: str) -> tuple[bytes, bool, int, bytes]:
    line = rest.strip("\r\n").encode()
    found = _LITERAL.search(line)
    assert found is not None, rest
    return line[: found.start()], bool(found[1]), int(found[2]), found[3]
