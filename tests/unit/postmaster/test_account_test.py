"""``account test``: what a poll would do, by UIDL, LIST and TOP alone."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from shared.ledger import KEPT, LedgerEntry
from shared.state import State, new_owner
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.postmaster.conftest import Office, Printed

ACCOUNT = """
data_dir = "{data}"
[delivery]
url = "maildir://{data}/mail/{{mailbox}}"
[[account]]
name = "sales"
host = "127.0.0.1"
port = {port}
tls = "none"
username = "sales"
password = "hunter2-%&"
mailbox = "sales@corp.example"
timeout = "5s"
{more}
"""
INTERNAL = (
    b"From: Mail System Internal Data <MAILER-DAEMON@mail.example>\r\n"
    b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\r\n"
    b"X-IMAP: 1157104163 0000000042\r\nStatus: RO\r\n\r\n"
    b"This text is part of the internal format of your mail folder.\r\n"
)
MAIL = [
    INTERNAL,
    b"From: ann@example.net\r\nSubject: one\r\n\r\nbody\r\n",
    b"From: ben@example.net\r\nSubject: two\r\n\r\nbody\r\n",
    b"From: cem@example.net\r\nSubject: three\r\n\r\n" + b"x" * 5_000 + b"\r\n",
]
UIDLS = ["u0", "u1", "u2", "u3"]
OFFERED = ("UIDL", "TOP", "USER", "PIPELINING", "LOGIN-DELAY 600", "EXPIRE 0")
ASKED = {"CAPA", "USER", "PASS", "STAT", "UIDL", "LIST", "TOP", "QUIT"}


def write(office: Office, server: Pop3Server, more: str = "") -> None:
    office.config.write_text(ACCOUNT.format(data=office.data, port=server.port, more=more))


async def tested(office: Office, *options: str) -> Printed:
    return await asyncio.to_thread(office, "account", "test", "sales", *options)


async def fetched_before(office: Office, ago: float = 0.0) -> None:
    office.data.mkdir(parents=True, exist_ok=True)
    file = office.data / "state.db"
    state = await State.open(file, owner=new_owner())
    await state.record("sales", [LedgerEntry("u1", "1" * 32, len(MAIL[1]))])
    await state.close()
    with sqlite3.connect(file) as db:
        db.execute("UPDATE uidl SET first_seen = first_seen - ?", (ago,))
    db.close()


async def test_it_tells_what_would_be_fetched_and_deleted_and_does_neither(office: Office) -> None:
    async with Pop3Server(MAIL, UIDLS, OFFERED).serving() as server:
        write(office, server, 'keep = "7d"\nmax_size = 3000')
        await fetched_before(office, ago=KEPT)
        printed = await tested(office, "--json")
    found = printed.json
    assert (printed.status, found["ok"], found["messages"], found["known"]) == (0, True, 4, 1)
    assert (found["mechanism"], found["login_delay"], found["expire"]) == ("user", 600.0, "0")
    kinds = ("fetch", "delete", "too_large", "internal")
    assert [[m["uidl"] for m in found[kind]] for kind in kinds] == [["u2"], ["u1"], ["u3"], ["u0"]]
    assert found["fetch"][0]["subject"] == "two"
    assert {command.split()[0] for command in server.commands} == ASKED
    assert "hunter2" not in printed.out + printed.err


async def test_a_person_reads_the_same(office: Office) -> None:
    async with Pop3Server(MAIL, UIDLS, OFFERED).serving() as server:
        write(office, server, 'keep = "delete"')
        printed = await tested(office)
    assert printed.status == 0
    said = " ".join(printed.out.split())
    assert "would fetch 3 messages message 2, UIDL u1" in said
    assert "would delete 3 messages" in said
    assert "EXPIRE 0: the server deletes what was retrieved" in said
    assert "no mail 1 message" in said


async def test_nothing_is_made_or_changed(office: Office, tmp_path: Path) -> None:
    async with Pop3Server(MAIL[1:], UIDLS[1:]).serving() as server:
        write(office, server)
        assert (await tested(office)).status == 0
        assert not (office.data / "state.db").exists()
        await fetched_before(office)
        server.uidls, server.messages = ["other"], MAIL[3:]
        assert (await tested(office, "--json")).json["known"] == 0
    state = await State.open(office.data / "state.db", owner=new_owner())
    assert list(await state.known("sales")) == ["u1"], "as it was, though it is not listed"
    await state.close()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"PASS": Say(b"-ERR [AUTH] no such user\r\n")}, "login refused"),
        ({"PASS": Say(b"-ERR [IN-USE] locked\r\n")}, "the maildrop may be in use"),
    ],
)
async def test_what_failed_is_told_with_exit_status_1(
    office: Office, says: dict[str, Say], words: str
) -> None:
    async with Pop3Server(MAIL, UIDLS, says=says).serving() as server:
        write(office, server)
        printed = await tested(office)
    assert printed.status == 1
    assert words in printed.err


async def test_a_server_without_top_and_one_that_hangs_up_at_it_are_told_of_all_the_same(
    office: Office,
) -> None:
    for server in (
        Pop3Server(MAIL, UIDLS, ("UIDL", "USER")),
        Pop3Server(MAIL, UIDLS, says={"TOP": Say(b"", "drop")}),
    ):
        async with server.serving():
            write(office, server)
            printed = await tested(office, "--json")
        assert (printed.status, len(printed.json["fetch"])) == (0, 4)


def test_an_account_that_there_is_not(office: Office) -> None:
    printed = office("account", "test", "nobody")
    assert (printed.status, "there is no account nobody" in printed.err) == (1, True)
