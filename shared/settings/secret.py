"""Secrets: where a password or the like comes from, and how to get it without ever showing it.

A secret in a file, an environment variable or a program's output is fetched when it is used, so
that a rotated one counts without a restart, and so that a process that never logs in needs no
access to it. Failures are ConfigErrors that name the source and never its content.
"""

from __future__ import annotations

import codecs
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from shared.errors import ConfigError
from shared.settings.password_command import run_program
from shared.settings.values import expanded

_WAYS: Final = ("", "_file", "_env", "_command")


@cache
def sources(key: str) -> tuple[str, ...]:
    """Return the keys by which a secret can be given, exactly one of them.

    Args:
        key: the one whose value is the secret itself.
    """
    return tuple([f"{key}{way}" for way in _WAYS])


SOURCES: Final = sources("password")
"""The keys by which a password can be given."""

COMMAND_SECONDS: Final = 10
SECRET_LIMIT: Final = 64 * 1024
_MANAGED: Final = Path("/run/secrets")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A password or the like, by its source.

    Attributes:
        source: the key that gave it.
        where: the value of that key: a path, the name of a variable, a command line. Empty where
            the value is the secret itself.
    """

    source: str
    where: str
    _value: str = ""
    _environ: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def make(source: str, value: str, environ: Mapping[str, str]) -> Secret:
        """Return the secret that this key and value name."""
        if not source.endswith(_WAYS[1:]):
            return Secret(source, "", value)
        return Secret(source, value, "", environ)

    @property
    def written(self) -> bool:
        """Whether it stands in the configuration itself."""
        return not self.where

    @property
    def file(self) -> Path | None:
        """The file that holds it, if one does."""
        return expanded(self.where) if self.source.endswith("_file") else None

    @property
    def runs(self) -> bool:
        """Whether a program has to be run for it."""
        return self.source.endswith("_command")

    def reveal(self) -> str:
        """Return it. Blocks: up to 10 seconds for a command.

        Raises:
            ConfigError: it cannot be had; the message says why, without any of it.
        """
        if self.written:
            found = self._value
        elif self.file is not None:
            found = read_secret(self.file, self.source)
        elif self.runs:
            found = self._from_command()
        else:
            found = self._from_environment()
        if not found:
            raise ConfigError(self._name, "it is empty")
        try:
            found.encode()
        except UnicodeEncodeError:  # of a variable, Python keeps what is none
            raise ConfigError(self._name, "it is not UTF-8 text") from None
        return found

    @property
    def _name(self) -> str:
        return f"{self.source} {self.where}".rstrip()

    def _from_environment(self) -> str:
        try:
            return self._environ[self.where]
        except KeyError:
            raise ConfigError(self._name, "there is no such environment variable") from None

    def _from_command(self) -> str:
        try:
            output, status = run_program(shlex.split(self.where), SECRET_LIMIT, COMMAND_SECONDS)
        except TimeoutError:
            # "from None", here and below: nothing of what the program printed is to be told.
            raise ConfigError(
                self._name, f"the command took more than {COMMAND_SECONDS} s"
            ) from None
        except OSError as error:
            raise ConfigError(self._name, f"cannot run it: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(self._name, f"it is no command line: {error}") from error
        if status and len(output) <= SECRET_LIMIT:
            raise ConfigError(self._name, f"the command ended with status {status}")
        return _text(output, self._name)

    @property
    def managed(self) -> bool:
        """Whether a container engine made the file and decides who may read it."""
        return _MANAGED in expanded(self.where).parents

    def __str__(self) -> str:
        return f"{self.source} {self.where or '***'}"

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"


def read_secret(path: Path, name: str) -> str:
    """Return the text of a file that holds a secret, less one line end at its end.

    Args:
        path: the file; at most 64 KiB of it are accepted.
        name: the key or variable that named it, for the error.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    where = f"{name} {path}"
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_LIMIT + 1)
    except OSError as error:
        raise ConfigError(where, f"cannot read it: {error.strerror}") from error
    return _text(data, where)


def open_to_all(path: Path) -> bool:
    """Return whether everybody on this machine can read this file, if there is one."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IROTH) and stat.S_ISREG(mode)


def _text(data: bytes, where: str) -> str:
    if len(data) > SECRET_LIMIT:
        raise ConfigError(where, f"more than {SECRET_LIMIT} bytes cannot be a secret")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(where, "it is UTF-16 text; write it as UTF-8")
    try:
        # Editors on Windows put a byte order mark in front, and so does PowerShell.
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise ConfigError(where, "it is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
