"""Moving in from fetchmail, getmail and mpop, and out again: with the programs themselves.

Each has fetched from a real server before; then nothing is fetched twice, by nobody.
"""

import contextlib
import functools
import json
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.settings.load import load
from tests.flow.connector import lf
from tests.flow.forked import ForkedConnector
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.servers.process import require

SECRET = 'it is "so" \\secret'


@dataclass
class Program:
    """A program that others move from, in a home of its own, and a provider.

    Attributes:
        rc: its configuration, of one maildrop, that of ``sales``.
        records: where it keeps the UIDLs of that.
    """

    home: Path
    server: Dovecot
    name: str = ""
    rc: Path = Path()
    records: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.home)}

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        # fetchmail says by 1 that there was nothing new.
        assert done.returncode in (0, 1), done.stdout + done.stderr

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)

    def fetch(self) -> None:
        """Let the program fetch."""
        raise NotImplementedError

    def fetched(self) -> int:
        """Return how many messages it has delivered, to where all of them deliver."""
        return len(self.server.files("mine"))


class Fetchmail(Program):
    def prepare(self) -> None:
        require("fetchmail")
        self.name, self.rc = "fetchmail", self.home / ".fetchmailrc"
        self.records = self.home / ".fetchids"
        escaped = SECRET.replace("\\", "\\\\").replace('"', "\\x22")
        self.write(
            self.rc,
            f"""# of the office
set daemon 240
defaults proto pop3 service {self.server.pop3}, timeout 30
skip elsewhere via pop.example.net user "nobody" pass "x" is nobody here ssl
poll office via {self.server.host}
    user 'sales' there with password "{escaped}" is "mine" here
    wants keep, fetchlimit 100 and sslproto ''
    smtphost "{self.server.host}/{self.server.lmtp}" lmtp
    smtpname mine
""",
        )

    def fetch(self) -> None:
        self.run("fetchmail", "-d0", "--nosyslog", "office")


class Mpop(Program):
    def prepare(self) -> None:
        require("mpop")
        self.name, self.rc = "mpop", self.home / ".mpoprc"
        self.records = self.home / f".mpop_uidls/sales_at_{self.server.host}"
        self.write(
            self.rc,
            f"""# of the office
defaults
tls off
keep on
delivery maildir {self.server.maildir("mine")}

account provider
host {self.server.host}
port {self.server.pop3}

account office : provider
user sales
auth user
passwordeval printf '%s\\n' '{SECRET}'
killsize 20m
""",
        )

    def fetch(self) -> None:
        self.run("mpop", "-q", "office")


class Getmail(Program):
    def prepare(self) -> None:
        require("getmail")
        self.name, self.rc = "getmail", self.home / ".getmail/getmailrc"
        at = f"oldmail-{self.server.host}-{self.server.pop3}-sales"
        self.records = self.rc.with_name(at)
        self.write(
            self.rc,
            f"""[retriever]
type = SimplePOP3Retriever
server = {self.server.host}
port: {self.server.pop3}
username = sales
password = {SECRET}
; of the office
[destination]
type = MultiDestination
destinations = ("[lmtp]",)

[lmtp]
type = MDA_lmtp
host = {self.server.host}
port = {self.server.lmtp}
override = mine

[options]
read_all = false
delete_after = 21
max_message_size = 90000000
""",
        )

    def fetch(self) -> None:
        self.run("getmail", "--quiet")


@pytest.fixture(params=[Fetchmail, Mpop, Getmail], ids=lambda kind: kind.__name__.lower())
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    home = tmp_path / "home"
    home.mkdir()
    with dovecot(tmp_path, {"sales": SECRET, "mine": "x", "ours": "x"}) as server:
        found = request.param(home, server)
        found.prepare()
        yield found


@pytest.fixture
def product(tmp_path: Path, program: Program) -> Iterator[ForkedConnector]:
    folder = tmp_path / "product"
    folder.mkdir()
    with contextlib.closing(ForkedConnector(folder)) as installation:
        at_home(installation, program)
        yield installation


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresqlServer]:
    with postgresql() as server:
        yield server


def at_home(product: ForkedConnector, program: Program, **more: str) -> None:
    """Let the commands be those of the user of the program."""
    environment = {"HOME": str(program.home), **more}
    product.first_of_commands = functools.partial(_set_environment, environment)


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)


def cli(product: ForkedConnector, *arguments: str) -> str:
    """Run a command; return what it printed."""
    done = product.cli(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout


def bring_in(product: ForkedConnector, program: Program) -> str:
    files = ("-o", str(product.config), "--data-dir", str(product.folder / "data"))
    return cli(product, "import", f"{program.name}rc", str(program.rc), *files)


def once(product: ForkedConnector) -> tuple[int, int]:
    """Poll once; return how much was fetched, and delivered."""
    status, summary = product.once()
    assert status == 0, product.tail()
    return summary["fetched"], summary["delivered"]


def there_once(program: Program, messages: Sequence[bytes]) -> None:
    """See that each of these was delivered once: by its end, as heads get lines in front."""
    ends = [lf(raw).partition(b"\n\n")[2] for raw in messages]
    stored = program.server.messages("mine")
    assert len(stored) == len(messages)
    assert [sum(one.endswith(end) for one in stored) for end in ends] == [1] * len(ends)


def letters(count: int, first: int = 0) -> list[bytes]:
    return [
        b"From: a@example.net\r\nMessage-ID: <%d@example.net>\r\nSubject: %d\r\n\r\n"
        b"this is number %d\r\n" % (n, n, n)
        for n in range(first, first + count)
    ]


def test_nothing_is_fetched_twice_on_the_way_in_and_out_again(
    product: ForkedConnector, program: Program
) -> None:
    mail = letters(10)
    program.server.put("sales", *mail[:5])
    program.fetch()
    assert program.fetched() == 5

    said = bring_in(product, program)
    assert f"sales@{program.server.host}: 5 UIDLs" in said
    assert stat.S_IMODE(product.config.stat().st_mode) == 0o600
    told = json.loads(cli(product, "account", "test", f"sales@{program.server.host}", "--json"))
    assert (told["fetch"], told["delete"]) == ([], [])
    assert once(product) == (0, 0)
    program.server.put("sales", *mail[5:6])
    assert once(product) == (1, 1)
    assert once(product) == (0, 0)
    there_once(program, mail[:6])

    program.records.unlink()
    into = program.records.parent if program.name == "getmail" else program.records
    cli(product, "export", "uidls", "--format", program.name, "-o", str(into))
    program.server.put("sales", *mail[6:8])
    program.fetch()
    there_once(program, mail[:8])

    said = cli(product, "import", "uidls", "--format", program.name, str(into))
    assert "8 UIDLs, 2 of them new here" in said
    program.server.put("sales", *mail[8:])
    assert once(product) == (2, 2)
    there_once(program, mail)


def test_what_the_accounts_become(product: ForkedConnector, program: Program) -> None:
    program.server.put("sales", *letters(1))
    program.fetch()
    bring_in(product, program)
    account = next(a for a in load(product.config, {}).accounts if a.username == "sales")
    keep = {"fetchmail": "forever", "mpop": "forever", "getmail": "21d"}
    assert (account.username, account.tls, account.port, account.keep.text) == (
        "sales",
        "none",
        program.server.pop3,
        keep[program.name],
    )
    assert account.secret is not None
    assert account.secret.reveal() == SECRET
    assert account.enabled


@pytest.mark.parametrize("program", [Fetchmail], indirect=True)
def test_what_was_fetched_is_brought_into_a_postgresql(
    product: ForkedConnector, program: Program, database: PostgresqlServer
) -> None:
    state = {"POP3_CONNECTOR__STATE__URL": database.schema()[1]}
    mail = letters(4)
    program.server.put("sales", *mail[:3])
    program.fetch()
    at_home(product, program, **state)
    bring_in(product, program)
    program.server.put("sales", *mail[3:])
    assert once(product) == (1, 1)
    there_once(program, mail)
    assert not (product.folder / "data" / "state.db").exists()


@pytest.mark.parametrize("program", [Getmail], indirect=True)
def test_what_was_imported_is_deleted_when_its_time_is_over(
    product: ForkedConnector, program: Program
) -> None:
    """Of getmail it is known when it has fetched a message: its time goes on from there."""
    program.server.put("sales", *letters(3))
    program.fetch()
    lines = program.records.read_text().splitlines()
    old = [f"{line.partition(chr(0))[0]}\0{1_700_000_000}" for line in lines[:2]]
    program.records.write_text("\n".join([*old, lines[2], ""]))
    bring_in(product, program)
    assert once(product) == (0, 0)
    assert len(program.server.files("sales")) == 3, "nobody here had looked at them"
    assert once(product) == (0, 0)
    assert len(program.server.files("sales")) == 1


@pytest.mark.parametrize("program", [Fetchmail], indirect=True)
def test_what_is_there_is_not_overwritten_without_asking(
    product: ForkedConnector, program: Program
) -> None:
    product.config.write_text("mine")
    with pytest.raises(AssertionError, match="is there already"):
        bring_in(product, program)
    assert product.config.read_text() == "mine"
    assert not (product.folder / "data").exists()
