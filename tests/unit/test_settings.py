"""The configuration: what is understood, what is refused and how, and that secrets stay secret."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.queues import Tier
from shared.settings import Settings, load
from shared.settings_advice import warnings
from shared.settings_problems import WrongSettings

CONTRACT = """
data_dir = "/var/lib/pop3-connector"

[broker]
url = "amqp://user:hunter2@host:5672/vhost"

[state]
url = "postgresql+psycopg://user@host/db"

[spool]
url = "file:///srv/spool"
inline_limit = "64KiB"

[delivery]
url = "smtp://mail.corp.example:25"
[destinations.archive]
url = "maildir:///srv/archive/{mailbox}"

[retry]
tiers = ["30s", "5 M", "500ms"]
give_up_after = "2d"

[[account]]
name = "sales"
host = "pop.example.net"
port = 1995
tls = "implicit"
username = "sales@example.net"
password_file = "/run/secrets/sales"
poll_every = "1.5h"
keep = "delete"
mailbox = "sales@corp.example"
"""

MINIMAL = """
[delivery]
url = "maildir:///srv/mail/{mailbox}"
[[account]]
name = "sales"
host = "pop.example.net"
username = "sales"
password = "hunter2"
mailbox = "sales@corp.example"
"""


DURATION = '{}: {}: expected a duration with its unit, such as "30s", "5m", "2h" or "5d"'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "connector.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def loaded(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return load(written(tmp_path, text), environ or {})


def refusal(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what is said about a wrong configuration, a line each, without the directory."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


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
    settings = loaded(tmp_path, MINIMAL)
    assert settings.broker.address() is None
    assert settings.queue_file == Path("connector-data/queue.db")
    assert settings.state_address() == f"sqlite:///{Path.cwd()}/connector-data/state.db"
    assert settings.spool_url == f"{Path.cwd()}/connector-data/spool"
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
            '[destinations.x]\nurl = "imap://host"',
            (
                "10: destinations.x.url: expected a URL that begins with smtp:, smtps:,"
                " lmtp:, lmtp+unix:, maildir: or pickup:"
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
        ("[[account]]", "9: account[1].host: this key is missing"),
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
            " password_file, password_env, password_command"
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


class TestEnvironment:
    def test_lies_over_the_file(self, tmp_path: Path) -> None:
        settings = loaded(
            tmp_path,
            CONTRACT,
            {
                "POP3_CONNECTOR__BROKER__URL": "amqp://elsewhere",
                "POP3_CONNECTOR__DATA_DIR": "/data",
                "POP3_CONNECTOR__RETRY__TIERS": "1s, 2s",
                "POP3_CONNECTOR__DESTINATIONS__ARCHIVE__URL": "lmtp://lmtp.corp.example:24",
                "POP3_CONNECTOR__STATE__URL": "",
                "UNRELATED": "x",
            },
        )
        assert settings.broker.address() == "amqp://elsewhere"
        assert settings.data_dir == Path("/data")
        assert [tier.label for tier in settings.retry.tiers] == ["1s", "2s"]
        assert settings.destinations["archive"].address() == "lmtp://lmtp.corp.example:24"
        assert settings.state_address() == "postgresql+psycopg://user@host/db"

    @pytest.mark.parametrize("which", ["0", "SALES"])
    def test_names_an_account_by_number_or_name(self, tmp_path: Path, which: str) -> None:
        settings = loaded(tmp_path, CONTRACT, {f"POP3_CONNECTOR__ACCOUNT__{which}__PORT": "2995"})
        assert [account.port for account in settings.accounts] == [2995]

    def test_names_an_account_with_underscores_for_other_characters(self, tmp_path: Path) -> None:
        text = MINIMAL.replace('name = "sales"', 'name = "sales@example.net"')
        environ = {"POP3_CONNECTOR__ACCOUNT__SALES_EXAMPLE_NET__PORT": "2995"}
        assert [account.port for account in loaded(tmp_path, text, environ).accounts] == [2995]

    def test_two_passwords_in_it_are_one_too_many(self, tmp_path: Path) -> None:
        environ = {
            "POP3_CONNECTOR__ACCOUNT__SALES__PASSWORD": "a",
            "POP3_CONNECTOR__ACCOUNT__SALES__PASSWORD_FILE": "/b",
        }
        assert "given 2 times: password, password_file" in refusal(tmp_path, MINIMAL, environ)[0]

    def test_is_enough_without_a_file(self) -> None:
        settings = load(
            None,
            {
                "POP3_CONNECTOR__DELIVERY__URL": "smtp://mail",
                "POP3_CONNECTOR__ACCOUNT__INFO__HOST": "pop.example.net",
                "POP3_CONNECTOR__ACCOUNT__INFO__USERNAME": "info",
                "POP3_CONNECTOR__ACCOUNT__INFO__PASSWORD": "hunter2",
                "POP3_CONNECTOR__ACCOUNT__INFO__MAILBOX": "info@corp.example",
                "POP3_CONNECTOR__ACCOUNT__INFO__KEEP": "delete",
            },
        )
        account = settings.accounts[0]
        assert (account.name, account.host, account.keep.seconds) == ("info", "pop.example.net", 0)

    def test_reads_a_value_from_a_file(self, tmp_path: Path) -> None:
        secret = tmp_path / "url"
        secret.write_text("amqp://me:s3cret@rabbit\n\n")
        environ = {"POP3_CONNECTOR__BROKER__URL_FILE": str(secret)}
        # One line end is stripped; a second one belongs to the value, and no URL has one.
        assert (
            "POP3_CONNECTOR__BROKER__URL_FILE: broker.url" in refusal(tmp_path, MINIMAL, environ)[0]
        )
        secret.write_text("amqp://me:s3cret@rabbit\n")
        assert loaded(tmp_path, MINIMAL, environ).broker.address() == "amqp://me:s3cret@rabbit"
        secret.unlink()
        assert refusal(tmp_path, MINIMAL, environ) == [
            "POP3_CONNECTOR__BROKER__URL_FILE url: cannot read it: No such file or directory"
        ]

    def test_a_password_replaces_that_of_the_file(self, tmp_path: Path) -> None:
        environ = {"POP3_CONNECTOR__ACCOUNT__SALES__PASSWORD": "from outside"}
        secret = loaded(tmp_path, CONTRACT, environ).accounts[0].secret
        assert secret is not None
        assert secret.reveal() == "from outside"

    def test_a_password_file_is_left_to_be_read_when_it_is_used(self, tmp_path: Path) -> None:
        path = tmp_path / "sales"
        environ = {"POP3_CONNECTOR__ACCOUNT__SALES__PASSWORD_FILE": str(path)}
        secret = loaded(tmp_path, MINIMAL, environ).accounts[0].secret
        assert secret is not None
        path.write_text("rotated")
        assert secret.reveal() == "rotated"

    def test_errors_name_the_variable(self, tmp_path: Path) -> None:
        environ = {
            "POP3_CONNECTOR__BROKER__URL": "http://x",
            "POP3_CONNECTOR__BROKER__ULR": "http://x",
            "POP3_CONNECTOR__ACCOUNT__SALES__PORT": "x",
        }
        lines = refusal(tmp_path, MINIMAL, environ)
        assert sorted(line.partition(": expected")[0] for line in lines) == [
            "POP3_CONNECTOR__ACCOUNT__SALES__PORT: account[0].port",
            "POP3_CONNECTOR__BROKER__ULR: broker.ulr: unknown key; did you mean 'url'?",
            "POP3_CONNECTOR__BROKER__URL: broker.url",
        ]

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("ACCOUNT__7__PORT", "there are only 1 before it; numbers start at 0"),
            ("DATA_DIR__X__Y", "data_dir is a value, not a table"),
            ("ACCOUNT__0", "account needs a number or name, and a key, after it"),
        ],
    )
    def test_a_variable_that_fits_nowhere(self, tmp_path: Path, name: str, said: str) -> None:
        text = 'data_dir = "/x"\n' + MINIMAL
        expected = [f"POP3_CONNECTOR__{name}: {said}"]
        assert refusal(tmp_path, text, {f"POP3_CONNECTOR__{name}": "1"}) == expected


class TestSecrets:
    def password(self, tmp_path: Path, line: str, environ: Mapping[str, str] | None = None) -> str:
        text = MINIMAL.replace('password = "hunter2"', line)
        secret = loaded(tmp_path, text, environ).accounts[0].secret
        assert secret is not None
        return secret.reveal()

    def test_come_from_four_places(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b" p\xc3\xa4ss word \r\n")
        assert self.password(tmp_path, 'password = " literal "') == " literal "
        assert self.password(tmp_path, f'password_file = "{path}"') == " päss word "
        assert self.password(tmp_path, 'password_env = "PW"', {"PW": "from env"}) == "from env"
        command = "password_command = \"printf '%s\\\\n' 'a  b'\""
        assert self.password(tmp_path, command) == "a  b"

    def test_a_rotated_file_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("old")
        text = MINIMAL.replace('password = "hunter2"', f'password_file = "{path}"')
        secret = loaded(tmp_path, text).accounts[0].secret
        assert secret is not None
        assert secret.reveal() == "old"
        path.write_text("new")
        assert secret.reveal() == "new"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('password_file = "/nowhere/x"', "password_file /nowhere/x: cannot read it: No such"),
            ('password_file = "/dev/null"', "password_file /dev/null: it is empty"),
            ('password_file = "/dev/zero"', "/dev/zero: more than 65536 bytes"),
            ('password_env = "NOPE"', "password_env NOPE: there is no such environment variable"),
            ('password_command = "/nowhere/x"', "/nowhere/x: cannot run it: No such file"),
            (
                "password_command = \"sh -c 'echo hunter2; echo hunter2 >&2; exit 3'\"",
                "the command ended with status 3",
            ),
        ],
    )
    def test_that_cannot_be_had(self, tmp_path: Path, line: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.password(tmp_path, line)
        assert said in str(caught.value)
        assert caught.value.what.count("hunter2") == 0

    def test_a_command_that_hangs_is_given_up_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.settings_secret.COMMAND_SECONDS", 0.05)
        with pytest.raises(ConfigError, match="took more than"):
            self.password(tmp_path, 'password_command = "sleep 60"')

    def test_a_command_line_is_checked_when_it_is_read(self, tmp_path: Path) -> None:
        text = MINIMAL.replace('password = "hunter2"', 'password_command = "sh -c \'x"')
        assert "a quotation mark is not closed" in refusal(tmp_path, text)[0]

    def test_are_masked_wherever_settings_are_shown(self, tmp_path: Path) -> None:
        text = MINIMAL + (
            '[broker]\nurl = "amqp://me:hunter2@host"\n'
            '[state]\nurl = "postgresql://me@host/db?password=hunter2"\n'
            '[spool.options]\nsecret = "hunter2"\n'
            '[destinations.x]\nurl = "smtp://me@mail"\npassword = "hunter2"\n'
        )
        settings = loaded(tmp_path, text)
        assert settings.destinations["x"].address() == "smtp://me:hunter2@mail"
        for shown in (repr(settings), str(settings), repr(settings.accounts[0].secret)):
            assert "hunter2" not in shown
        assert "amqp://me:***@host" in repr(settings)
        assert "/db?password=***" in repr(settings)

    @pytest.mark.parametrize(
        "text",
        [
            'mailbox = ["hunter2"]',
            'password = ["hunter2"]',
            '[broker]\nurl = "hunter2"',
            '[broker]\nurl = "amqp://me:hunter2/@host"',
            '[broker]\npassword = "hunter2"',
            'broker = "hunter2"',
            'keep = "hunter2"\n[retry]\ntiers = "hunter2"',
            '[spool]\ninline_limit = "hunter2"\noptions = "hunter2"',
            'x = "hunter2',
        ],
    )
    def test_no_error_repeats_a_value(self, tmp_path: Path, text: str) -> None:
        base = MINIMAL.replace('mailbox = "sales@corp.example"\n', "")
        with pytest.raises(ConfigError) as caught:
            loaded(tmp_path, base + text)
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__

    def test_pydantic_itself_is_told_to_hide_them(self) -> None:
        with pytest.raises(ValueError, match="data_dir") as caught:
            Settings.model_validate({"data_dir": ["hunter2"]})
        assert "hunter2" not in str(caught.value)

    def test_a_password_beside_a_url_is_put_into_it(self, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("p@ss/w:rd\n")
        text = MINIMAL + (
            f'[broker]\nurl = "amqps://rabbit:5671/v"\nusername = "a@b"\n'
            f'password_file = "{tmp_path}/pw"'
        )
        address = loaded(tmp_path, text).broker.address()
        assert address == "amqps://a%40b:p%40ss%2Fw%3Ard@rabbit:5671/v"


class TestWarnings:
    def about(self, tmp_path: Path, text: str) -> list[str]:
        path = written(tmp_path, text)
        return warnings(load(path, {}), path)

    def test_nothing_to_say(self, tmp_path: Path) -> None:
        assert self.about(tmp_path, MINIMAL) == []

    def test_files_with_secrets_that_everybody_can_read(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0o644)
        text = MINIMAL.replace('password = "hunter2"', f'password_file = "{secret}"')
        path = written(tmp_path, text)
        path.chmod(0o644)
        said = f"{secret} holds a secret and everybody can read it; chmod o-r {secret}"
        assert warnings(load(path, {}), path) == [said]
        path.write_text(MINIMAL)
        assert warnings(load(path, {}), path) == [said.replace(str(secret), str(path))]

    def test_nothing_of_files_that_an_engine_or_a_kernel_provides(self, tmp_path: Path) -> None:
        text = MINIMAL.replace('password = "hunter2"', 'password_file = "/dev/null"')
        assert self.about(tmp_path, text) == []
        secret = loaded(tmp_path, CONTRACT).accounts[0].secret
        assert secret is not None
        assert secret.managed

    def test_a_password_in_clear(self, tmp_path: Path) -> None:
        text = MINIMAL + 'tls = "none"'
        assert "in clear" in self.about(tmp_path, text)[0]
        assert self.about(tmp_path, text.replace("pop.example.net", "localhost")) == []

    def test_no_accounts(self, tmp_path: Path) -> None:
        assert "nothing will be fetched" in self.about(tmp_path, "")[0]


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.data_dir = Path("/")


def test_problems_are_there_for_programs_too(tmp_path: Path) -> None:
    with pytest.raises(WrongSettings) as caught:
        loaded(tmp_path, MINIMAL + "port = 0")
    assert [problem.what for problem in caught.value.problems] == ["expected 1 or more"]
    assert os.linesep not in caught.value.what
