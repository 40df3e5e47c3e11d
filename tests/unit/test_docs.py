"""What README and docs say of the configuration, held against the program."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.command_line import OPERATOR, main
from services.deliverer.destinations import courier_for
from shared.settings.account import AccountSettings
from shared.settings.load import load
from shared.settings.model import (
    BrokerSettings,
    DestinationSettings,
    LimitSettings,
    MonitorSettings,
    RetrySettings,
    Settings,
    SpoolSettings,
)
from shared.settings.oauth import OAuthSettings, TokenKeySettings
from shared.settings.secret import SOURCES, sources

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()

SECRETS = (*SOURCES, *sources("client_secret"), *sources("refresh_token"))

TABLES: dict[str, type[BaseModel]] = {
    "## Keys": Settings,
    "### `[broker]`": BrokerSettings,
    "### `[spool]`": SpoolSettings,
    "### `[delivery]` and `[destinations.NAME]`": DestinationSettings,
    "### `[retry]`": RetrySettings,
    "### `[monitor]`": MonitorSettings,
    "### `[limits]`": LimitSettings,
    "### `[[account]]`": AccountSettings,
    "### `[account.oauth]` and `[destinations.NAME.oauth]`": OAuthSettings,
    "### `[oauth]`": TokenKeySettings,
}


def section(heading: str) -> str:
    """Return what is below a heading, up to the next one."""
    start = CONFIGURATION.index(f"{heading}\n") + len(heading)
    return re.split(r"^#", CONFIGURATION[start:], maxsplit=1, flags=re.MULTILINE)[0]


def keys(table: type[BaseModel]) -> Iterator[str]:
    """Yield the keys of a table that its own section has to name."""
    for name, field in table.model_fields.items():
        is_table = isinstance(field.default, BaseModel) or name in (
            "delivery",
            "destinations",
            "defaults",
            "accounts",
        )
        if not is_table and name != "oauth" and name not in SECRETS:
            yield name


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_and_no_other(heading: str) -> None:
    documented = re.findall(r"^\| `([a-z_]+)`", section(heading), re.MULTILINE)
    assert sorted(documented) == sorted(keys(TABLES[heading]))


def test_every_way_to_give_a_password_is_documented() -> None:
    assert re.findall(r"^\| `(\w+)`", section("## Passwords"), re.MULTILINE) == list(SOURCES)


def test_the_defaults_that_are_documented_hold() -> None:
    spool, retry = section("### `[spool]`"), section("### `[retry]`")
    assert f'`inline_limit` | `"{SpoolSettings().inline_limit // 1024}KiB"`' in spool
    assert ", ".join(f'"{tier.label}"' for tier in RetrySettings().tiers) in retry
    assert f'`give_up_after` | `"{RetrySettings().give_up_after / 86_400:g}d"`' in retry
    defaults = AccountSettings.model_fields
    for key, shown in {"tls": "implicit", "destination": "default"}.items():
        assert defaults[key].default == shown
        assert f'`{key}` | `"{shown}"`' in section("### `[[account]]`")
    assert defaults["keep"].default.text == "forever"
    assert (defaults["poll_every"].default, defaults["timeout"].default) == (300.0, 60.0)


def test_the_configurations_in_the_readme_are_understood(tmp_path: Path) -> None:
    first, *more = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(more) == 2
    for i, text in enumerate((first, *(first + extra for extra in more))):
        file = tmp_path / f"{i}.toml"
        file.write_text(text)
        assert load(file, {}).accounts[0].keep.text == "forever"


async def test_the_destinations_that_are_documented_exist() -> None:
    urls = re.findall(r"^\| `(\w[^` ]*://[^` ]+)`", section("## Destinations"), re.MULTILINE)
    assert len(urls) == 9
    for url in urls:
        await courier_for("documented", url).close()


async def test_the_options_that_are_documented_are_taken() -> None:
    options = re.findall(r"^\| `(\w+=\w+)`", section("## Destinations"), re.MULTILINE)
    assert len(options) == 9
    for option in options:
        login = "anna:secret@" if option.startswith("auth=") else ""
        await courier_for("documented", f"smtp://{login}mail.example?{option}").close()


async def test_the_options_of_mailboxes_that_are_documented_are_taken() -> None:
    options = re.findall(
        r"^\| `(\w+=[^`]+)`", section("### Into a mailbox elsewhere"), re.MULTILINE
    )
    assert len(options) == 5
    for option in options:
        if not option.startswith("ca_file="):
            url = f"imap://anna:secret@localhost/Old?{option.replace(' ', '%20')}"
            await courier_for("documented", url).close()


async def test_the_recipe_for_moving_into_gmail_is_understood(tmp_path: Path) -> None:
    recipe = (ROOT / "docs/providers.md").read_text().partition("\n## My old provider")[2]
    (text,) = re.findall(r"```toml\n(.*?)```", recipe, re.DOTALL)
    file = tmp_path / "connector.toml"
    file.write_text(re.sub(r"password_file = .*", 'password = "secret"', text))
    settings = load(file, {})
    assert settings.delivery is not None
    await courier_for("documented", settings.delivery.address() or "").close()


def test_the_environment_that_is_documented_is_understood(tmp_path: Path) -> None:
    lines = re.search(r"```sh\n(POP3_CONNECTOR__.*?)```", CONFIGURATION, re.DOTALL)
    assert lines
    environ = dict(re.findall(r"^(\w+)=(\S+)", lines[1], re.MULTILINE))
    for name in [name for name in environ if name.endswith("URL_FILE")]:
        secret = tmp_path / "secret"
        secret.write_text(environ[name.removesuffix("_FILE")])
        environ[name] = str(secret)
    base = tmp_path / "connector.toml"
    base.write_text(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0])
    settings = load(base, environ)
    assert str(settings.broker.url) == "amqp://rabbit"
    assert settings.accounts[0].port == 1995
    assert str(settings.accounts[0].secret) == "password_file /run/secrets/sales"
    assert [tier.label for tier in settings.retry.tiers] == ["30s", "5m", "1h"]
    assert "archive" in settings.destinations


PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Return what links may name after the ``#``: the headings of a page, as GitHub writes them."""
    headings = re.findall(r"^#+ +(.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    lost = []
    for target, anchor in re.findall(r"\]\(([^):#]*)(?:#([^)]*))?\)", page.read_text()):
        there = page.parent / target if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


def commands(page: str) -> list[list[str]]:
    """Return the words of each command in the shell blocks of a page."""
    lines = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_after_the_installation_of_the_readme_its_commands_are_found(tmp_path: Path) -> None:
    """It goes into a virtual environment, which nothing is found in by its name alone."""
    names = [words[0] for words in commands(README)]
    link = names.index("ln")
    assert link < names.index("pop3-connector")
    _, _, source, folder = commands(README)[link]
    assert any(words[:1] == [f"{Path(source).parent}/pip"] for words in commands(README)[:link])
    script = Path(sys.executable).parent / Path(source).name
    if not script.exists():  # run from a checkout that nobody has installed
        pytest.skip(f"there is no {script}")
    subprocess.run(["ln", "-s", str(script), f"{tmp_path}/"], check=True)
    environ = {**os.environ, "PATH": str(tmp_path)}
    assert shutil.which("pop3-connector", path=str(tmp_path))
    done = subprocess.run(["pop3-connector", "--version"], env=environ, capture_output=True)
    assert (done.returncode, folder) == (0, "/usr/local/bin/")


def test_the_commands_of_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    found = [words[1:] for words in commands(README) if words[0] == "pop3-connector"]
    assert len(found) > 10
    for words in found:
        typed = [word for word in words if word not in ("&", "ID")]
        assert main([*typed, "--help"]) == 0, words
        assert "Usage: pop3-connector" in capsys.readouterr().out


def test_the_guide_to_containers_begins_with_a_configuration_that_deletes_nothing() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    example = "deploy/connector.example.toml"
    assert f"`cp {example} connector.toml`" in guide
    assert "deploy/demo/connector.toml" not in guide
    settings = load(ROOT / example, {})
    assert settings.accounts
    for account in settings.accounts:
        assert (account.keep.text, account.tls) == ("forever", "implicit")
        assert str(account.secret).startswith("password_file /run/secrets/accounts/")


def test_what_users_write_beside_the_files_of_the_repository_is_not_committed() -> None:
    written = ["connector.toml", ".env", "deploy/secrets/accounts/sales", "message.eml"]
    pages = [(ROOT / "docs" / name).read_text() for name in ("operations.md", "kubernetes.md")]
    written += [name for page in pages for name in re.findall(r"(?<==)\./([\w./-]+)", page)]
    written += [name for page in pages for name in re.findall(r">([\w.-]+\.\w+)", page)]
    assert "password-of-sales" in written
    assert 'password="./$role-password"' in pages[1]
    written += [f"{role}-password" for role in ("connector", "fetcher", "deliverer", "postmaster")]
    command = ["git", "check-ignore", "--no-index", *written]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is no checkout")
    ignored = set(done.stdout.split())
    assert [name for name in written if name not in ignored] == []


def test_backups_lie_elsewhere_and_nobody_else_reads_them() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for heading in ("Backup", "Upgrade"):
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert "backups=/var/backups/pop3-connector\ninstall -d -m 0700" in section
        for line in section.splitlines():
            if "tar -C /from" in line or "pg_dump" in line:
                assert "umask 077" in line


def test_so_many_accounts_as_are_documented_fit_into_a_configmap() -> None:
    (said,) = re.findall(r"about ([\d,]+) accounts", (ROOT / "docs/scaling.md").read_text())
    account = re.findall(r"(\[\[account\]\].*?)```", README, re.DOTALL)[0]
    size = len(re.sub(r" +#.*", "", account).encode())
    assert 0.7 < int(said.replace(",", "")) * size / 2**20 <= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_and_file_that_a_page_names_exists(page: Path) -> None:
    files = [path for path in (ROOT / "tests").rglob("*.py") if not path.is_symlink()]
    sources = "".join(path.read_text() for path in files)
    text = page.read_text()
    named = set(re.findall(r"[`:](test_\w+)`", text))
    assert {name for name in named if f"def {name}(" not in sources} == set()
    paths = re.findall(r"[`/](test_\w+\.py)(?=[`:)])", text)
    assert {name for name in paths if name not in {path.name for path in files}} == set()
    for name, test in re.findall(r"(test_\w+\.py)::(test_\w+)", text):
        assert any(f"def {test}" in file.read_text() for file in files if file.name == name), test
    if page.name != "CHANGELOG.md":  # which names what there was
        ours = re.findall(r"`((?:services|shared|tests|scripts|deploy)/[\w/.-]+)`", text)
        here = [name for name in ours if not name.startswith("deploy/secrets/")]
        assert [name for name in here if not (ROOT / name).exists()] == []
    if page.name == "security.md":
        assert len(named) > 40


def test_every_command_of_the_operator_is_documented() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("## Command line"), re.MULTILINE)
    named = {words.split()[0] for row in rows for words in re.findall(r"`([^`]+)`", row)}
    assert set(OPERATOR) | {"check-config"} <= named
