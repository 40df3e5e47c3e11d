"""The configuration from the environment: it lies over the file, or stands in for it."""

from pathlib import Path

import pytest

from shared.settings.load import load
from tests.unit.configurations import CONTRACT, MINIMAL, loaded, refusal


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
