"""Plays a dialogue: the product polls its server with ``run --once``, and all is looked at after.

Each poll is a process of its own over the embedded broker, delivering to a Maildir; queues, ledger
and clock go on from poll to poll. Whatever the dialogue is about, no poll may crash, show or
keep the password, leave messages in places that the dialogue does not name, or break the protocol.
"""

import base64
import contextlib
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared.settings.values import duration
from shared.supervision import DEFECT
from tests.dialogues.book import Lying
from tests.dialogues.script import CAPABILITIES, Dialogue, Poll, names, plain
from tests.dialogues.server import Server, Writing
from tests.flow.connector import below_prefix, lf
from tests.flow.forked import ForkedConnector

PASSWORD = "open-sesame"
NEVER = ("Traceback", "handler crashed", "unexpected error", DEFECT)
"""What no run may say."""

SECRETS = (
    PASSWORD,
    PASSWORD.encode().hex(),
    "".join(f"%{byte:02x}" for byte in PASSWORD.encode()),
    PASSWORD.replace("-", "%2d"),
    *(base64.b64encode(b" " * at + PASSWORD.encode())[4:-4].decode().lower() for at in range(3)),
)
"""The password as servers repeat it, in small letters: no run may say it, and no file hold it. In
base64 it may stand anywhere, so less its ends."""

LONG_ANSWER = 16
"""Characters of an answer to a challenge that are too many to stand elsewhere by chance."""

LIMIT = 120.0
"""Seconds that a run may take on the busiest machine."""


class Run(NamedTuple):
    """What came of one ``run --once``."""

    status: int
    text: str
    summary: Mapping[str, Any]


class Play:
    """One dialogue, played once.

    Args:
        without: a capability that the server does not offer this time.
    """

    def __init__(
        self, dialogue: Dialogue, folder: Path, writing: Writing, without: str = ""
    ) -> None:
        self._dialogue = dialogue
        self._without = without
        self._mail = folder / "mail"
        self._product = ForkedConnector(folder)
        self._server = Server(writing, capabilities=self._capabilities(CAPABILITIES))
        self._account: dict[str, object] = {}
        self._tables: dict[str, Any] = {}
        self._runs = 0
        self._options = ""

    def go(self) -> None:
        """Play it from its first poll to its last."""
        with self._server.serving(), contextlib.closing(self._product):
            self._set(self._dialogue.start)
            for poll in self._dialogue.polls:
                self._poll(poll)

    def _capabilities(self, offered: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(c for c in offered if c != self._without)

    # Before a poll

    def _set(self, poll: Poll) -> None:
        for key, value in poll.settings:
            first, _, name = key.partition(" ")
            _SETTINGS[first](self, name, value)

    def _set_account(self, _: str, value: str) -> None:
        self._account |= tomllib.loads(value)

    def _set_settings(self, _: str, value: str) -> None:
        for table, keys in tomllib.loads(value).items():
            self._tables.setdefault(table, {}).update(keys)

    def _set_maildrop(self, _: str, value: str) -> None:
        """Take ``A B=u2``: names of messages, each with its UIDL if that is not ``u-A``."""
        pairs = [word.partition("=")[::2] for word in names(value)]
        self._server.maildrop = [
            Lying(name, uidl or f"u-{name}", self._raw(name)) for name, uidl in pairs
        ]

    def _set_capa(self, _: str, value: str) -> None:
        offered = tuple(line.strip() for line in value.split(","))
        self._server.capabilities = None if value == "none" else self._capabilities(offered)

    def _set_size(self, name: str, value: str) -> None:
        self._server.sizes[name] = int(value)

    def _set_options(self, _: str, value: str) -> None:
        self._options = f" {value}"

    def _let_pass(self, _: str, value: str) -> None:
        self._product.clock.advance(duration(value))

    def _raw(self, name: str) -> bytes:
        return self._dialogue.messages.get(name, plain(name))

    # A poll

    def _poll(self, poll: Poll) -> None:
        self._set(poll)
        server = self._server
        server.rules = [*poll.rules, *self._dialogue.start.rules]
        server.transcripts = [list(transcript) for transcript in poll.transcripts]
        server.sent, server.sessions, server.together = [], 0, 0
        run = self._run()
        found = {
            key: check
            for key, value in poll.checks
            if (check := _CHECKS[key](self, run, value)) is not None
        }
        self._account_for(poll, run, found)
        assert not found, self._story(run, found)

    def _run(self) -> Run:
        account = {
            "name": "box",
            "host": "127.0.0.1",
            "port": self._server.port,
            "tls": "none",
            "username": "box",
            "password": PASSWORD,
            "mailbox": "box@corp.example",
        }
        self._product.configure(
            [account | self._account], f"maildir://{self._mail}", **self._tables
        )
        status, output = self._command(f"run --once --json{self._options}")
        text = output.decode(errors="replace")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"accounts"')]
        return Run(status, text, lines[-1] if lines else {})

    def _command(self, command: str) -> tuple[int, bytes]:
        """Run a command of the product; return its exit status and all that it printed."""
        self._runs += 1
        name = f"{command}#{self._runs}"
        self._product.start(name)
        status = self._product.processes[name].wait(LIMIT)
        del self._product.processes[name]
        return status, (self._product.folder / f"{name}.log").read_bytes()

    def _account_for(self, poll: Poll, run: Run, found: dict[str, str]) -> None:
        """Look at what has to hold after any poll."""
        checked = {key for key, _ in poll.checks}
        if "exit" not in checked and run.status != 0:
            found["exit"] = f"{run.status} in place of 0"
        for key in {"quarantined", "failed", "retrying"} - checked:
            if run.summary.get(key):
                found[key] = f"{run.summary[key]} messages that the dialogue does not tell of"
        if said := [words for words in NEVER if words in run.text]:
            found["never"] = f"it said {said}"
        if shown := self._secrets(run):
            found["secrets"] = f"{shown}"
        if self._server.faults:
            found["client"] = "; ".join(self._server.faults)
        if self._server.transcripts:
            found["sessions"] = f"{len(self._server.transcripts)} fewer than were told"

    def _secrets(self, run: Run) -> list[str]:
        """Return where the password was said, or is kept."""
        kept = {path.name: path for path in self._product.folder.rglob("*") if path.is_file()}
        del kept["connector.toml"]
        texts = {name: path.read_bytes().decode("latin-1") for name, path in kept.items()}
        texts["its output"] = run.text
        said = {answer.lower() for answer in self._server.answers if len(answer) >= LONG_ANSWER}
        return [
            f"{secret} in {name}"
            for name, text in texts.items()
            for secret in (*SECRETS, *said)
            if secret in text.lower()
        ]

    def _story(self, run: Run, found: Mapping[str, str]) -> str:
        wrong = "\n".join(f"{key}: {what}" for key, what in found.items())
        sent = ", ".join(self._server.sent)
        return f"{wrong}\n-- after poll; sent: {sent}\n-- exit {run.status}\n{run.text}"

    # After a poll: each returns what is wrong, None where nothing is

    def _delivered(self, _: Run, value: str) -> str | None:
        wanted, there = Counter(names(value)), Counter(self._arrived())
        return None if wanted == there else f"{_listed(there)} in place of {_listed(wanted)}"

    def _arrived(self) -> list[str]:
        known = {lf(self._raw(name)): name for name in self._every_name()}
        stored = [below_prefix(path.read_bytes()) for path in self._mail.glob("new/*")]
        return [known.get(raw) or f"?{raw[:200]!r}..." for raw in stored]

    def _every_name(self) -> set[str]:
        polls = [self._dialogue.start, *self._dialogue.polls]
        dropped = (value for p in polls for key, value in p.settings if key == "maildrop")
        return {word.partition("=")[0] for value in dropped for word in names(value)} | {
            *self._dialogue.messages
        }

    def _left(self, _: Run, value: str) -> str | None:
        there = [lying.name for lying in self._server.maildrop]
        return None if Counter(names(value)) == Counter(there) else f"{there} in place of {value}"

    def _folder(self, folder: str, value: str) -> str | None:
        """Look at what a folder for the operator holds."""
        listed = json.loads(self._command(f"{folder} list --json")[1])
        kept = Counter(self._kept(folder, message["id"]) for message in listed)
        wanted = Counter(names(value))
        return None if kept == wanted else f"{_listed(kept)} in place of {_listed(wanted)}"

    def _kept(self, folder: str, id_: str) -> str:
        raw = self._command(f"{folder} export {id_}")[1]
        return next((n for n in self._every_name() if self._raw(n) == raw), f"?{raw[:200]!r}")

    def _quarantined(self, _: Run, value: str) -> str | None:
        return self._folder("quarantine", value)

    def _failed(self, _: Run, value: str) -> str | None:
        return self._folder("failed", value)

    def _retrying(self, run: Run, value: str) -> str | None:
        return _differ(run.summary.get("retrying"), int(value))

    def _exit(self, run: Run, value: str) -> str | None:
        return _differ(run.status, int(value))

    def _says(self, run: Run, value: str) -> str | None:
        return None if value in _plain_words(run.text) else f"not said: {value}"

    def _says_not(self, run: Run, value: str) -> str | None:
        return f"said: {value}" if value in _plain_words(run.text) else None

    def _accounts(self, _: Run, value: str) -> str | None:
        text = self._command("accounts --json")[1].decode()
        return None if value in _plain_words(text) else f"not among accounts: {value}\n{text}"

    def _sent(self, _: Run, value: str) -> str | None:
        missing = [c for c in _commands(value) if c not in self._server.sent]
        return f"it has not sent {missing}" if missing else None

    def _sent_once(self, _: Run, value: str) -> str | None:
        times = {c: self._server.sent.count(c) for c in _commands(value)}
        return None if set(times.values()) == {1} else f"it has sent {times}"

    def _not_sent(self, _: Run, value: str) -> str | None:
        verbs = {*self._server.sent, *(c.partition(" ")[0] for c in self._server.sent)}
        sent = [c for c in _commands(value) if c in verbs]
        return f"it has sent {sent}" if sent else None

    def _sessions(self, _: Run, value: str) -> str | None:
        return _differ(self._server.sessions, int(value))

    def _pipelined(self, _: Run, value: str) -> str | None:
        return _differ("yes" if self._server.together > 1 else "no", value)

    def _summary(self, run: Run, value: str) -> str | None:
        key, _, number = value.partition(" ")
        return _differ(run.summary.get(key), int(number))


def _differ(found: object, wanted: object) -> str | None:
    return None if found == wanted else f"{found} in place of {wanted}"


def _listed(names_: Counter[str]) -> str:
    return " ".join(sorted(names_.elements())) or "nothing"


def _commands(value: str) -> list[str]:
    return [command.strip() for command in value.split(",")]


def _plain_words(text: str) -> str:
    """Return output with the quotes of JSON undone, to look for words in it."""
    return text.replace('\\"', '"').replace("\\\\", "\\")


_SETTINGS: Mapping[str, Callable[[Play, str, str], None]] = {
    "account": Play._set_account,
    "settings": Play._set_settings,
    "maildrop": Play._set_maildrop,
    "capa": Play._set_capa,
    "size": Play._set_size,
    "later": Play._let_pass,
    "run": Play._set_options,
}
_CHECKS: Mapping[str, Callable[[Play, Run, str], str | None]] = {
    "delivered": Play._delivered,
    "left": Play._left,
    "quarantined": Play._quarantined,
    "failed": Play._failed,
    "retrying": Play._retrying,
    "exit": Play._exit,
    "says": Play._says,
    "not says": Play._says_not,
    "accounts": Play._accounts,
    "sent": Play._sent,
    "sent once": Play._sent_once,
    "not sent": Play._not_sent,
    "sessions": Play._sessions,
    "pipelined": Play._pipelined,
    "summary": Play._summary,
}
