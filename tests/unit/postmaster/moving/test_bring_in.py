"""The commands ``import`` and ``export``: what is written, and what is said."""

import json
import stat
from pathlib import Path

import pytest

from services.command_line import main
from shared.settings.load import load
from tests.servers.process import free_port
from tests.unit.postmaster.conftest import Office, Printed, office

__all__ = ["office"]

RC = """set daemon 60
poll pop.example.net proto pop3 user a@corp.example pass "p\\x22w" is a here ssl
poll pop.example.net proto pop3 user b pass y is b@corp.example here ssl mda procmail
poll mail.example.net proto pop3 user a@corp.example pass z is a here ssl lmtp smtphost /run/lmtp
"""
IDS = """a@corp.example@pop.example.net u1
a@corp.example@pop.example.net u2
b@pop.example.net u1
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / ".fetchmailrc").write_text(RC)
    (home / ".fetchids").write_text(IDS)
    return home


@pytest.fixture
def run(home: Path, capfd: pytest.CaptureFixture[str]) -> "Run":
    return Run(home, capfd)


class Run:
    """The command, at home."""

    def __init__(self, home: Path, capture: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._capture = capture
        self.output = home / "connector.toml"

    def __call__(self, *more: str) -> Printed:
        self._capture.readouterr()
        files = ["-o", str(self.output), "--data-dir", str(self._home / "data")]
        status = main(["import", "fetchmailrc", str(self._home / ".fetchmailrc"), *files, *more])
        out, err = self._capture.readouterr()
        assert "Traceback" not in out + err
        return Printed(status, out, err)


def test_what_can_be_polled_is_configured_and_the_rest_is_a_comment(run: Run) -> None:
    done = run()
    assert done.status == 1, "something is to be done by hand"
    one, two = load(run.output, {}).accounts
    assert (one.name, two.name) == ("a@corp.example", "a@corp.example-2")
    assert one.secret is not None
    assert (one.secret.reveal(), one.poll_every) == ('p"w', 60.0)
    urls = {n: str(d.url) for n, d in load(run.output, {}).every_destination.items()}
    assert urls == {"default": "smtp://localhost:25", "lmtp-unix-2": "lmtp+unix:///run/lmtp"}
    assert two.destination == "lmtp-unix-2"
    text = run.output.read_text()
    assert '# name = "b@pop.example.net"' in text
    assert ".fetchmailrc:3: there is to be a destination" in text
    assert stat.S_IMODE(run.output.stat().st_mode) == 0o600
    assert ".fetchmailrc:3: mda procmail: " in done.out
    assert "b@pop.example.net: 1 UIDLs; lacks a destination, and is a comment" in done.out
    assert 'p"w' not in done.out


def test_no_name_gets_out_of_a_comment(run: Run, home: Path) -> None:
    odd = "poll a.net proto pop3 user a pass b ssl is 'x\ndata_dir = 7' y mda \"a\n[delivery]\""
    (home / ".fetchmailrc").write_text(odd)
    assert run().status == 1
    assert load(run.output, {}).accounts == ()


def test_a_maildrop_that_is_named_twice_is_polled_once(run: Run, home: Path) -> None:
    """Each account would fetch all of it: other programs remember by maildrop, we by account."""
    twice = """skip pop.example.net proto pop3 user a@corp.example pass x is a here ssl
poll POP.example.net proto pop3 user a@corp.example pass x is a here ssl
poll pop.example.net proto pop3 user a@corp.example pass x is a here ssl mda procmail
"""
    (home / ".fetchmailrc").write_text(twice)
    done = run()
    assert done.status == 0, done
    (account,) = load(run.output, {}).accounts
    assert (account.host, account.enabled) == ("POP.example.net", True)
    assert ".fetchmailrc:1: another account of a@corp.example at pop.example.net: " in done.out
    assert "see that of .fetchmailrc:2" in done.out
    assert ".fetchmailrc:3: another account" in run.output.read_text()


def test_all_goes_where_it_is_told_to_go(run: Run) -> None:
    assert run("--delivery", "lmtp://127.0.0.1:24").status == 0
    settings = load(run.output, {})
    assert [account.destination for account in settings.accounts][1] == "lmtp-2"
    assert str(settings.destinations["lmtp-2"].url) == "lmtp://127.0.0.1:24"


def test_the_same_for_a_program(run: Run, home: Path) -> None:
    told = json.loads(run("--json").out)
    assert told["accounts"] == [
        {"account": "a@corp.example", "uidls": 2, "lacks": ""},
        {"account": "b@pop.example.net", "uidls": 1, "lacks": "a destination"},
        {"account": "a@corp.example-2", "uidls": 0, "lacks": ""},
    ]
    (left,) = told["left"]
    assert (left["where"], left["what"]) == (".fetchmailrc:3", "mda procmail")
    assert (told["configuration"], told["data_dir"]) == (str(run.output), str(home / "data"))


def test_what_it_makes_of_it_is_kept_for_a_look_where_we_do_not_take_it(run: Run) -> None:
    done = run("--delivery", "nowhere")
    assert done.status == 2
    assert "delivery" in done.err or "url" in done.err
    assert not run.output.exists()
    assert run.output.with_name("connector.toml.draft").exists()


def test_without_its_ledger_no_configuration_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts with it would fetch all again."""
    nowhere = f"postgresql://x:y@127.0.0.1:{free_port()}/z"
    monkeypatch.setenv("POP3_CONNECTOR__STATE__URL", nowhere)
    done = run("--delivery", "lmtp://127.0.0.1:24")
    assert (done.status, "Is the database running" in done.err) == (1, True)
    assert not list(run.output.parent.glob("connector.toml*"))


def test_uidls_in_another_place(run: Run, home: Path, tmp_path: Path) -> None:
    (home / ".fetchids").rename(tmp_path / "ids")
    assert "a@corp.example: 0 UIDLs" in run().out
    assert "a@corp.example: 2 UIDLs" in run("--yes", "--uidls", str(tmp_path / "ids")).out


def test_a_file_that_is_no_fetchmailrc(run: Run, home: Path) -> None:
    (home / ".fetchmailrc").write_text("poll a.net\nthis is secret\n")
    done = run()
    assert (done.status, "secret" in done.err) == (2, False)
    assert ".fetchmailrc:2: " in done.err
    (home / ".fetchmailrc").unlink()
    assert (run().status, "cannot read it" in run().err) == (2, True)


def test_uidls_go_out_and_come_in_again(office: Office, tmp_path: Path) -> None:
    uidls = tmp_path / "ids"
    uidls.write_text("sales@localhost u1\nsales@localhost u2\nnobody@localhost u3\n")
    took = office("import", "uidls", "--format", "fetchmail", str(uidls))
    assert (took.status, took.out) == (0, "sales: 2 UIDLs, 2 of them new here\n")
    took = office("import", "uidls", "--format", "fetchmail", str(uidls), "--json")
    assert took.json == [{"account": "sales", "uidls": 2, "new": 0}]
    gave = office("export", "uidls", "--format", "fetchmail", "--account", "sales")
    assert sorted(gave.out.splitlines()) == ["sales@localhost u1", "sales@localhost u2"]


def test_what_is_there_is_not_overwritten(office: Office, tmp_path: Path) -> None:
    there = tmp_path / "uidls"
    there.write_text("mine")
    command = ("export", "uidls", "--format", "mpop", "-o", str(there))
    done = office(*command)
    assert (done.status, there.read_text()) == (1, "mine")
    assert "pass --yes" in done.err
    assert office(*command, "--yes").status == 0
    assert there.read_text().startswith("# This file")
    assert stat.S_IMODE(there.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "mpop", "--account", "nobody"), "there is no account nobody"),
        (("--format", "getmail", "-o", "file"), "an existing folder"),
        (("--format", "mpop", "-o", "."), "a file"),
    ],
)
def test_what_cannot_be_written_is_told(
    office: Office, arguments: tuple[str, ...], words: str
) -> None:
    done = office("export", "uidls", *arguments)
    assert done.status != 0
    assert words in done.err
