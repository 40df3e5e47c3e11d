"""``run --once`` as cron and a person run it: what it prints, and its exit status."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import drain
from shared import wire
from shared.message import Envelope
from tests.flow.connector import Connector, connector
from tests.flow.forked import ForkedConnector
from tests.ids import id_of
from tests.servers.process import free_port
from tests.unit.postmaster.conftest import Office, addressed, office

__all__ = ["office"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Connector]:
    with connector(tmp_path) as installation:
        yield installation


def configure(site: Connector, delivery: str = "", **account: object) -> None:
    usual = {
        "host": "127.0.0.1",
        "port": free_port(),
        "tls": "none",
        "username": "x",
        "password": "secret",
        "mailbox": "x@corp.example",
    }
    accounts = [{**usual, "name": name, **account} for name in ("one", "two")]
    delivery = delivery or f"maildir://{site.folder}/mail/{{mailbox}}"
    site.configure(accounts, delivery, retry={"tiers": ["1h"]})


def test_accounts_that_fail_are_counted(site: Connector) -> None:
    configure(site)
    done = site.cli("run", "--once", "--json")
    summary = json.loads(done.stdout)
    assert (summary["accounts"], summary["accounts_failed"], done.returncode) == (2, 2, 1)
    done = site.cli("run", "--once")
    assert "accounts_failed  2\n" in done.stdout
    assert "waiting          0\n" in done.stdout


def test_what_a_killed_process_left_in_the_spool_is_cleared_away(site: Connector) -> None:
    configure(site)
    draft = site.folder / "data" / "spool" / "tmp" / "left"
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"x" * 1000)
    site.cli("run", "--once")
    assert not draft.exists()


def test_messages_that_wait_are_counted_also_those_of_earlier_runs(
    site: Connector, office: Office
) -> None:
    configure(site, f"smtp://127.0.0.1:{free_port()}", enabled=False)
    office.put(
        "a1", queue="pickup", body=wire.encode(Envelope(id_of("a1"), "one", addressed(), 1.0))
    )
    status, summary = site.once()
    assert (status, summary["retrying"], summary["waiting"]) == (1, 1, 1)
    status, summary = site.once()
    assert (status, summary["retrying"], summary["waiting"]) == (1, 0, 1)


def test_quiet_says_nothing_where_all_is_well(site: Connector, office: Office) -> None:
    configure(site, enabled=False)
    office.put("a1", queue="pickup")
    done = site.cli("run", "--once", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(site.folder.glob("mail/*/new/*"))) == 2


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_quiet_says_what_is_wrong(site: Connector, form: tuple[str, ...]) -> None:
    configure(site)
    done = site.cli("run", "--once", "--quiet", *form)
    assert done.returncode == 1
    said = json.loads(done.stdout)["accounts_failed"] if form else done.stdout.split()[3]
    assert str(said) == "2"
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events.count("account failed") == 2
    assert "started" not in events


def never_comes_back() -> None:
    """Be a machine whose disk for Maildirs is away: what is written there never ends."""
    drain.drain.__defaults__ = (0.1,)
    for name in ("STUCK_AFTER", "FAREWELL", "WATCH_EVERY"):
        setattr(drain, name, 0.3)
    fsync = os.fsync

    def away(fd: int) -> None:
        if "mail" in Path(f"/proc/self/fd/{fd}").readlink().parts:
            time.sleep(1_000)
        fsync(fd)

    setattr(os, "fsync", away)  # noqa: B010


def test_it_ends_though_a_destination_never_comes_back(tmp_path: Path, office: Office) -> None:
    with contextlib.closing(ForkedConnector(tmp_path)) as site:
        site.first = never_comes_back
        configure(site, enabled=False)
        office.put(
            "a1", queue="pickup", body=wire.encode(Envelope(id_of("a1"), "one", addressed(), 1.0))
        )
        site.start("run --once --json")
        assert site.processes["run --once --json"].wait(60) == 1
        events = site.events("run --once --json")
    assert "no progress any more; messages in hand stay queued" in [e.get("event") for e in events]
    (summary,) = [e for e in events if "accounts" in e]
    assert (summary["delivered"], summary["waiting"]) == (0, 0)
    with connector(tmp_path) as site_:
        assert site_.once()[1]["delivered"] == 1
