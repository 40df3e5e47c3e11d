"""What README and docs say of the configuration, held against the program."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.deliverer.couriers import courier_for
from shared.settings import Account, Broker, Destination, Monitor, Retry, Settings, Spool, load
from shared.settings_secret import SOURCES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()

TABLES: dict[str, type[BaseModel]] = {
    "## Keys": Settings,
    "### `[broker]`": Broker,
    "### `[spool]`": Spool,
    "### `[delivery]` and `[destinations.NAME]`": Destination,
    "### `[retry]`": Retry,
    "### `[monitor]`": Monitor,
    "### `[[account]]`": Account,
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
            "accounts",
        )
        if not is_table and name not in SOURCES:
            yield name


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_and_no_other(heading: str) -> None:
    documented = re.findall(r"^\| `([a-z_]+)`", section(heading), re.MULTILINE)
    assert sorted(documented) == sorted(keys(TABLES[heading]))


def test_every_way_to_give_a_password_is_documented() -> None:
    assert re.findall(r"^\| `(\w+)`", section("## Passwords"), re.MULTILINE) == list(SOURCES)


def test_the_defaults_that_are_documented_hold() -> None:
    spool, retry = section("### `[spool]`"), section("### `[retry]`")
    assert f'`inline_limit` | `"{Spool().inline_limit // 1024}KiB"`' in spool
    assert ", ".join(f'"{tier.label}"' for tier in Retry().tiers) in retry
    assert f'`give_up_after` | `"{Retry().give_up_after / 86_400:g}d"`' in retry
    defaults = Account.model_fields
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
    assert len(urls) == 7
    for url in urls:
        await courier_for("documented", url).close()


async def test_the_options_that_are_documented_are_taken() -> None:
    options = re.findall(r"^\| `(\w+=\w+)`", section("## Destinations"), re.MULTILINE)
    assert len(options) == 8
    for option in options:
        await courier_for("documented", f"smtp://mail.example?{option}").close()


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


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
def test_what_a_page_links_to_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
