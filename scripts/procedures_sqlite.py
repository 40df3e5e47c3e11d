"""The pages of docs/operations.md about the embedded broker and SQLite, followed as they stand.

Beside the deployment: an installation in one folder, as one process, with a POP3 server in this
process and Maildirs as the destination. ``pop3-connector`` is the image of the deployment, in the
network of this machine, so that the commands of the page are typed as anybody types them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compose_deployment import check
from demo_maildrop import PASSWORD, Maildrop, serving

ARCHIVE: Final = "/var/backups/pop3-connector.tar"

_IMAGE: Final = """#!/bin/sh
exec docker run --rm --network host --user 0 --volume {place}:{place} \\
    --env POP3_CONNECTOR_CONFIG={place}/connector.toml {image} "$@"
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation, and what its provider has.

    Attributes:
        place: holds configuration, data, backup and Maildirs.
        drop: the maildrop.
    """

    place: Path
    drop: Maildrop

    def filled_in(self, block: str) -> str:
        """Return a block with what the reader fills in: the program, and where backups lie."""
        program = f"{self.place}/pop3-connector "
        return block.replace("pop3-connector ", program).replace(ARCHIVE, f"{self.place}/saved.tar")

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
    blocks: Sequence[str], at_terminal: Callable[[str], str], program: str | None = None
) -> None:
    """Save, lose all, restore, and go on: with what was fetched since, and nothing twice.

    Args:
        blocks: of the page: backup, restore, and the choice.
        at_terminal: runs a block.
        program: a script in place of the image, as ``pop3-connector``.
    """
    with _installed(program) as here:
        save, restore, choose = (here.filled_in(block) for block in blocks)
        once = f"{here.place}/pop3-connector run --once --json"
        here.receive(0, 5)
        _run(once)
        here.receive(5, 3)
        _run(once)
        at_terminal(save)
        here.receive(8, 4)
        _run(once)
        check(len(here.delivered()) == 12, "12 messages lie in the Maildir, 8 of them when saved")
        shutil.rmtree(here.place / "data")
        at_terminal(restore)
        check(_run(once, status=1)["fetched"] == 0, "no account is polled before there is a choice")
        at_terminal(choose)
        check(_run(once)["fetched"] == 4, "what came after the backup is fetched again")
        here.receive(12, 1)
        check(_run(once)["fetched"] == 1, "and then what is new")
        found = here.delivered()
        check(len(found) == 13 and len(set(found)) == 13, "each lies there once")


@contextmanager
def _installed(program: str | None) -> Iterator[Installation]:
    with tempfile.TemporaryDirectory() as folder:
        place, drop = Path(folder), Maildrop([])
        image = os.environ.get("POP3_CONNECTOR_IMAGE", "pop3-connector:local")
        script = place / "pop3-connector"
        script.write_text((program or _IMAGE).format(place=place, image=image))
        script.chmod(0o755)
        with _served(drop) as port:
            config = place / "connector.toml"
            config.write_text(_CONFIG.format(place=place, port=port, password=PASSWORD))
            config.chmod(0o600)
            yield Installation(place, drop)


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
