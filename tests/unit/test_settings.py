"""The configuration: what is understood, what is refused and how."""

import math
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.queues import Tier
from shared.settings.load import load
from shared.settings.problems import WrongSettings
from tests.unit.configurations import CONTRACT, MINIMAL, loaded, refusal

DURATION = '{}: {}: expected a duration with its unit, such as "30s", "5m", "2h" or "5d"'


def test_the_whole_contract_is_understood(tmp_path: Path) -> None:
    settings = loaded(tmp_path, CONTRACT)
    assert settings.data_dir == Path("/var/lib/pop3-connector")
    assert settings.broker.address() == "amqp://user:hunter2@host:5672/vhost"
    assert settings.state_address() == "postgresql+psycopg://user@host/db"
    assert settings.spool_url == "file:///srv/spool"
    assert settings.spool.inline_limit == 65536
    assert {name: d.address() for name, d in settings.every_destination.items()} == {
        "default": "smtp://mail.corp.example:25",
        "archive": "maildir:///srv/archive/{mailbox}",
    }
    assert settings.retry.tiers == (Tier("30s", 30), Tier("5m", 300), Tier("500ms", 0.5))
    assert settings.retry.give_up_after == 2 * 86400
    account = settings.accounts[0]
    assert (account.name, account.host, account.port) == ("sales", "pop.example.net", 1995)
    assert (account.tls, account.username) == ("implicit", "sales@example.net")
    assert (account.poll_every, account.keep.seconds) == (5400, 0)
    assert (account.mailbox, account.destination) == ("sales@corp.example", "default")


def test_defaults_need_nothing_but_the_account_and_where_to_deliver(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL, {"STATE_DIRECTORY": "/srv/mine"})
    assert settings.broker.address() is None
    assert settings.queue_file == Path("/srv/mine/queue.db")
    assert settings.state_address() == Path("/srv/mine/state.db")
    assert settings.spool_url == "/srv/mine/spool"
    assert settings.spool.inline_limit == 128 * 1024
    assert [tier.label for tier in settings.retry.tiers] == ["30s", "5m", "30m", "2h", "6h"]
    assert settings.retry.give_up_after == 5 * 86400
    account = settings.accounts[0]
    assert (account.tls, account.port, account.poll_every) == ("implicit", 995, 300)
    assert account.enabled


def test_mail_stays_on_the_server_unless_somebody_asks_for_its_deletion(tmp_path: Path) -> None:
    assert loaded(tmp_path, MINIMAL).accounts[0].keep.seconds == math.inf
    week = loaded(tmp_path, MINIMAL + 'keep = "7d"').accounts[0].keep
    assert (week.text, week.seconds) == ("7d", 7 * 86400)


@pytest.mark.parametrize(("tls", "port"), [("implicit", 995), ("starttls", 110), ("none", 110)])
def test_the_port_follows_from_tls(tmp_path: Path, tls: str, port: int) -> None:
    assert loaded(tmp_path, MINIMAL + f'tls = "{tls}"').accounts[0].port == port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('port = "many"', "9: account[0].port: expected a whole number"),
        ("port = 0", "9: account[0].port: expected 1 or more"),
        ("port = 65536", "9: account[0].port: expected 65535 or less"),
        (
            'tls = "ssl"',
            "9: account[0].tls: expected 'implicit', 'starttls' or 'none'",
        ),
        ("poll_every = 300", DURATION.format(9, "account[0].poll_every")),
        (
            'keep = "yes"',
            ('9: account[0].keep: expected "delete", "forever" or a duration such as "7d"'),
        ),
        (
            'usernam = "x"',
            "9: account[0].usernam: unknown key; did you mean 'username'?",
        ),
        ('enabled = "perhaps"', "9: account[0].enabled: expected true or false"),
        (
            'destination = "archiv"\n[destinations.archive]\nurl = "pickup:///x"',
            ("9: account[0].destination: no such destination; did you mean 'archive'?"),
        ),
        (
            'password_env = "X"',
            "3: account[0]: the password is given 2 times: password, password_env",
        ),
        (
            "[retry]\ntiers = []",
            ('10: retry.tiers: expected a list of 1 to 20 durations, such as ["30s", "5m", "2h"]'),
        ),
        (
            '[retry]\ntiers = ["1m", "1 M"]',
            ("10: retry.tiers: the same tier stands twice; the last one repeats by itself"),
        ),
        (
            '[spool]\ninline_limit = "16MiB"',
            "10: spool.inline_limit: expected 15728640 or less",
        ),
        (
            '[broker]\nurl = "redis://host"',
            (
                "10: broker.url: expected amqp://user:password@host:5672/vhost or"
                " amqps://...; leave the key out for the embedded broker"
            ),
        ),
        (
            '[broker]\nurl = "amqp://host"\npassword = "hunter2"',
            "9: broker: there is a password, but no username here or in the url",
        ),
        (
            '[broker]\nurl = "amqp://me:hunter2@host"\npassword = "hunter2"',
            "9: broker: the password is given twice: in the url and as password",
        ),
        (
            '[broker]\nurl = "amqp://me:hun/ter2@host"',
            (
                "10: broker.url: cannot read this URL; characters such as / @ : # in a"
                " password are written as %2F %40 %3A %23"
            ),
        ),
        (
            '[destinations.x]\nurl = "maildir://srv/mail"',
            (
                "10: destinations.x.url: expected an absolute path after three slashes:"
                " maildir:///path"
            ),
        ),
        (
            '[destinations.x]\nurll = "smtp:mail"\nurl = "smtp:mail"',
            "11: destinations.x.url: expected a host: smtp://host:port",
        ),
        (
            '[destinations.default]\nurl = "smtp://mail"',
            ("9: destinations.default: the name 'default' stands for [delivery]; choose another"),
        ),
        (
            '[destinations.x]\nurl = "nntp://host"',
            (
                "10: destinations.x.url: expected a URL that begins with smtp:, smtps:,"
                " lmtp:, imap:, imaps:, lmtp+unix:, maildir:, pickup: or replay:"
            ),
        ),
        ('poll_every = "0s"', DURATION.format(9, "account[0].poll_every")),
        (
            '[retry]\ntiers = ["41d"]',
            "10: retry.tiers: expected a wait of 1ms to 40d: RabbitMQ keeps no longer timers",
        ),
        (
            '[broker]\nurl = "amqp://h"\nusername = "u"\npassword = ""',
            "12: broker.password: expected a text that is not empty",
        ),
        ("[retyr]", "9: retyr: unknown key; did you mean 'retry'?"),
        (
            (
                '[[account]]\nname = "sales"\nhost = "h"\nusername = "u"\npassword = "p"\n'
                'mailbox = "m@x"'
            ),
            "10: account[1].name: another account has this name; names are unique",
        ),
        ("[[account]]", "9: account[1].username: this key is missing"),
        ("a = \n", "9:5: this is not TOML: Invalid value"),
    ],
)
def test_a_wrong_key_is_named_with_its_line_and_what_is_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert f"connector.toml:{expected}" in refusal(tmp_path, MINIMAL.lstrip() + text)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    lines = refusal(tmp_path, MINIMAL + 'port = 0\nkeep = 1\nfoo = 1\n[retry]\ntiers = "x"')
    assert len(lines) == 4


def test_an_account_needs_a_password_and_a_destination(tmp_path: Path) -> None:
    lacking = MINIMAL.replace('password = "hunter2"', "")
    assert refusal(tmp_path, lacking) == [
        (
            "connector.toml:4: account[0]: there is no password: expected one of password,"
            " password_file, password_env, password_command, or an oauth table"
        )
    ]
    assert refusal(tmp_path, MINIMAL[MINIMAL.index("[[acc") :]) == [
        "connector.toml:1: account[0]: nowhere to deliver to: expected [delivery] with a url"
    ]


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("pop.example.net", True),
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("pop3://pop.example.net", False),
        ("pop.example.net:995", False),
        ("a b", False),
    ],
)
def test_a_host_is_a_host(tmp_path: Path, host: str, good: bool) -> None:
    text = MINIMAL.replace("pop.example.net", host)
    if good:
        assert loaded(tmp_path, text).accounts[0].host == host
    else:
        assert "account[0].host: expected a host name" in refusal(tmp_path, text)[0]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 101, "ä"])
def test_account_names_are_limited(tmp_path: Path, name: str) -> None:
    text = MINIMAL.replace('name = "sales"', f'name = "{name}"')
    assert "account[0].name: expected 1 to 100 letters" in refusal(tmp_path, text)[0]


@pytest.mark.parametrize("content", [b"\xff", None])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "connector.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"connector\.toml: (cannot read it|it is not UTF-8)"):
        load(path, {})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "connector.toml").write_text(MINIMAL, "utf-8-sig")
    assert load(tmp_path / "connector.toml", {}) == loaded(tmp_path, MINIMAL)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ('"1 MB"', 10**6), ('"1.5KiB"', 1536), ('"0"', 0)]
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    settings = loaded(tmp_path, MINIMAL + f"[spool]\ninline_limit = {text}")
    assert settings.spool.inline_limit == size


def test_paths_and_the_spool_may_stand_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = loaded(tmp_path, 'data_dir = "~/mail"\n[spool]\nurl = "~/big mail"')
    assert settings.data_dir == Path("/home/me/mail")
    assert settings.spool_url == "file:///home/me/big mail"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.data_dir = Path("/")


def test_problems_are_there_for_programs_too(tmp_path: Path) -> None:
    with pytest.raises(WrongSettings) as caught:
        loaded(tmp_path, MINIMAL + "port = 0")
    assert [problem.what for problem in caught.value.problems] == ["expected 1 or more"]
    assert os.linesep not in caught.value.what


def test_a_broker_may_have_several_nodes(tmp_path: Path) -> None:
    nodes = '[broker]\nurls = ["amqp://a", "amqp://b:99/v"]\nusername = "u"\npassword = "p"'
    broker = loaded(tmp_path, f"{nodes}\n{MINIMAL}").broker
    assert broker.addresses() == ("amqp://u:p@a", "amqp://u:p@b:99/v")
    assert not broker.embedded
    both = nodes.replace("urls", 'url = "amqp://c"\nurls')
    (said,) = refusal(tmp_path, f"{both}\n{MINIMAL}")
    assert said.endswith("broker: there are a url and urls: write all of them into urls")
    (said,) = refusal(tmp_path, f'[broker]\nurls = ["amqp://a", "http://b"]\n{MINIMAL}')
    assert "broker.urls: expected amqp://user:password@host:5672/vhost" in said
    (said,) = refusal(tmp_path, f"[broker]\nurls = []\n{MINIMAL}")
    assert "broker.urls: expected a list of 1 to 20 URLs" in said


def test_nodes_from_the_environment_replace_the_url_of_the_file(tmp_path: Path) -> None:
    environ = {"POP3_CONNECTOR__BROKER__URLS": "amqp://u:p%2C@a, amqp://u:p%2C@b"}
    broker = loaded(tmp_path, f'[broker]\nurl = "amqp://c"\n{MINIMAL}', environ).broker
    assert broker.addresses() == ("amqp://u:p%2C@a", "amqp://u:p%2C@b")
    environ = {"POP3_CONNECTOR__BROKER__URL": "amqp://c"}
    assert loaded(tmp_path, f'[broker]\nurls = ["amqp://a"]\n{MINIMAL}', environ).broker.addresses()


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:hush@a:5672//;amqp://u:hush@b:5672//",
        "amqp://u:hush@a;amqp://u:hush@b",
        "amqp://u:hush@a,amqp://u:hush@b",
        "amqp://u:hush@a/v; amqps://u:hush@b/v",
        "amqp://u:hush@a;b/v",
        "amqp://u:hush@a,b:5672/v",
        "amqp://u:hush@a;u:hush@b/v",
    ],
)
@pytest.mark.parametrize("key", ["url = {}", "urls = [{}]"])
def test_several_brokers_in_one_url_are_refused_without_their_passwords(
    tmp_path: Path, url: str, key: str
) -> None:
    text = key.format(f'"{url}"')
    (said,) = refusal(tmp_path, f"[broker]\n{text}\n{MINIMAL}")
    assert "several brokers are a list: urls = [" in said
    assert "hush" not in said


def test_what_may_stand_between_urls_may_stand_in_one(tmp_path: Path) -> None:
    url = "amqp://u;,:p;,@a/v;,"
    assert loaded(tmp_path, f'[broker]\nurl = "{url}"\n{MINIMAL}').broker.address() == url


def test_many_accounts_take_little_memory(tmp_path: Path) -> None:
    """As 50,000 are to be read in a container of 512 MiB; 2.4 KiB each were measured."""
    count = 5_000
    accounts = "".join(
        f'[[account]]\nname = "u{n}"\nhost = "pop.example.net"\nusername = "u{n}@example.net"\n'
        f'password_file = "/run/secrets/u{n}"\nmailbox = "u{n}@corp.example"\nkeep = "7d"\n'
        for n in range(count)
    )
    path = tmp_path / "many.toml"
    path.write_text(f'data_dir = "/var/lib/x"\n[delivery]\nurl = "smtp://mail.example"\n{accounts}')
    load(path, {})
    tracemalloc.start()
    try:
        settings = load(path, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(settings.accounts) == count
    assert peak < 2_600 * count


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('tls_fingerprint = "sha256:00"', 'expected "sha256:" and 64 hexadecimal digits'),
        ("tls_fingerprint = []", 'expected "sha256:" and 64 hexadecimal digits'),
        ('tls = "none"\ntls_fingerprint = "sha256:' + "0" * 64 + '"', "there is no certificate"),
        ('client_key = "/k"', "there is a client_key, but no client_cert"),
        ('proxy = "socks5://127.0.0.1"', "expected a proxy with its port"),
        ('proxy = "ftp://127.0.0.1:1"', "expected a proxy with its port"),
        ('proxy = "socks5://127.0.0.1:99999"', "cannot read this URL"),
        ('proxy = "socks5://127.0.0.1:0"', "expected a proxy with its port"),
        ('proxy = "socks5://[::1:1080"', "cannot read this URL"),
        ('proxy = "http://@:1080"', "expected a proxy with its port"),
        ('proxy = "socks5://a:' + "x" * 256 + '@host:1080"', "of up to 255 letters of ASCII"),
        ('proxy = "socks5://a:%C3%A4@host:1080"', "of up to 255 letters of ASCII"),
        ('bind = "eth0"', "expected an IP address of this machine"),
        ('auth = "plaintext"', "auth"),
    ],
)
def test_what_is_wrong_with_the_way_to_a_server_is_said(
    tmp_path: Path, line: str, what: str
) -> None:
    path = tmp_path / "connector.toml"
    path.write_text(
        f'data_dir = "/var/lib/x"\n[delivery]\nurl = "smtp://mail.example"\n[[account]]\n'
        'name = "a"\nhost = "pop.example.net"\nusername = "a"\npassword = "p"\nmailbox = "a@b"\n'
        f"{line}\n"
    )
    with pytest.raises(ConfigError, match=re.escape(what)):
        load(path, {})


def test_lists_of_an_account_can_be_given_as_variables(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text(
        'data_dir = "/var/lib/x"\n[delivery]\nurl = "smtp://mail.example"\n[[account]]\n'
        'name = "a"\nhost = "pop.example.net"\nusername = "a"\npassword = "p"\nmailbox = "a@b"\n'
    )
    one, two = "a" * 64, "b" * 64
    begins = "POP3_CONNECTOR__ACCOUNT__A__"
    environ = {
        f"{begins}SCHEDULE": "sat,sun 07:00-19:00 every 2m; every 30m",
        f"{begins}TLS_FINGERPRINT": f"sha256:{one}, sha256:{two}",
    }
    account = load(path, environ).accounts[0]
    assert [rule.every for rule in account.schedule or ()] == [120, 1800]
    assert account.tls_fingerprint == {one, two}


def test_a_fingerprint_is_read_as_openssl_prints_it(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    printed = "sha256:" + ":".join(["AB"] * 32)
    path.write_text(
        f'data_dir = "/var/lib/x"\n[delivery]\nurl = "smtp://mail.example"\n[[account]]\n'
        'name = "a"\nhost = "pop.example.net"\nusername = "a"\npassword = "p"\nmailbox = "a@b"\n'
        f'tls_fingerprint = ["{printed}"]\n'
    )
    assert load(path, {}).accounts[0].tls_fingerprint == {"ab" * 32}
