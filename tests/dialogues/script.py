"""Reads a dialogue: a text file of what a POP3 server says, and of what has to become of the mail.

How one is written stands in README.md beside this file. A line that means nothing is refused, with
its number: a check that is not made must not look like one that holds.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CAPABILITIES = ("USER", "UIDL", "TOP", "PIPELINING", "RESP-CODES")
"""What the server offers unless the dialogue says otherwise."""

ACTS = (
    *("drop", "reset", "hang", "endless", "hold", "discard", "commit"),
    *("book", "message", "bytes", "echo"),
)
"""What can stand in angle brackets in place of a line of the server."""

CHECKS = (
    *("delivered", "left", "quarantined", "failed", "retrying", "exit", "says", "not says"),
    *("accounts", "sent", "sent once", "not sent", "sessions", "pipelined", "summary"),
)
"""What can be asked after a poll."""


class Act(NamedTuple):
    """Something that the server does, such as to hang; with what, if anything."""

    name: str
    argument: str = ""


Step = bytes | Act
"""What the server says, exactly; or does."""


@dataclass
class Rule:
    """What the server says to a command, in place of the regular answer.

    Attributes:
        command: the whole command line, its verb alone, or ``greeting``.
        once: only the first time.
    """

    command: str
    once: bool
    steps: list[Step] = field(default_factory=list)


class Expected(NamedTuple):
    """A command that the client must send next, ``*`` in it for anything; or may."""

    pattern: str
    required: bool


Transcript = list[Step | Expected]
"""A session from its greeting to its end, in its order."""


@dataclass
class Poll:
    """One ``run --once``: how things stand before it, and what is looked at after it.

    Attributes:
        settings: keys that have to be set before it, in their order.
        rules: what the server says in this poll.
        transcripts: its first sessions, where they are told word by word.
        checks: what has to be true, each by its key.
    """

    settings: list[tuple[str, str]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    checks: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Dialogue:
    """A whole file.

    Attributes:
        start: what holds for every poll: settings and rules.
        messages: those that the file spells out, by name; CRLF line ends.
        polls: in their order.
        without: capabilities without which it is played once more.
    """

    start: Poll = field(default_factory=Poll)
    messages: dict[str, bytes] = field(default_factory=dict)
    polls: list[Poll] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


class Unreadable(Exception):
    """A line of a dialogue that means nothing."""


def read(path: Path) -> Dialogue:
    """Read a dialogue.

    Raises:
        Unreadable: a line means nothing.
    """
    reader = _Reader()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            reader.line(line)
        except (ValueError, SyntaxError) as error:
            raise Unreadable(f"{path}:{number}: {line.strip()}: {error}") from error
    dialogue = reader.dialogue
    last = dict(dialogue.polls[-1].checks) if dialogue.polls else {}
    for key in ("delivered", "left"):
        if key not in last:
            raise Unreadable(f"{path}: the last poll has no line '{key}:'")
    return dialogue


def _of_a_log(line: str) -> str:
    """Return what a line of a log from ``--debug`` tells of the dialogue; "" for nothing."""
    event = str(json.loads(line)["event"])
    return event if event[:2] in _LINES else ""


class _Reader:
    def __init__(self) -> None:
        self.dialogue = Dialogue()
        self._poll = self.dialogue.start
        self._says: list[Step] | Transcript | None = None
        self._transcript: Transcript | None = None
        self._message = ""

    def line(self, line: str) -> None:
        line = _of_a_log(line) if line.startswith('{"') else line
        if not line.strip() or line.startswith("#"):
            return
        if line.startswith("=="):
            self._heading(line.strip("= "))
        elif line[:2] in _LINES:
            _LINES[line[:2]](self, line[2:].removeprefix(" "))
        else:
            key, colon, value = line.partition(":")
            if not colon:
                raise ValueError("expected a key and a colon")
            self._key(key.strip(), value.strip())

    def _heading(self, heading: str) -> None:
        self._says = self._transcript = None
        if heading == "poll":
            self._poll = Poll()
            self.dialogue.polls.append(self._poll)
        elif heading == "session" and self.dialogue.polls:
            self._says = self._transcript = []
            self._poll.transcripts.append(self._transcript)
        else:
            raise ValueError("expected '== poll', or '== session' in a poll")

    def _key(self, key: str, value: str) -> None:
        self._says = self._transcript = None
        first, _, rest = key.partition(" ")
        if key == "without":
            self.dialogue.without += value.split()
        elif first == "message":
            self._declare(rest, value)
        elif first == "on" or key.startswith("once on "):
            self._rule(key, value)
        elif first in SETTINGS and bool(rest) == (first == "size"):
            self._poll.settings.append((key, value))
        elif key in CHECKS and self.dialogue.polls:
            self._poll.checks.append((key, value))
        else:
            raise ValueError(f"what is '{key}'?")

    def _declare(self, name: str, value: str) -> None:
        size = re.fullmatch(r"(\d+) bytes", value)
        if value and size is None:
            raise ValueError("expected 'N bytes', or nothing and lines 'M: ...'")
        self._message = name
        self.dialogue.messages[name] = plain(name, int(size[1])) if size else b""

    def _rule(self, key: str, value: str) -> None:
        rule = Rule(key.partition("on ")[2], key.startswith("once "))
        self._poll.rules.append(rule)
        self._says = rule.steps
        if value:
            rule.steps.append(_step(value))

    def _server(self, text: str) -> None:
        self._server_steps().append(_step(text))

    def _server_raw(self, text: str) -> None:
        self._server_steps().append(_raw(text))

    def _server_steps(self) -> list[Step] | Transcript:
        if self._says is None:
            raise ValueError("it stands neither in a session nor after 'on ...:'")
        return self._says

    def _client(self, text: str) -> None:
        self._expect(Expected(text, required=True))

    def _client_may(self, text: str) -> None:
        self._expect(Expected(text, required=False))

    def _expect(self, expected: Expected) -> None:
        if self._transcript is None:
            raise ValueError("it does not stand in a session")
        self._transcript.append(expected)

    def _text(self, text: str) -> None:
        self._append(text.encode() + b"\r\n")

    def _text_raw(self, text: str) -> None:
        self._append(_raw(text))

    def _append(self, text: bytes) -> None:
        if not self._message:
            raise ValueError("it does not stand after 'message NAME:'")
        self.dialogue.messages[self._message] += text


SETTINGS = ("account", "settings", "maildrop", "capa", "size", "later", "run")
"""What can be set, for every poll or before one; ``size`` with the name of a message after it."""

_LINES: dict[str, Callable[[_Reader, str], None]] = {
    "S:": _Reader._server,
    "S|": _Reader._server_raw,
    "C:": _Reader._client,
    "C?": _Reader._client_may,
    "M:": _Reader._text,
    "M|": _Reader._text_raw,
}


def _step(text: str) -> Step:
    found = re.fullmatch(r"<(\w+)(?: (.+))?>", text)
    if found is None:
        return text.encode() + b"\r\n"
    if found[1] not in ACTS:
        raise ValueError(f"expected one of {', '.join(ACTS)} in the angle brackets")
    return Act(found[1], found[2] or "")


def _raw(text: str) -> bytes:
    escaped = text.replace('"', '\\"')
    value: str = ast.literal_eval(f'"{escaped}"')
    return value.encode("latin-1")


def plain(name: str, size: int = 0) -> bytes:
    """Return an ordinary message, of so many bytes if it is longer than its header."""
    mark = name.lower()
    head = (
        f"Return-Path: <{mark}@example.net>\r\nFrom: {name} <{mark}@example.net>\r\n"
        f"To: box@example.net\r\nSubject: {name}\r\nMessage-ID: <{name}@example.net>\r\n"
        f"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\nThis is {name}.\r\n"
    ).encode()
    line = b"This line is one of many that fill a message up to a certain size.\r\n"
    room = size - len(head)
    if room <= 2:
        return head
    lines = line * ((room - 2) // len(line))
    return head + lines + b"x" * (room - 2 - len(lines)) + b"\r\n"


def names(value: str) -> Sequence[str]:
    """Return the names that a line lists; a dash stands for none."""
    return () if value == "-" else value.split()


def files(folder: Path) -> Iterator[Path]:
    """Yield the dialogues below a folder."""
    yield from sorted(folder.rglob("*.txt"))
