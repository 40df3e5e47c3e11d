"""After a lost state: what was delivered is learnt from the Maildirs, and the rest is fetched."""

import asyncio
from pathlib import Path

from tests.flow.connector import Connector
from tests.servers.pop3 import Pop3Server

CONFIG = """
data_dir = "{folder}/data"
[delivery]
url = "maildir://{mail}/{{mailbox}}"
[[account]]
name = "sales"
host = "127.0.0.1"
port = {port}
tls = "none"
username = "sales"
password = "hunter2"
mailbox = "sales@corp.example"
"""
MAIL = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in range(6)]
FORGED = (
    b"X-POP3-Connector-Id: " + b"0" * 32 + b"\r\nX-POP3-Connector-Account: other\r\n"
    b"Subject: forged\r\n\r\nx\r\n"
)


def subjects(mail: Path) -> list[str]:
    files = [
        file for file in mail.rglob("*") if file.is_file() and file.parent.name in ("new", "cur")
    ]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return sorted(line for line in lines if line.startswith("Subject: "))


async def test_only_what_is_not_in_the_maildir_is_delivered(
    product: Connector, tmp_path: Path
) -> None:
    mail = tmp_path / "mail"
    async with Pop3Server(MAIL[:4], [f"u{n}" for n in range(4)]).serving() as server:
        product.config.write_text(CONFIG.format(folder=product.folder, mail=mail, port=server.port))
        assert (await run(product, "run", "--once"))[0] == 0
        moved = mail / "sales@corp.example" / ".Archive" / "cur"
        moved.mkdir(parents=True)
        first = next((mail / "sales@corp.example" / "new").iterdir())
        first.rename(moved / first.name)
        lose_state(product)
        server.messages, server.uidls = MAIL, [f"other{n}" for n in range(6)]
        held = await run(product, "run", "--once")
        assert held[0] == 1
        assert len(subjects(mail)) == 4
        status, said = await run(product, "account", "adopt", "sales", "--maildir", str(tmp_path))
        assert (status, "4 messages there" in said) == (0, True)
        assert (await run(product, "run", "--once"))[0] == 0
    assert subjects(mail) == [f"Subject: {n}" for n in range(6)]


async def test_nothing_is_chosen_where_there_is_nothing_of_the_account(
    product: Connector, tmp_path: Path
) -> None:
    new = tmp_path / "box" / "new"
    new.mkdir(parents=True)
    (new / "forged").write_bytes(FORGED)
    product.config.write_text(CONFIG.format(folder=product.folder, mail=tmp_path, port=1))
    status, said = await run(product, "account", "adopt", "sales", "--maildir", str(tmp_path))
    assert (status, "nothing was chosen" in said) == (1, True)


async def run(product: Connector, *arguments: str) -> tuple[int, str]:
    """Run a command beside the server."""
    done = await asyncio.to_thread(product.cli, *arguments)
    return done.returncode, done.stdout + done.stderr


def lose_state(product: Connector) -> None:
    for file in (product.folder / "data").glob("state.db*"):
        file.unlink()
