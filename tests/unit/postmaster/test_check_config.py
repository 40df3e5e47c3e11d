"""``check-config``: what would not do is refused before it runs, as ``run`` refuses it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers.process import free_port
from tests.unit.postmaster.conftest import Office

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


LACKING: Mapping[str, tuple[str, str]] = {
    "a machine whose time zone has no name": (
        'schedule = "every 5m"',
        "account sales: timezone: the time zone of this machine is not known by its name",
    ),
    "NTLM without what it takes": ('auth = "ntlm"', "account sales: auth: NTLM takes the package"),
    "NTLM at a destination": (
        '[destinations.x]\nurl = "smtp://u:p@mail.example?auth=ntlm"',
        "the url of destination 'x': NTLM takes the package pyspnego",
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_this_machine_lacks_is_said(
    office: Office, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setitem(sys.modules, "spnego", None)
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # POSIX has no name for it
    monkeypatch.setattr("tzlocal.unix._cache_tz", None)
    text, said = LACKING[what]
    office.config.write_text(office.config.read_text() + text)
    printed = office("check-config")
    assert printed.status == 2
    assert said in printed.err


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
