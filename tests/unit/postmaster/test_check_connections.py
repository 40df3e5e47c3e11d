"""``check-config --connect``: each login is tried, and each destination reached."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.servers.certificates import make_certificates
from tests.servers.pop3 import Pop3Server, Say
from tests.servers.process import free_port
from tests.servers.smtp import Action, smtp_server
from tests.unit.postmaster.conftest import Office, Printed

SECRET = "hunter2-%&"

ACCOUNT = """
[[account]]
name = "{name}"
host = "127.0.0.1"
port = {port}
tls = "none"
username = "{name}"
password = "hunter2-%&"
mailbox = "{name}@corp.example"
timeout = "5s"
"""


@asynccontextmanager
async def serving(*servers: Pop3Server) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server.serving())
        yield


def configure(office: Office, *accounts: Pop3Server, delivery: str = "", more: str = "") -> None:
    """Write a configuration with an account at each of these servers."""
    texts = [ACCOUNT.format(name=f"a{i}", port=one.port) for i, one in enumerate(accounts)]
    url = delivery or f"maildir://{office.data}/mail/{{mailbox}}"
    start = f'data_dir = "{office.data}"\n[delivery]\nurl = "{url}"\n{more}\n'
    office.config.write_text(start + "".join(texts))


async def connected(office: Office) -> Printed:
    """Run it in a thread, beside the servers."""
    return await asyncio.to_thread(office, "check-config", "--connect", "--json")


def tried(printed: Printed) -> dict[str, tuple[bool, str]]:
    assert "hunter2" not in printed.out + printed.err
    return {f"{t['what']} {t['name']}": (t["ok"], t["said"]) for t in printed.json["tried"]}


class TestAccounts:
    async def test_are_logged_in_to_and_nothing_is_fetched(self, office: Office) -> None:
        server = Pop3Server([b"a: b\r\n\r\nx\r\n"] * 3)
        async with serving(server):
            configure(office, server)
            printed = await connected(office)
        assert printed.status == 0
        ok, said = tried(printed)["account a0"]
        assert ok
        assert "by user; messages there: 3" in said
        verbs = {command.split()[0] for command in server.commands}
        assert verbs == {"CAPA", "USER", "PASS", "STAT", "QUIT"}
        assert not server.deleted
        assert not office.data.exists()

    async def test_are_at_the_server_of_their_provider_which_takes_so_many_of_them(
        self, office: Office, tmp_path: Path
    ) -> None:
        server = Pop3Server()
        async with serving(server):
            (tmp_path / "mine.toml").write_text(
                f'[corp]\nhost = "127.0.0.1"\nport = {server.port}\ntls = "none"\n'
                'domains = ["corp.example"]\nconnections = 1\n'
            )
            accounts = "".join(
                f'[[account]]\nname = "a{n}"\nusername = "a{n}@corp.example"\npassword = "x"\n'
                f'mailbox = "a{n}@corp.example"\n'
                for n in range(4)
            )
            configure(office, more="[defaults]\ntimeout = '5s'\n" + accounts)
            text = f'providers_file = "{tmp_path}/mine.toml"\n' + office.config.read_text()
            office.config.write_text(text)
            printed = await connected(office)
        assert printed.status == 0
        assert all(tried(printed)[f"account a{n}"][0] for n in range(4))
        verbs = [command.split()[0] for command in server.commands]
        assert [verb for verb in verbs if verb in ("USER", "QUIT")] == ["USER", "QUIT"] * 4

    async def test_that_fail_are_told_with_the_reason_and_the_others_are_tried(
        self, office: Office
    ) -> None:
        refusing = Pop3Server(says={"PASS": Say(b"-ERR wrong, " + SECRET.encode() + b"\r\n")})
        busy = Pop3Server(says={"PASS": Say(b"-ERR [IN-USE] locked\r\n")})
        silent = Pop3Server(says={"STAT": Say(b"-ERR out of order\r\n")})
        good, gone = Pop3Server(), Pop3Server()
        gone.port = free_port()
        async with serving(refusing, busy, silent, good):
            configure(office, refusing, busy, silent, gone, good)
            printed = await connected(office)
        found = tried(printed)
        assert printed.status == 1
        oks = [found[f"account a{n}"][0] for n in range(5)]
        assert oks == [False, False, False, False, True]
        assert "login refused" in found["account a0"][1]
        assert "perhaps by this connector" in found["account a1"][1]
        assert "out of order" in found["account a2"][1]
        assert str(gone.port) in found["account a3"][1]

    async def test_whose_password_cannot_be_had_fail_alone(self, office: Office) -> None:
        good, bad = Pop3Server(), Pop3Server()
        async with serving(good, bad):
            configure(office, good, bad)
            text, at = office.config.read_text(), f'password = "{SECRET}"'
            first, rest = text.split(at, 1)
            office.config.write_text(first + at + rest.replace(at, 'password_command = "false"'))
            found = tried(await connected(office))
            printed = await asyncio.to_thread(office, "check-config", "--connect")
        assert "is valid" not in printed.out
        assert found["account a0"][0]
        assert found["account a1"] == (
            False,
            "password_command false: the command ended with status 1",
        )

    async def test_that_do_not_answer_to_quit_are_fine(self, office: Office) -> None:
        server = Pop3Server(says={"QUIT": Say(b"", "drop")})
        async with serving(server):
            configure(office, server)
            assert (await connected(office)).status == 0

    async def test_show_what_is_said_for_debugging(self, office: Office) -> None:
        server = Pop3Server()
        async with serving(server):
            configure(office, server)
            quiet = await connected(office)
            told = await asyncio.to_thread(office, "--debug", "check-config", "--connect")
        assert "C: " not in quiet.err
        said = [
            json.loads(line) for line in told.err.splitlines() if '"S: ' in line or '"C: ' in line
        ]
        assert {line["account"] for line in said} == {"a0"}
        events = [line["event"] for line in said]
        assert events[0] == "S: +OK"
        assert "C: PASS ***" in events
        assert events[-2:] == ["C: QUIT", "S: +OK bye"]
        assert SECRET not in told.err

    async def test_that_are_disabled_are_left_alone(self, office: Office) -> None:
        server = Pop3Server()
        async with serving(server):
            configure(office, server)
            office.config.write_text(office.config.read_text() + "enabled = false\n")
            found = tried(await connected(office))
        places = ["state database", "broker queues", "spool blobs"]
        assert list(found) == [*places, "destination default"]
        assert server.connections == 0

    async def test_few_at_a_time_at_one_host(self, office: Office) -> None:
        server = Pop3Server()
        most = 0

        def passes() -> Say:
            nonlocal most
            most = max(most, server.open)
            return Say(b"+OK\r\n")

        class Watched(dict[str, Say]):
            def get(self, key: str, default: Say | None = None) -> Say | None:  # type: ignore[override]
                return passes() if key == "PASS" else super().get(key, default)

        server.says = Watched()
        async with serving(server):
            configure(office, *[server] * 12)
            printed = await connected(office)
        assert (printed.status, server.connections) == (0, 12)
        assert most <= 4


class TestDestinations:
    async def test_are_greeted_and_left(self, office: Office) -> None:
        async with smtp_server() as server:
            configure(office, delivery=server.url)
            printed = await connected(office)
        assert printed.status == 0
        assert tried(printed)["destination default"][0]
        assert [c.split()[0] for c in server.commands] == ["EHLO", "QUIT"]
        assert not server.received

    async def test_show_what_is_said_for_debugging(self, office: Office) -> None:
        async with smtp_server(extensions=()) as server:
            configure(office, delivery=server.url)
            told = await asyncio.to_thread(office, "--debug", "check-config", "--connect")
        lines = [json.loads(line) for line in told.err.splitlines() if '"connection": ' in line]
        assert {line["destination"] for line in lines} == {"default"}
        assert [line["event"] for line in lines] == [
            f"# connected to 127.0.0.1:{server.port}",
            "S: 220 mail.corp.example ready",
            "C: EHLO [127.0.0.1]",
            "S: 250 mail.corp.example",
            "C: QUIT",
        ]

    @pytest.mark.parametrize(("step", "said"), [("GREETING", "554 not you"), ("EHLO", "421 busy")])
    async def test_that_refuse_us_fail(self, office: Office, step: str, said: str) -> None:
        script: dict[str, list[Action]] = {step: [said] * 5}
        async with smtp_server(script=script) as server:
            configure(office, delivery=server.url)
            printed = await connected(office)
        ok, found = tried(printed)["destination default"]
        assert (printed.status, ok) == (1, False)
        assert said in found

    async def test_that_are_away_or_without_tls_fail_and_hide_no_other(
        self, office: Office
    ) -> None:
        async with smtp_server() as plain, smtp_server(lmtp=True) as good:
            more = (
                f'[destinations.away]\nurl = "lmtp://127.0.0.1:{free_port()}"\n'
                f'[destinations.plain]\nurl = "smtp://u:hunter2@127.0.0.1:{plain.port}"\n'
            )
            configure(office, delivery=good.url, more=more)
            printed = await connected(office)
        found = tried(printed)
        assert printed.status == 1
        assert found["destination default"][0]
        assert not found["destination away"][0]
        assert "it offers no STARTTLS, and TLS is required" in found["destination plain"][1]

    @pytest.mark.parametrize(("password", "ok"), [(SECRET, True), ("wrong", False)])
    async def test_that_want_a_login_get_it_over_tls(
        self, office: Office, tmp_path: Path, password: str, ok: bool
    ) -> None:
        made = make_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.cert, made.key)
        async with smtp_server(context=context, login=("me", password)) as server:
            url = f"{server.url}?ca_file={made.ca}"
            configure(office, delivery=f'{url}"\nusername = "me"\npassword = "{SECRET}')
            printed = await connected(office)
        assert (printed.status, tried(printed)["destination default"][0]) == (not ok, ok)
        assert any(command.startswith("AUTH") for command in server.commands)
        assert not server.received

    def test_folders_have_to_be_writable(self, office: Office, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "PickUp").mkdir()
        more = (
            f'[destinations.blocked]\nurl = "maildir://{tmp_path}/file/{{mailbox}}"\n'
            f'[destinations.nobodys]\nurl = "maildir://{tmp_path}/file/{{mailbox}}"\n'
            f'[destinations.none]\nurl = "pickup://{tmp_path}/none"\n'
            f'[destinations.pickup]\nurl = "pickup://{tmp_path}/PickUp"\n'
            f'[destinations.apart]\nurl = "pickup://{tmp_path}/PickUp?staging=/dev/shm/x"\n'
        )
        configure(office, Pop3Server(port=free_port()), more=more)
        text = office.config.read_text()
        office.config.write_text(text + 'destination = "blocked"\nenabled = false\n')
        found = tried(office("check-config", "--connect", "--json"))
        assert found["destination default"][0]
        assert "in the way" in found["destination blocked"][1]
        assert "in the way" in found["destination nobodys"][1]
        assert "there is no such directory" in found["destination none"][1]
        assert found["destination pickup"][0]
        assert "no place to write on the file system" in found["destination apart"][1]
        assert not list((tmp_path / "PickUp").iterdir())
        assert not (office.data / "mail").exists()


async def test_a_person_reads_a_table(office: Office) -> None:
    server = Pop3Server(says={"PASS": Say(b"-ERR \x1b[2J wrong\r\n")})
    async with serving(server):
        configure(office, server)
        printed = await asyncio.to_thread(office, "check-config", "--connect")
    assert printed.status == 1
    lines = printed.out.splitlines()
    (row,) = [line for line in lines if line.startswith("account a0")]
    assert row.split()[2] == "failed"
    assert "\\x1b[2J wrong" in row
    assert lines[-1] == "Tried 5, failed 1. Nothing was fetched or delivered."
