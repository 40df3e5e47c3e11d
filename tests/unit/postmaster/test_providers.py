"""``providers``, and what ``check-config`` says of them; and docs/providers.md beside the rows."""

import re
from pathlib import Path

import pytest

from services.command_line import main
from services.postmaster.show import duration
from shared.settings.load import load
from shared.settings.providers import Provider, floor_of, load_providers
from tests.unit.postmaster.conftest import Office

OURS = load_providers(None)
PAGE = Path(__file__).parents[3] / "docs/providers.md"
AT_PROVIDERS = """
[[account]]
name = "one"
username = "anna@web.de"
poll_every = "1m"
password = "hunter2"
mailbox = "sales@corp.example"
[[account]]
name = "two"
username = "bea@web.de"
password = "hunter2"
mailbox = "sales@corp.example"
"""


class TestTheCommand:
    def test_lists_name_server_login_and_floor(self, office: Office) -> None:
        printed = office("providers")
        assert printed.status == 0
        line = next(line for line in printed.out.splitlines() if line.startswith("web.de"))
        assert re.split(r"  +", line)[:4] == ["web.de", "pop3.web.de:995", "auto", "12m"]
        assert re.search(r"^outlook +outlook.office365.com:995 +OAuth ", printed.out, re.MULTILINE)
        assert [row["name"] for row in office("providers", "--json").json] == list(OURS)

    def test_tells_all_of_one_with_advice_source_and_date(self, office: Office) -> None:
        printed = office("providers", "web.de")
        row = OURS["web.de"]
        for said in (row.advice, *row.quirks, *row.unconfirmed, *row.sources.values()):
            assert said in printed.out
        assert "2026-12-01" in printed.out
        record = office("providers", "gmail", "--json").json
        assert record["poll_floor"] == "10m"
        assert record["oauth"]["scope"] == "https://mail.google.com/"
        assert record["checked"] == "2026-12-01"

    def test_knows_those_of_the_configuration_whatever_else_is_wrong_in_it(
        self, office: Office, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.toml").write_text('[corp]\nhost = "pop.corp.example"\n')
        office.config.write_text(f'providers_file = "{tmp_path}/mine.toml"\nnonsense = 1\n')
        assert office("providers", "corp", "--json").json["host"] == "pop.corp.example"
        (tmp_path / "mine.toml").write_text("[corp]\n")
        printed = office("providers")
        assert printed.status == 2
        assert printed.err.startswith(f"{tmp_path}/mine.toml:1: corp.host: this key is missing")

    def test_needs_no_configuration(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("POP3_CONNECTOR_CONFIG", raising=False)
        assert main(["providers", "gmx"]) == 0
        assert "pop.gmx.net" in capsys.readouterr().out

    def test_says_what_was_meant(self, office: Office) -> None:
        printed = office("providers", "gmial")
        assert printed.status == 1
        assert "there is no provider gmial; did you mean 'gmail'?" in printed.err


class TestCheckConfig:
    def test_shows_a_provider_and_its_advice_once(self, office: Office) -> None:
        office.config.write_text(office.config.read_text() + AT_PROVIDERS)
        printed = office("check-config")
        assert printed.status == 0
        assert printed.out.count(OURS["web.de"].advice) == 1
        assert "account one is polled every 12 minutes at the most" in printed.err
        assert OURS["web.de"].sources["poll_floor"] in printed.err

    def test_shows_what_is_done_and_not_what_was_asked_for(self, office: Office) -> None:
        office.config.write_text(office.config.read_text() + AT_PROVIDERS)
        printed = office("check-config", "--json").json
        of = {account["name"]: account for account in printed["accounts"]}
        assert [of[name]["poll_every"] for name in ("sales", "one", "two")] == ["5m", "12m", "12m"]
        assert [of[name]["provider"] for name in ("sales", "one", "two")] == [
            "",
            "web.de",
            "web.de",
        ]
        assert of["one"]["server"] == "pop3.web.de:995"
        assert printed["providers"] == {
            "web.de": {
                "title": "WEB.DE",
                "enter": OURS["web.de"].enter,
                "advice": OURS["web.de"].advice,
            }
        }


def row_of_the_table(name: str, row: Provider) -> str:
    """Return the row of a provider in docs/providers.md."""
    told = [row.advice]
    if row.poll_floor:
        told.append(f"Polled every {duration(row.poll_floor)} at the most.")
    told += [f"{text[0].upper()}{text[1:]}." for text in row.quirks]
    if row.unconfirmed:
        told.append(f"*Not confirmed:* {'; '.join(row.unconfirmed)}.")
    return f"| `{name}` | {row.title} | {row.enter} | {' '.join(told)} |"


def test_the_examples_of_the_page_are_understood(tmp_path: Path) -> None:
    section = PAGE.read_text().partition("\n## Providers\n")[2].partition("\n## ")[0]
    enough, own = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "own.toml").write_text(own)
    rows = load_providers(tmp_path / "own.toml")
    assert (floor_of(rows["web.de"]), rows["corp"].domains[0]) == (900, "corp.example")
    config = tmp_path / "connector.toml"
    config.write_text(f'data_dir = "/x"\n[delivery]\nurl = "smtp://m"\n{enough}')
    assert load(config, {}).accounts[0].host == "pop3.web.de"


def test_the_page_says_what_the_rows_say() -> None:
    """When rows change: put the rows that this expects into the page."""
    section = PAGE.read_text().partition("\n## Providers\n")[2].partition("\n## ")[0]
    rows, own = (part.splitlines() for part in section.split("\n### Your own\n"))
    found = [line for line in rows if line.startswith("| `")]
    assert found == [row_of_the_table(*item) for item in OURS.items()]
    keys = [line.split(" | ")[0] for line in own if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(keys))) == set(Provider.model_fields)
