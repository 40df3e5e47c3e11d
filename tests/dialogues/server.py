"""The POP3 server of a dialogue: by the book, but for what the dialogue says.

It runs in threads of the test's own process, one for each connection. It judges its client too:
what he sends out of turn, or together without being told that he may, is in ``faults``.
"""

import base64
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from select import select

from tests.dialogues.book import Book, Lying, stuffed
from tests.dialogues.script import Act, Expected, Rule, Step, Transcript, plain

PATIENCE = 30.0
"""Seconds that the server waits for its client, so that no test hangs for ever."""

IDLE = 0.002
"""Seconds without a further command after which what is due is written, where it is glued."""

GREETING = "greeting"
QUESTIONS = ("CAPA", "STAT", "LIST", "UIDL", "TOP", "NOOP", "UTF8")
"""Commands that change nothing: a transcript need not have them."""


class Writing(Enum):
    """How answers go over the wire."""

    WHOLE = "whole"
    BY_BYTE = "byte by byte"
    GLUED = "glued"  # all that is due in one write


class Ended(Exception):
    """The session is over, and the connection closed."""


@dataclass
class Server:
    """One maildrop, served to anybody who logs in.

    Attributes:
        maildrop: what lies in it; a QUIT takes out what it deletes.
        sizes: what LIST says of a message in place of the truth, by name.
        capabilities: lines of CAPA, None where it is refused.
        rules: what is said to a command in place of the regular answer; the first one counts.
        transcripts: the sessions to come that are told word by word.
        sent: what clients have sent, each command with a name for its number where it has one.
        together: how many commands were at hand at once, at the most.
        faults: what clients did wrong.
        answers: what clients have said to challenges, and to APOP, as it stood on the wire.
    """

    writing: Writing = Writing.WHOLE
    maildrop: list[Lying] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    capabilities: Sequence[str] | None = ()
    rules: list[Rule] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    sessions: int = 0
    together: int = 0
    faults: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    port: int = 0
    used: set[int] = field(default_factory=set)

    @contextlib.contextmanager
    def serving(self) -> Iterator["Server"]:
        """Listen until the block ends."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listening,))
            thread.start()
            try:
                yield self
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _accept(self, listening: socket.socket) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self.sessions += 1
                transcript = self.transcripts.pop(0) if self.transcripts else None
                talk = _Talk(self, connection, transcript)
                threads.append(threading.Thread(target=talk.run))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def rule(self, commands: Sequence[str]) -> Rule | None:
        """Return the rule for a command, which is given in each of its forms."""
        for command in commands:
            for rule in self.rules:
                if rule.command == command and id(rule) not in self.used:
                    if rule.once:
                        self.used.add(id(rule))
                    return rule
        return None


class _Wire:
    """What goes out, in the pieces that the play asks for."""

    def __init__(self, connection: socket.socket, writing: Writing) -> None:
        self._connection = connection
        self._writing = writing
        self._due = b""

    def say(self, data: bytes) -> None:
        if self._writing is Writing.GLUED:
            self._due += data
        elif self._writing is Writing.WHOLE:
            self._connection.sendall(data)
        else:
            for at in range(len(data)):
                self._connection.sendall(data[at : at + 1])

    def flush(self) -> None:
        due, self._due = self._due, b""
        if due:
            self._connection.sendall(due)


class _Talk:
    """One connection."""

    def __init__(
        self, server: Server, connection: socket.socket, transcript: Transcript | None
    ) -> None:
        self._server = server
        self._connection = connection
        self._wire = _Wire(connection, server.writing)
        self._transcript = transcript
        self._received = b""
        self._held: list[bytes] = []
        self._asked: deque[str] = deque()  # RETR and TOP that a transcript has not answered yet
        self._book = Book(server)
        self._may_pipeline = False

    def run(self) -> None:
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.settimeout(PATIENCE)
        with self._connection, contextlib.suppress(Ended, OSError):
            self._open()
            while (command := self._line()) is not None:
                self._judge(command)
                self._answer(command)
        self._complain_of_the_rest()

    def _open(self) -> None:
        if self._transcript is None:
            self._regular_or_rule(GREETING)
        else:
            self._follow(GREETING)

    def _line(self) -> str | None:
        """Return the next line of the client, None where he has gone."""
        while b"\n" not in self._received:
            if self._server.writing is not Writing.GLUED or not self._more_at_once():
                self._wire.flush()
            data = self._connection.recv(65_536)
            if not data:
                return None
            self._received += data
        self._server.together = max(self._server.together, self._received.count(b"\n"))
        line, _, self._received = self._received.partition(b"\n")
        return line.removesuffix(b"\r").decode("latin-1")

    def _more_at_once(self) -> bool:
        return bool(select([self._connection], [], [], IDLE)[0])

    def _judge(self, command: str) -> None:
        if command.startswith("APOP "):
            self._server.answers.append(command.rpartition(" ")[2])
        self._server.sent.append(self._named(command))
        if self._received and not self._may_pipeline and self._transcript is None:
            self._fault(f"sent along with {command!r}, without PIPELINING: {self._received!r}")

    def _fault(self, what: str) -> None:
        self._server.faults.append(what)

    def _named(self, command: str) -> str:
        """Return a command with the name of its message in place of the number."""
        verb, _, rest = command.partition(" ")
        number, _, more = rest.partition(" ")
        lying = self._book.lying(number)
        if verb == "PASS" or lying is None:
            return verb if verb == "PASS" else command
        return f"{verb} {lying.name} {more}".strip()

    # Transcripts

    def _answer(self, command: str) -> None:
        if not self._transcript:
            self._regular_or_rule(command)
            return
        at = self._expected(command)
        if at is not None:
            del self._transcript[: at + 1]
            self._follow(command)
        elif command.partition(" ")[0].upper() in QUESTIONS:
            self._regular_or_rule(command)
        else:
            self._fault(f"{command!r} where this was to come: {self._transcript[0]!r}")
            raise Ended

    def _expected(self, command: str) -> int | None:
        """Return where in the transcript this command is the next."""
        assert self._transcript is not None
        for at, step in enumerate(self._transcript):
            if not isinstance(step, Expected):
                return None
            if fnmatchcase(command, step.pattern):
                return at
            if step.required:
                return None
        return None

    def _follow(self, command: str) -> None:
        """Say what the transcript has up to the next command, which may have been sent already."""
        assert self._transcript is not None
        if command.startswith(("RETR", "TOP")):
            self._asked.append(command)
        steps: list[Step] = []
        while self._transcript and not isinstance(self._transcript[0], Expected):
            steps.append(self._transcript.pop(0))  # type: ignore[arg-type]
        if not steps and command.startswith("DELE"):
            self._book.answer(command)  # it is answered with what came after it: taken for +OK
        self._perform(steps, command)

    def _complain_of_the_rest(self) -> None:
        due = [s for s in self._transcript or () if isinstance(s, Expected) and s.required]
        if due:
            self._fault(f"the client left, and this was to come: {due[0].pattern!r}")

    # The answers

    def _regular_or_rule(self, command: str) -> None:
        verb = command.partition(" ")[0].upper()
        rule = self._server.rule(list(dict.fromkeys([command, self._named(command), verb])))
        self._perform([Act("book")] if rule is None else rule.steps, command)

    def _perform(self, steps: Sequence[Step], command: str) -> None:
        """Say and do what the answer to a command consists of."""
        verb = command.partition(" ")[0].upper()
        if Act("book") not in steps:
            self._take_effect(verb, steps, command)
        said = b""
        for step in steps:
            if isinstance(step, bytes) and verb == "AUTH" and _is_challenge(step):
                self._ask(said + step)
                said = b""
            elif isinstance(step, bytes):
                said += step
                if step.startswith(b"-ERR") and self._asked:
                    self._asked.popleft()
            elif step.name in _SAYING:
                said += _SAYING[step.name](self, step.argument or command)
            elif step.name == "hold":
                self._held.append(said)
                return
            else:
                self._wire.say(said)
                said = b""
                _ACTING[step.name](self)
        if verb == "CAPA":
            self._may_pipeline = b"PIPELINING" in said.upper()
        self._wire.say(said + b"".join(self._held))
        self._held.clear()
        if verb == "QUIT":
            self._drop()

    def _ask(self, challenge: bytes) -> None:
        """Say a challenge, and take the answer."""
        self._wire.say(challenge)
        answer = self._line()
        if answer is None:
            raise Ended
        self._server.answers.append(answer)
        self._server.sent.append(f"answer {_decoded(answer)}".strip())

    def _take_effect(self, verb: str, steps: Sequence[Step], command: str) -> None:
        """Do what the command asks for, where it is answered +OK, in whatever words."""
        words = [step for step in steps if isinstance(step, bytes)]
        said = b"".join(words)
        if verb in ("AUTH", "APOP") and words[-1:] and words[-1].upper().startswith(b"+OK"):
            self._book.answer("PASS")
        if verb in ("PASS", "DELE", "RSET", "QUIT") and said.lstrip().upper().startswith(b"+OK"):
            self._book.answer(command)

    def _message(self, name: str) -> bytes:
        lying = next((m for m in self._book.view if m.name == name), None) or self._book.lying(name)
        assert lying is not None, f"<message {name}> does not lie in the maildrop"
        return stuffed(lying.raw)

    def _of_a_log(self, count: str) -> bytes:
        """Return the lines of the message that was asked for; a log has only their bytes."""
        command = self._asked.popleft() if self._asked else ""
        answer = self._book.answer(command).partition(b"\r\n")[2].removesuffix(b".\r\n")
        return answer or stuffed(plain(count, int(count))).removesuffix(b".\r\n")

    def _echo(self, _: str) -> bytes:
        """Refuse the last answer with what it was, as it came and less its base64."""
        answer = self._server.answers[-1]
        return f"-ERR cannot read {answer} ({_decoded(answer)})\r\n".encode()

    def _drop(self) -> None:
        """End the session, so that what was said still arrives."""
        self._wire.flush()
        self._connection.shutdown(socket.SHUT_WR)
        self._drain()
        raise Ended

    def _reset(self) -> None:
        self._wire.flush()
        linger = struct.pack("ii", 1, 0)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise Ended

    def _hang(self) -> None:
        self._wire.flush()
        self._drain()
        raise Ended

    def _endless(self) -> None:
        """Say a line that has no end, until the client leaves."""
        self._wire.flush()
        with contextlib.suppress(OSError):
            while True:
                self._connection.sendall(b"x" * 65_536)
        raise Ended

    def _drain(self) -> None:
        while self._connection.recv(65_536):
            pass

    def _discard(self) -> None:
        self._received = b""


def _is_challenge(line: bytes) -> bool:
    return line.startswith(b"+") and not line.upper().startswith(b"+OK")


def _decoded(answer: str) -> str:
    """Return an answer to a challenge less its base64, on one line; as it is, where it has none."""
    try:
        decoded = base64.b64decode(answer, validate=True).decode("utf-8")
    except ValueError:
        return answer
    return decoded.encode("unicode_escape").decode()


_SAYING: Mapping[str, Callable[[_Talk, str], bytes]] = {
    "book": lambda talk, command: talk._book.answer(command),
    "message": _Talk._message,
    "bytes": _Talk._of_a_log,
    "echo": _Talk._echo,
}
_ACTING: Mapping[str, Callable[[_Talk], None]] = {
    "drop": _Talk._drop,
    "reset": _Talk._reset,
    "hang": _Talk._hang,
    "endless": _Talk._endless,
    "discard": _Talk._discard,
    "commit": lambda talk: talk._book.commit(),
}
