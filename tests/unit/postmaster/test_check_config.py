"""``check-config``: what would not do is refused before it runs; what leads somewhere is tried."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
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

REFUSED: Mapping[str, tuple[str, str]] = {
    "a placeholder": (
        '[destinations.x]\nurl = "maildir:///srv/{user}"',
        "the url of destination 'x': unknown placeholder {user}",
    ),
    "an option": (
        '[destinations.x]\nurl = "smtp://mail.example?tlss=none"',
        "the url of destination 'x': unknown option 'tlss'; did you mean tls?",
    ),
    "an option of a folder": (
        '[destinations.x]\nurl = "pickup:///srv/p?tls=none"',
        "the url of destination 'x': unknown option 'tls'; expected one of staging",
    ),
    "the value of an option": (
        '[destinations.x]\nurl = "smtp://mail.example?tls=maybe"',
        "the url of destination 'x': tls='maybe': expected one of",
    ),
    "a ca_file of a destination": (
        '[destinations.x]\nurl = "smtp://mail.example?ca_file=/no/ca.pem"',
        "the url of destination 'x': ca_file='/no/ca.pem' cannot be used",
    ),
    "a login without TLS, its password elsewhere": (
        (
            '[destinations.x]\nurl = "smtp://mail.example?tls=none"\nusername = "u"\n'
            'password_command = "echo x"'
        ),
        "the url of destination 'x': a password or a ca_file goes with tls=required alone",
    ),
    "a path after a host": (
        '[destinations.x]\nurl = "lmtp://mail.example/x"',
        "the url of destination 'x': expected lmtp://host:24, and no path",
    ),
    "a host of a destination": (
        f'[destinations.x]\nurl = "smtp://{"a" * 64}.example"',
        "the url of destination 'x': this cannot be the name of a host",
    ),
    "a ca_file of an account": ('ca_file = "/no/ca.pem"', "account sales: ca_file /no/ca.pem: "),
    "a ca_file of the broker": (
        '[broker]\nurl = "amqps://mq.example"\nca_file = "/no/ca.pem"',
        "broker.ca_file: /no/ca.pem: No such file or directory",
    ),
    "the broker's URL": (
        '[broker]\nurl = "amqp://mq.example/?heartbeat=3"',
        "broker.url: there are no options in this URL (heartbeat), only a virtual host may follow",
    ),
    "a URL of the broker's": (
        '[broker]\nurls = ["amqp://a.example", "amqp://b.example/?verify=no"]',
        "broker.url: there are no options in this URL (verify), only a virtual host may follow",
    ),
    "several virtual hosts": (
        '[broker]\nurls = ["amqp://a.example/x", "amqp://b.example/y"]',
        "broker.urls: they are nodes of one cluster: expected one virtual host",
    ),
    "a database in memory": ('[state]\nurl = "sqlite://"', "state.url: names no file"),
    "a spool of an unknown kind": ('[spool]\nurl = "nonsense://x"', "spool.url: fsspec does not"),
    "a misspelt option of a database": (
        '[state]\nurl = "postgresql://u@h/db?sslmod=require"',
        'state.url: invalid connection option "sslmod"',
    ),
    "an option of a database file": (
        '[state]\nurl = "sqlite:////tmp/x.db?timeout=abc"',
        "state.url: there are no options in the URL of a file (timeout)",
    ),
    "an unknown option of S3": (
        '[spool]\nurl = "s3://b/x"\n[spool.options]\nendpoint = "http://hunter2"',
        "spool.options.endpoint: unknown option; expected one of endpoint_url, key, secret, ",
    ),
    "an endpoint that is none": (
        '[spool]\nurl = "s3://b/x"\n[spool.options]\nendpoint_url = "minio:9000"',
        "spool.options.endpoint_url: expected https://host or http://host:port",
    ),
    "half a login of S3": (
        '[spool]\nurl = "s3://b/x"\n[spool.options]\nsecret = "hunter2"',
        "spool.options.secret: there is no key beside it",
    ),
    "no bucket": ('[spool]\nurl = "s3:///x"', "spool.url: expected s3://bucket/path"),
    "neither true nor false": (
        '[spool]\nurl = "s3://b/x"\n[spool.options]\nanon = "no"',
        'spool.options.anon: expected "true" or "false"',
    ),
    "an option that is ours": (
        '[spool]\nurl = "memory://x"\n[spool.options]\nprotocol = "x"',
        "spool.options.protocol: this cannot be set",
    ),
    "a spool option of a folder": (
        '[spool]\nurl = "/srv/x"\n[spool.options]\nkey = "hunter2"',
        "spool.options.key: a spool in a folder has no options",
    ),
    "an option of the usual folder": (
        '[spool.options]\nendpoint_url = "https://minio.example"',
        "spool.options.endpoint_url: a spool in a folder has no options",
    ),
    "a port of the monitor": ('[monitor]\nlisten = "127.0.0.1:70000"', "monitor.listen: "),
    "an address that is not ours": ('[monitor]\nlisten = "192.0.2.1:9108"', "monitor.listen: "),
    "a password of the broker": (
        '[broker]\nurl = "amqp://mq"\nusername = "u"\npassword_file = "/no/pw"',
        "broker: password_file /no/pw: cannot read it",
    ),
    "a password of a destination": (
        '[destinations.x]\nurl = "smtp://m"\nusername = "u"\npassword_env = "NOT_SET"',
        "destination x: password_env NOT_SET: there is no such environment variable",
    ),
}


class TestWhatRunWouldRefuse:
    @pytest.mark.parametrize("what", REFUSED)
    def test_is_refused(self, office: Office, what: str) -> None:
        text, said = REFUSED[what]
        office.config.write_text(office.config.read_text() + text)
        printed = office("check-config")
        assert (printed.status, printed.out) == (2, "")
        assert printed.err.count("\n") == 1
        assert said in printed.err
        assert "hunter2" not in printed.err

    @pytest.mark.parametrize(
        "what",
        [
            what
            for what, (_, said) in REFUSED.items()
            if said.startswith(("the url", "spool.", "state."))
            and what != "a host of a destination"
        ],
    )
    def test_by_the_same_words_as_by_run(self, office: Office, what: str) -> None:
        text, _ = REFUSED[what]
        office.config.write_text(office.config.read_text() + text)
        assert office("run", "--once").err.splitlines()[-1:] == (
            office("check-config").err.splitlines()
        )

    def test_without_a_destination(self, office: Office) -> None:
        text = office.config.read_text()
        office.config.write_text(text.replace("[delivery]", "[destinations.x]"))
        printed = office("check-config")
        assert printed.status == 2
        assert "nowhere to deliver to: expected [delivery] with a url" in printed.err

    @pytest.mark.parametrize("said", ["it is in the way", "may not write there"])
    def test_a_data_directory_that_cannot_be(
        self, office: Office, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if "way" in said:
            office.data.write_text("a file")
        else:
            # Root may write everywhere.
            monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
        printed = office("check-config")
        assert (printed.status, printed.out) == (2, "")
        assert printed.err.startswith("data_dir: /")
        assert printed.err.count("\n") == 1
        assert said in printed.err

    @pytest.mark.parametrize("name", ["queue.db", "state.db"])
    def test_a_file_that_is_something_else(self, office: Office, name: str) -> None:
        office.data.mkdir()
        (office.data / name).write_bytes(b"not a database at all" * 100)
        printed = office("check-config")
        assert printed.status == 2
        assert printed.err == f"{office.data}/{name}: this is no SQLite database\n"
        assert office("run", "--once").status == 2

    def test_a_password_that_no_login_can_send(self, office: Office, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("one\ntwo\n")
        text = office.config.read_text()
        office.config.write_text(
            text.replace('password = "hunter2"', f'password_file = "{tmp_path}/pw"')
        )
        printed = office("check-config")
        assert printed.status == 2
        assert "there is a line break or NUL in it" in printed.err
        assert "two" not in printed.err

    def test_all_at_once_and_nothing_is_made(self, office: Office) -> None:
        texts = [REFUSED[what][0] for what in ("a ca_file of an account", "a placeholder")]
        office.config.write_text("\n".join([office.config.read_text(), *texts]))
        assert len(office("check-config").err.splitlines()) == 2
        assert not office.data.exists()

    def test_what_is_right_is_not(self, office: Office, tmp_path: Path) -> None:
        port = free_port()
        office.config.write_text(
            office.config.read_text()
            + f'[monitor]\nlisten = "127.0.0.1:{port}"\n[state]\nurl = "sqlite:///{tmp_path}/s.db"\n'
            '[destinations.x]\nurl = "smtp://mail.example"\nusername = "u"\n'
            'password_command = "false"\n[broker]\nurl = "amqps://mq.example"\n'
        )
        assert office("check-config").status == 0
        assert not (tmp_path / "s.db").exists()


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
        assert "messages there: 3" in said
        verbs = {command.split()[0] for command in server.commands}
        assert verbs == {"CAPA", "USER", "PASS", "STAT", "QUIT"}
        assert not server.deleted
        assert not office.data.exists()

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
        assert list(found) == ["destination default"]
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
    assert lines[-1] == "Tried 2, failed 1. Nothing was fetched or delivered."
