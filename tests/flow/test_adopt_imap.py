"""What was delivered is learnt from a real Dovecot over IMAP, which is left as it was."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.state import State, new_owner
from tests.flow.connector import Connector
from tests.servers.dovecot import Dovecot, dovecot

CONFIG = """
data_dir = "{folder}/data"
[delivery]
url = "maildir://{folder}/mail/{{mailbox}}"
[[account]]
name = "sales"
host = "127.0.0.1"
username = "sales"
password = "hunter2"
mailbox = "sales@corp.example"
"""
IDS = [f"{n:032x}" for n in range(1_003)]


def mail(id_: str, account: str = "sales") -> bytes:
    return (
        b"Received: from x by y\r\nX-POP3-Connector-For: sales@corp.example\r\n"
        b"X-POP3-Connector-Account: %s\r\nX-POP3-Connector-Id: %s\r\nSubject: x\r\n\r\nbody\r\n"
    ) % (account.encode(), id_.encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with dovecot(tmp_path_factory.mktemp("far"), {"sales": "open sesame"}) as running:
        yield running


@pytest.mark.parametrize("scheme", ["imaps", "imap"])
async def test_what_lies_in_all_folders_is_learnt_and_nothing_is_marked(
    server: Dovecot, product: Connector, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    if not server.files("sales"):
        server.put("sales", *map(mail, IDS[:-2]), mail(IDS[0], "other"), b"Subject: x\r\n\r\n\r\n")
        for name, id_ in ((".Old Ones", IDS[-2]), ('.q"uo\\te', IDS[-1])):
            folder = server.maildir("sales") / name / "cur"
            folder.mkdir(parents=True)
            (folder / "1.x.y:2,").write_bytes(mail(id_).replace(b"\r\n", b"\n"))
        (server.maildir("sales") / "chown").touch()
        own(server.maildir("sales"))
    product.config.write_text(CONFIG.format(folder=product.folder))
    monkeypatch.setenv("POP3_CONNECTOR_IMAP_PASSWORD", "open sesame")
    port = server.imaps if scheme == "imaps" else server.imap
    url = f"{scheme}://sales@{server.host}:{port}?ca_file={server.ca_file}"
    done = await asyncio.to_thread(product.cli, "account", "adopt", "sales", "--imap", url)
    assert (done.returncode, f"{len(IDS)} messages there" in done.stderr) == (0, True), done.stderr
    assert not [file for file in server.files("sales") if "S" in file.name.partition(":2,")[2]]
    state = await State.open(product.folder / "data" / "state.db", owner=new_owner())
    assert sorted(await state.seen(IDS)) == IDS
    await state.close()
    refused = url.replace("sales@", "sales:wrong@")
    done = await asyncio.to_thread(product.cli, "account", "adopt", "sales", "--imap", refused)
    assert (done.returncode, "nothing was chosen" in done.stderr) == (1, True)
    assert "wrong" not in done.stderr + done.stdout


def own(maildir: Path) -> None:
    """Give what was put there to whom the maildrop belongs."""
    owner = maildir.stat()
    for path in maildir.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid)


async def test_a_url_that_is_none_is_told_and_not_repeated(product: Connector) -> None:
    product.config.write_text(CONFIG.format(folder=product.folder))
    url = "pop3://sales:sesame@host"
    done = await asyncio.to_thread(product.cli, "account", "adopt", "sales", "--imap", url)
    assert (done.returncode, "expected imaps://user@host" in done.stderr) == (2, True)
    assert "sesame" not in done.stderr
