"""Encrypts tokens for the state database, with keys that do not lie in it.

Fernet (AES-128-CBC with HMAC-SHA-256) of ``cryptography``. The keys stand in a file that only its
owner can read, or in an environment variable, one a line: what is written is written with the
first one, and what was written with any of them is read. They are read each time, so that a new key
counts in every process without a restart.

Known limits: who can read both the file and the database has the tokens. A file is made where there
is none, so fetchers on several machines need one that was copied, or the same variable.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.disk.durable import sync
from shared.disk.replaced_file import read_file, write_file
from shared.errors import ConfigError

_LONGEST: Final = 64 * 1024


class OtherKey(Exception):
    """What is stored was encrypted with a key that is not among ours."""


class KeySource(Protocol):
    """Where the keys are."""

    @property
    def where(self) -> str:
        """How a person finds them."""

    def read(self) -> Sequence[str]:
        """Return them; none where none was made yet.

        Raises:
            ConfigError: they cannot be read.
        """

    def make(self) -> None:
        """Make the first one, unless there is one by now.

        Raises:
            ConfigError: it cannot be made here.
        """


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Keys in a file.

    Attributes:
        path: of the file.
    """

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> Sequence[str]:
        """See ``KeySource``."""
        try:
            return (read_file(self.path, _LONGEST) or b"").decode("ascii", "replace").split()
        except OSError as error:
            raise self._error("read", error) from error

    def make(self) -> None:
        """See ``KeySource``: of several processes that do, one does; it appears whole."""
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(draft, Fernet.generate_key() + b"\n")
            try:
                os.link(draft, self.path)  # fails where there is one, which a rename would replace
            except FileExistsError:
                return
            finally:
                draft.unlink()
            sync(self.path.parent)
        except OSError as error:
            hint = "make it elsewhere, and name it with oauth.key_file or oauth.key_env"
            raise ConfigError(self.where, f"{self._error('make', error).what}; {hint}") from error

    def put_first(self, key: str) -> None:
        """Put a key before those that are there.

        Raises:
            ConfigError: it cannot be written.
        """
        self._write([key, *self.read()])

    def keep_first(self) -> int:
        """Take all keys but the first one out; return how many that were.

        Raises:
            ConfigError: it cannot be written.
        """
        first, *others = self.read()
        if others:
            self._write([first])
        return len(others)

    def _write(self, keys: Sequence[str]) -> None:
        try:
            write_file(self.path, "".join(f"{key}\n" for key in keys).encode())
        except OSError as error:
            raise self._error("write", error) from error

    def _error(self, verb: str, error: OSError) -> ConfigError:
        return ConfigError(self.where, f"cannot {verb} the key of the tokens: {error.strerror}")


@dataclass(frozen=True, slots=True)
class KeyVariable:
    """Keys in an environment variable.

    Attributes:
        name: of the variable.
        environ: the environment.
    """

    name: str
    environ: Mapping[str, str] = field(repr=False)

    @property
    def where(self) -> str:
        """The variable."""
        return f"oauth.key_env {self.name}"

    def read(self) -> Sequence[str]:
        """See ``KeySource``."""
        return self.environ.get(self.name, "").replace(",", " ").split()

    def make(self) -> None:
        """Refuse: nobody else would know it."""
        raise ConfigError(self.where, f"there is no key in it; expected one like {_example()}")


class Sealing:
    """Encrypts and decrypts.

    Args:
        source: where the keys are.
    """

    def __init__(self, source: KeySource) -> None:
        self._source = source

    @property
    def where(self) -> str:
        """Where the keys are."""
        return self._source.where

    def require_key(self) -> None:
        """Make the first key where there is none: what we are given has to be stored then.

        Raises:
            ConfigError: there is no usable key, and none can be made.
        """
        if not self._source.read():
            self._source.make()
        self._fernet()

    def seal(self, plain: bytes) -> str:
        """Return something encrypted; the first key is made where there is none.

        Raises:
            ConfigError: there is no usable key.
        """
        self.require_key()
        return self._fernet().encrypt(plain).decode()

    def open(self, sealed: str) -> bytes:
        """Return what was encrypted.

        Raises:
            OtherKey: not with one of these keys; or it was changed since.
            ConfigError: there is no usable key.
        """
        if not self._source.read():
            raise OtherKey(f"there is no key in {self.where}")
        try:
            return self._fernet().decrypt(sealed.encode())
        except InvalidToken:
            raise OtherKey(f"the key that it was encrypted with is not in {self.where}") from None

    def _fernet(self) -> MultiFernet:
        try:
            return MultiFernet([Fernet(key) for key in self._source.read()])
        except ValueError:
            # Without the cause: it may quote the key.
            what = f"this is no key: expected one a line, such as {_example()}"
            raise ConfigError(self.where, what) from None


def new_key() -> str:
    """Return a key that nobody has."""
    return Fernet.generate_key().decode()


def _example() -> str:
    return (
        "the output of: python3 -c 'import base64, os;"
        " print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"
    )
