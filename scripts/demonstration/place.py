"""The directory of a demo: what is where in it, its configuration, commands that work on it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(sys.executable).with_name("pop3-connector")

_CONFIG: Final = """\
# Made by scripts/demo. Its POP3 server is gone once the demo has ended.
data_dir = {data_dir}

[delivery]
url = {url}
"""
_ACCOUNT: Final = """
[[account]]
name = {name}
host = "127.0.0.1"
port = {port}
tls = "none"
username = {mailbox}
password = {password}
keep = "delete"
mailbox = {mailbox}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that holds all of a demo."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.directory / "connector.toml"

    @property
    def log(self) -> Path:
        """What the program logged."""
        return self.directory / "run.log"

    def maildir(self, mailbox: str) -> Path:
        """The Maildir of a local mailbox."""
        return self.directory / "mail" / mailbox

    def delivered(self, mailbox: str) -> list[Path]:
        """The messages in a Maildir, sorted by name."""
        return sorted((self.maildir(mailbox) / "new").glob("*"))

    def configure(self, port: int, mailboxes: Mapping[str, str], password: str) -> None:
        """Write the configuration.

        Args:
            port: of the POP3 server.
            mailboxes: the local mailbox of each account; its POP3 user name is the same.
            password: of all POP3 users.
        """
        url = f"maildir://{self.maildir('{mailbox}')}"
        text = _filled(_CONFIG, data_dir=str(self.directory / "data"), url=url)
        for name, mailbox in mailboxes.items():
            text += _filled(_ACCOUNT, name=name, port=port, mailbox=mailbox, password=password)
        self.config.touch(0o600)
        self.config.write_text(text, "utf-8")

    def command(self, *arguments: str) -> str:
        """Return a command line of the program with this configuration, fit to be pasted."""
        here = Path.cwd()
        program = PROGRAM.relative_to(here) if PROGRAM.is_relative_to(here) else PROGRAM
        return shlex.join([str(program), "--config", str(self.config), *arguments])


def _filled(template: str, **values: object) -> str:
    """Return a template with values in it; numbers and texts are written in TOML as in JSON."""
    return template.format_map({name: json.dumps(value) for name, value in values.items()})
