"""``[account.oauth]``, ``[destinations.NAME.oauth]`` and ``[oauth]``: what they may say."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings.access_tokens import (
    client_of_account,
    client_of_destination,
    require_usable,
)
from shared.settings.advice import warnings
from shared.settings.load import load
from shared.settings.model import Settings
from shared.settings.written_secrets import secrets_in

BASE = """
[delivery]
url = "maildir:///srv/mail"
[[account]]
name = "sales"
host = "outlook.office365.com"
username = "sales@contoso.com"
mailbox = "sales@corp.example"
"""
TABLE = """
[account.oauth]
flow = "client_credentials"
tenant = "contoso.onmicrosoft.com"
token_url = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
client_id = "10e1a2b3"
client_secret = "hunter2hunter2"
scope = "https://outlook.office365.com/.default"
"""


def read(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "connector.toml"
    file.write_text(f'data_dir = "{folder}/data"\n{text}')
    file.chmod(0o600)
    return load(file, environ)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, text)
    assert "hunter2" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


def test_exchange_online_as_the_docs_have_it(tmp_path: Path) -> None:
    settings = read(tmp_path, BASE + TABLE)
    client = client_of_account(settings.accounts[0])
    expected = "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"
    assert client.token_url == expected
    assert client.secret is not None
    assert client.secret() == "hunter2hunter2"
    assert (client.flow, client.scope) == (
        "client_credentials",
        "https://outlook.office365.com/.default",
    )
    assert secrets_in(settings).hidden("it is hunter2hunter2") == "it is ***"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('flow = "client_credentials"', 'flow = "code"'), "needs a authorize_url"),
        (('flow = "client_credentials"', 'flow = "password"'), "flow: expected 'client_credent"),
        (('tenant = "contoso.onmicrosoft.com"', ""), "{tenant} in the token_url, but no tenant"),
        (("https://login", "http://login"), "token_url: expected https://: over http tokens"),
        (("https://login", "https://u:p@login"), "without a user name, a password"),
        (('client_secret = "hunter2hunter2"', ""), "expected one of client_secret, client_secret_"),
        (('client_id = "10e1a2b3"', 'client_ids = "x"'), "did you mean 'client_id'?"),
        (("scope =", 'certificate_file = "/x"\nscope ='), "a client secret and a certificate"),
        (("scope =", 'client_secret_env = "X"\nscope ='), "the client secret is given 2 times"),
        (("scope =", 'certificate_key_file = "/x"\nscope ='), "but no certificate_file"),
        (("scope =", 'refresh_token = "hunter2"\nscope ='), 'belongs to flow = "refresh_token"'),
        (("scope =", 'redirect_url = "http://example.net"\nscope ='), "expected http://localhost"),
        (('scope = "', 'scope = "\\"'), "expected scopes"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    said = refusal(tmp_path, BASE + TABLE.replace(*change))
    assert expected in said
    assert "connector.toml:" in said
    assert "account[0].oauth" in said


def test_an_account_has_a_password_or_an_oauth_table(tmp_path: Path) -> None:
    assert "there are a password and an oauth table" in refusal(
        tmp_path, f'{BASE}password = "hunter2"\n{TABLE}'
    )


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "127.8.8.8:80", "[::1]:8080"])
def test_plain_http_does_not_leave_this_machine(tmp_path: Path, host: str) -> None:
    text = BASE + TABLE.replace("https://login.microsoftonline.com", f"http://{host}")
    assert read(tmp_path, text).accounts[0].oauth is not None


@pytest.mark.parametrize("host", ["localhost.example.net", "127.0.0.1.example.net", "0.0.0.0"])
def test_what_only_looks_like_this_machine_is_none(tmp_path: Path, host: str) -> None:
    text = BASE + TABLE.replace("https://login.microsoftonline.com", f"http://{host}")
    assert "expected https://" in refusal(tmp_path, text)


def test_the_line_of_a_key_in_a_table_of_the_second_account(tmp_path: Path) -> None:
    second = BASE[BASE.index("[[account]]") :].replace("sales", "info", 1)
    text = BASE + TABLE + second + TABLE.replace('client_id = "10e1a2b3"', "client_id = 5")
    lines = f"x\n{text}".splitlines()
    number = lines.index("client_id = 5") + 1
    said = refusal(tmp_path, text)
    assert f"connector.toml:{number}: account[1].oauth.client_id" in said


def test_variables_name_files_of_secrets(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    prefix = "POP3_CONNECTOR__ACCOUNT__SALES__OAUTH__"
    environ = {f"{prefix}CLIENT_SECRET_FILE": str(secret), f"{prefix}CLIENT_ID": "another"}
    client = client_of_account(read(tmp_path, BASE + TABLE, **environ).accounts[0])
    assert client.client_id == "another"
    assert client.secret is not None
    assert client.secret() == "from the file"


def test_a_destination_has_its_user_in_the_url_or_beside_it(tmp_path: Path) -> None:
    table = TABLE.replace("account.oauth", "destinations.away.oauth")
    for keys in (
        'url = "imaps://anna%40x@imap.example.net/INBOX"',
        'url = "imaps://imap.example.net/INBOX"\nusername = "anna@x"',
    ):
        text = f'{BASE}password = "hunter2"\n[destinations.away]\n{keys}\n{table}'
        away = read(tmp_path, text).destinations["away"]
        assert away.address() == "imaps://anna%40x@imap.example.net/INBOX"
        assert client_of_destination("away", away).login_hint == "anna@x"
    for keys, expected in {
        'url = "imaps://imap.example.net/INBOX"': "no username here or in the url",
        'url = "imaps://a:hunter2@imap.example.net/"': "a password and an oauth table",
        'url = "pickup:///srv/pickup"\nusername = "a"': "for imap://, imaps://, smtp://",
    }.items():
        text = f'{BASE}password = "hunter2"\n[destinations.away]\n{keys}\n{table}'
        assert expected in refusal(tmp_path, text)


def test_a_key_in_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    settings = read(tmp_path, BASE + TABLE)
    assert settings.token_key_file == tmp_path / "data" / "oauth.key"
    (tmp_path / "data").mkdir()
    settings.token_key_file.write_text("x")
    settings.token_key_file.chmod(0o644)
    assert any("oauth.key holds a secret" in line for line in warnings(settings, None))
    assert "given twice" in refusal(tmp_path, f'[oauth]\nkey_file = "/k"\nkey_env = "K"\n{BASE}')


def test_a_key_file_that_cannot_be_looked_for_is_said(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)  # root may look into each folder, but not at such a name
    settings = read(tmp_path, f'[oauth]\nkey_file = "{long}"\n{BASE}{TABLE}')
    with pytest.raises(ConfigError, match="cannot read the key of the tokens"):
        require_usable(settings)
