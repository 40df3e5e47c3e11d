"""The pages of docs/operations.md about the embedded broker and SQLite, followed as they stand.

Beside the deployment: an installation in one folder, as one process, with a POP3 server in this
process and Maildirs as the destination. ``pop3-connector`` is the image of the deployment, in the
network of this machine, so that the commands of the page are typed as anybody types them. So are
``pg_dump`` and ``pg_restore``, where the ledgers lie in a PostgreSQL, a container for this alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from scripts.demonstration.maildrop import PASSWORD, Maildrop, serving
from scripts.trials.deployment import Failed, check, run, wait_until

BACKUPS: Final = "/var/backups/"

_IMAGE: Final = """#!/bin/sh
exec docker run --rm --network host --user 0 --volume {place}:{place} \\
    --env POP3_CONNECTOR_CONFIG={place}/connector.toml {image} "$@"
"""
_CLIENT: Final = """#!/bin/sh
exec docker run --rm --network host --user 0 --volume {place}:{place} {server} {name} "$@"
"""
PROGRAMS: Final = {"pop3-connector": _IMAGE, "pg_dump": _CLIENT, "pg_restore": _CLIENT}
"""What the commands of the page are, by their names: scripts, with places to be filled in."""


class Database(Protocol):
    """A PostgreSQL database for the ledgers."""

    @property
    def url(self) -> str:
        """Where it is, with its password, as libpq takes it."""

    def empty(self) -> None:
        """Delete all that is in it."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation, and what its provider has.

    Attributes:
        place: holds configuration, data, backup and Maildirs.
        drop: the maildrop.
        database: where the ledgers lie; "" for a file.
    """

    place: Path
    drop: Maildrop
    database: str = ""

    @property
    def once(self) -> str:
        """The command that polls and delivers once."""
        return f"{self.place}/pop3-connector run --once --json"

    def filled_in(self, block: str) -> str:
        """Return a block with what the reader fills in: programs, database, and the backups."""
        for name in PROGRAMS:
            typed = rf"(^|&& ){name} "
            block = re.sub(typed, rf"\g<1>{self.place}/{name} ", block, flags=re.MULTILINE)
        return block.replace(BACKUPS, f"{self.place}/").replace("$DATABASE", self.database)

    def receive(self, first: int, count: int) -> None:
        """Have mail at the provider: messages numbered from this one on."""
        numbers = range(first, first + count)
        self.drop.messages += [b"Subject: %d\r\n\r\nbody\r\n" % number for number in numbers]

    def delivered(self) -> list[bytes]:
        """Return the subjects of what lies in the Maildirs."""
        files = self.place.glob("mail/*/new/*")
        lines = (line for file in files for line in file.read_bytes().splitlines())
        return sorted(line for line in lines if line.startswith(b"Subject: "))


def follow(
    blocks: Sequence[str],
    at_terminal: Callable[[str], str],
    programs: Mapping[str, str] = PROGRAMS,
) -> None:
    """Save, lose all, restore, and go on: with what was fetched since, and nothing twice.

    Args:
        blocks: of the page: backup, restore, and the choice.
        at_terminal: runs a block.
        programs: what its commands are.
    """
    with _installed(programs) as here:
        save, restore, choose = (here.filled_in(block) for block in blocks)
        _live_and_save(here, lambda: at_terminal(save))
        shutil.rmtree(here.place / "data")
        at_terminal(restore)
        held = _run(here.once, status=1)
        check(held["fetched"] == 0, "no account is polled before there is a choice")
        at_terminal(choose)
        _go_on(here)


def follow_with_postgresql(
    blocks: Sequence[str],
    at_terminal: Callable[[str], str],
    programs: Mapping[str, str] = PROGRAMS,
    server: Callable[[], AbstractContextManager[Database]] | None = None,
) -> None:
    """Do so with the ledgers in a PostgreSQL, which is dumped and put back by its own means.

    Args:
        blocks: of the page: what saves both, and what puts both back, with the choice.
        at_terminal: runs a block.
        programs: what its commands are.
        server: runs the database; a container, if not given.
    """
    with (server or _container)() as database, _installed(programs, database.url) as here:
        save, restore = (here.filled_in(block) for block in blocks)
        _live_and_save(here, lambda: at_terminal(save))
        shutil.rmtree(here.place / "data")
        database.empty()
        at_terminal(restore)
        _go_on(here)


def _live_and_save(here: Installation, save: Callable[[], object]) -> None:
    """Have 8 messages delivered before the backup, and 4 after it."""
    here.receive(0, 5)
    _run(here.once)
    here.receive(5, 3)
    _run(here.once)
    save()
    here.receive(8, 4)
    _run(here.once)
    check(len(here.delivered()) == 12, "12 messages lie in the Maildir, 8 of them when saved")


def _go_on(here: Installation) -> None:
    """Poll after a restore, and once more."""
    check(_run(here.once)["fetched"] == 4, "what came after the backup is fetched again")
    here.receive(12, 1)
    check(_run(here.once)["fetched"] == 1, "and then what is new")
    found = here.delivered()
    check(len(found) == 13 and len(set(found)) == 13, "each lies there once")


@contextmanager
def _installed(programs: Mapping[str, str], database: str = "") -> Iterator[Installation]:
    with tempfile.TemporaryDirectory() as folder:
        place, drop = Path(folder), Maildrop([])
        image = os.environ.get("POP3_CONNECTOR_IMAGE", "pop3-connector:local")
        for name, text in programs.items():
            script = place / name
            script.write_text(text.format(place=place, image=image, server=_SERVER, name=name))
            script.chmod(0o755)
        with _served(drop) as port:
            config = place / "connector.toml"
            text = _CONFIG.format(place=place, port=port, password=PASSWORD)
            config.write_text(text + (f'[state]\nurl = "{database}"\n' if database else ""))
            config.chmod(0o600)
            yield Installation(place, drop, database)


@dataclass(frozen=True, slots=True)
class _Container:
    """A PostgreSQL in a container, of this name."""

    name: str
    url: str

    def empty(self) -> None:
        self.type("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def type(self, statement: str) -> None:
        run("docker", "exec", self.name, "psql", "--quiet", self.url, "--command", statement)


@contextmanager
def _container() -> Iterator[Database]:
    """Run a PostgreSQL of its own until the block ends."""
    name = f"{os.environ.get('COMPOSE_PROJECT_NAME', 'pop3-connector')}-ledgers"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = ("--env", f"POSTGRES_PASSWORD={PASSWORD}", "--env", f"PGPORT={port}")
    run("docker", "run", "--rm", "--detach", "--network", "host", "--name", name, *secret, _SERVER)
    database = _Container(name, f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres")

    def answers() -> bool:
        try:
            database.type("SELECT 1")
        except Failed:
            return False
        return True

    try:
        wait_until(answers, "the database")
        yield database
    finally:
        run("docker", "rm", "--force", name)


@contextmanager
def _served(drop: Maildrop) -> Iterator[int]:
    """Serve a maildrop from a thread until the block ends; yield the port."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ports: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        async with serving({"sales": drop}) as port:
            ports.append(port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _run(command: str, status: int = 0) -> dict[str, int]:
    """Run the connector once; return its summary."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    check(done.returncode == status, f"{command.split()[-3:]} ends with {status}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


_SERVER: Final = os.environ.get("POSTGRES_IMAGE", "postgres:17")
_CONFIG: Final = """data_dir = "{place}/data"
[delivery]
url = "maildir://{place}/mail/{{local}}"
[[account]]
name = "sales"
host = "127.0.0.1"
port = {port}
tls = "none"
username = "sales"
password = "{password}"
mailbox = "sales@corp.example"
keep = "forever"
"""
