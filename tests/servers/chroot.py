"""Servers whose Debian packages exclude each other: unpacked, and run in roots of their own.

Postfix, Exim, OpenSMTPD and Courier cannot be installed side by side, nor Dovecot's IMAP and Cyrus.
``scripts/test`` unpacks what is neither Postfix nor Dovecot into ``.venv/servers``, with the
libraries that it needs and this machine lacks. Here a root is made of it, with users of its own,
for each instance. It takes root (chroot), and fails or skips like any server that is missing.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

UNPACKED = Path(__file__).parents[2] / ".venv" / "servers"
DOMAIN = "corp.example"
NOBODY = 65534
SEARCH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
"""The environment of a server: of this machine's, nothing."""

_USERS = {"root": 0, "nobody": NOBODY}


@dataclass(frozen=True)
class LocalServer:
    """A mail server that delivers to Maildirs of its own.

    Attributes:
        port: where it takes SMTP, in clear.
        root: all that it has.
    """

    port: int
    root: Path

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}?tls=none"

    def messages(self, mailbox: str) -> list[bytes]:
        """Return what was delivered to a mailbox of corp.example, with all that is on top of it."""
        return [path.read_bytes() for path in (maildir(self.root, mailbox) / "new").glob("*")]


def require_unpacked(package: str) -> Path:
    """Return where a package is unpacked; skip, or fail on CI, without it or without root."""
    folder = UNPACKED / package
    if folder.is_dir() and os.geteuid() == 0:
        return folder
    lacks = "it takes root" if folder.is_dir() else "scripts/test unpacks it where it can"
    reason = f"no {package} here: {lacks}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def root_of(package: str, programs: Sequence[str], users: Mapping[str, int]) -> Iterator[Path]:
    """Make a root directory of an unpacked package; it is gone after the block.

    Args:
        package: of Debian.
        programs: what is run there, by path (``*`` for all in a folder): of the package, or else of
            this machine. With the libraries of each.
        users: that exist there beside root and nobody, with their numbers; each has a group of the
            same name and number, and a home directory.
    """
    unpacked = require_unpacked(package)
    root = Path(tempfile.mkdtemp(prefix=f"{package}-test-"))
    try:
        root.chmod(0o755)
        shutil.copytree(unpacked, root, symlinks=True, dirs_exist_ok=True)
        _furnish(root, {**_USERS, **users})
        for program in programs:
            some = [f"/{p.relative_to(root)}" for p in root.glob(program.lstrip("/"))]
            for path in some or [program]:
                _provide(root, path)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _furnish(root: Path, users: Mapping[str, int]) -> None:
    for folder in ("bin", "etc", "dev", "run", "tmp", "var/empty", "var/spool", "home"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    with contextlib.suppress(OSError):
        os.mknod(root / "dev" / "null", 0o20666, os.makedev(1, 3))
    for name, number in users.items():
        home = root / "home" / name
        home.mkdir()
        os.chown(home, number, number)
    rows = [f"{name}:x:{n}:{n}::/home/{name}:/bin/sh\n" for name, n in users.items()]
    (root / "etc" / "passwd").write_text("".join(rows))
    (root / "etc" / "group").write_text("".join(f"{u}:x:{n}:\n" for u, n in users.items()))
    (root / "etc" / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost mail.corp.example\n")
    (root / "etc" / "resolv.conf").write_text(
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    )


def _provide(root: Path, program: str) -> None:
    """Put a program there, if the package has none, and every library that it needs."""
    inside = root / program.lstrip("/")
    if not inside.exists():
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, inside)
    paths = ":".join(sorted({str(library.parent) for library in root.rglob("lib*.so.*")}))
    listed = subprocess.run(
        ["ldd", str(inside)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": paths},
    ).stdout
    for found in re.findall(r"(/\S+) \(0x", listed):
        if not found.startswith(f"{root}/") and not (root / found.lstrip("/")).exists():
            (root / found.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, root / found.lstrip("/"))


def inside(root: Path, *command: str) -> list[str]:
    """Return the command line that runs a program in that root."""
    return ["chroot", str(root), *command]


def maildir(root: Path, mailbox: str) -> Path:
    """Return the Maildir of a user."""
    return root / "home" / mailbox / "Maildir"


def make_maildir(root: Path, mailbox: str, owner: int) -> None:
    """Make the Maildir of a user, with nothing in it."""
    for folder in ("", "new", "cur", "tmp"):
        path = maildir(root, mailbox) / folder
        path.mkdir()
        os.chown(path, owner, owner)


def mailbox_owners(mailboxes: Sequence[str]) -> dict[str, int]:
    """Return a user number for each mailbox."""
    return {name: 1001 + at for at, name in enumerate(mailboxes)}
