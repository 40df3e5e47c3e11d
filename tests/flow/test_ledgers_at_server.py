"""The operator's commands where the ledgers are at a PostgreSQL, and the queues here."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.clock import SystemClock
from shared.errors import StateDamaged
from shared.ledger import LedgerEntry
from shared.state import State, new_owner
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.unit.postmaster.conftest import CONFIG, TIERS, Office


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with postgresql() as running:
        yield running


@dataclass
class Site:
    """An installation, and its database."""

    office: Office
    url: str

    def use(self, url: str) -> None:
        text = CONFIG.format(data=self.office.data) + f'[state]\nurl = "{url}"\n'
        self.office.config.write_text(text)

    def record(self) -> None:
        """Let a mail be fetched."""

        async def fetched() -> None:
            state = await State.open(self.url, owner=new_owner())
            await state.record("sales", [LedgerEntry("u1", "a")])
            await state.close()

        asyncio.run(fetched())

    def execute(self, statement: str) -> None:
        plain = self.url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def site(tmp_path: Path, capfd: pytest.CaptureFixture[str], server: PostgresqlServer) -> Site:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "queue.db"
    office = Office(
        tmp_path / "connector.toml",
        data,
        capfd,
        lambda: EmbeddedBroker(file, tiers=TIERS, name="test"),
        lambda: EmbeddedSteward(file, TIERS, SystemClock()),
    )
    site = Site(office, server.empty())
    site.use(site.url)
    return site


def saved(site: Site) -> Path:
    """Return a backup, after which the place of its files is empty."""
    office, archive = site.office, site.office.config.with_name("saved.tar")
    site.record()
    assert office("topology", "declare").status == 0
    office.put("m1")
    assert office("backup", str(archive)).status == 0
    shutil.rmtree(office.data)
    office.data.mkdir()
    return archive


def test_a_restore_of_the_queues_holds_the_accounts(site: Site) -> None:
    archive = saved(site)
    restored = site.office("restore", str(archive))
    assert restored.status == 0, restored.err
    assert "All accounts are held. Choose: account fetch-again --all --und" in restored.err
    (account,) = site.office("accounts", "--json").json
    assert account["status"] == "held"
    assert "the queues were restored from a backup of" in account["held"]
    assert len(site.office.queue("pickup.failed")) == 1


def test_nothing_is_restored_where_the_accounts_cannot_be_held(site: Site) -> None:
    archive = saved(site)
    wrong = site.url.replace(f":{site.url.split(':')[2].split('@')[0]}@", ":hunter3@")
    site.use(wrong)
    assert site.office("restore", str(archive)).status == 2
    assert list(site.office.data.iterdir()) == []
    site.use(site.url)
    schema = site.url.rpartition("%3D")[2]
    site.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")
    refused = site.office("restore", str(archive))
    assert (refused.status, "put that database back first" in refused.err) == (1, True)
    assert list(site.office.data.iterdir()) == []


def test_a_wrong_password_is_found_by_a_trial_alone(site: Site) -> None:
    site.use(site.url.replace(f":{site.url.split(':')[2].split('@')[0]}@", ":hunter3@"))
    assert site.office("check-config").status == 0
    tried = site.office("check-config", "--connect", "--json")
    assert tried.status == 1
    (state,) = (each for each in tried.json["tried"] if each["what"] == "state")
    assert not state["ok"]
    assert "password authentication failed" in state["said"]
    assert "hunter3" not in tried.out
    site.use(site.url)
    tried = site.office("check-config", "--connect", "--json")
    found = {each["what"]: each for each in tried.json["tried"] if each["what"] != "account"}
    assert {what: each["ok"] for what, each in found.items()} == dict.fromkeys(
        ("state", "broker", "spool", "destination"), True
    )
    assert "its tables are not made yet" in found["state"]["said"]
    with psycopg.connect(site.url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT to_regclass('lease')").fetchone() == (None,)


def test_a_table_that_is_gone_is_damage(site: Site) -> None:
    site.record()
    assert site.office("state", "check").status == 0
    site.execute("DROP TABLE uidl")
    checked = site.office("state", "check")
    assert checked.status == 1
    assert "damaged\n  the database is damaged (there is no table uidl). Stop all" in checked.out
    for command in (("account", "adopt", "--all", "--yes"), ("run", "--once"), ("accounts",)):
        refused = site.office(*command)
        assert refused.status == 2, command
        assert "the database is damaged (there is no table uidl)" in refused.err


async def test_a_table_that_goes_later_is_damage_as_well(site: Site) -> None:
    state = await State.open(site.url, owner=new_owner())
    await asyncio.to_thread(site.execute, "DROP TABLE uidl")
    with pytest.raises(StateDamaged, match=r"the database is damaged \(relation \"uidl\""):
        await state.known("sales")
    assert state.damage is not None
    await state.close()


@pytest.mark.parametrize(
    "command", [("account", "fetch-again", "sales"), ("account", "fetch-again", "--all", "--json")]
)
def test_without_a_terminal_it_is_said_how(
    site: Site, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        refused = site.office(*command)
    assert (refused.status, refused.out) == (1, "")
    assert "pass --yes where there is no terminal to confirm on" in refused.err
    assert "Go on?" not in refused.err
