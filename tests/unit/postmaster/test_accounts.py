"""``accounts``: whether mail is being fetched, and if not, why."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from services.postmaster import show
from shared.ledger import FLOOD, RELEASE, SKIP
from shared.state import State, new_owner
from tests.clock import ManualClock
from tests.unit.postmaster.conftest import Office

ACCOUNT = """
[[account]]
name = "{name}"
host = "localhost"
username = "x"
password = "hunter2"
mailbox = "x@corp.example"
"""


def tell(office: Office, ago: float, *steps: Callable[[State], Awaitable[object]]) -> None:
    """Write down in the ledger what fetchers did so many seconds ago."""

    async def write() -> None:
        url = f"sqlite:///{office.data / 'state.db'}"
        clock = ManualClock(time.time() - ago)
        state = await State.open(url, owner=new_owner(), clock=clock)
        for step in steps:
            await step(state)
        await state.close()

    asyncio.run(write())


def polled(name: str, wait: float, error: str | None = None) -> Callable[[State], Awaitable[int]]:
    return lambda state: state.record_poll(name, next_poll=time.time() + wait, error=error)


def rows(office: Office) -> dict[str, list[str]]:
    """Return the cells of each line, by the name of the account."""
    printed = office("accounts")
    lines = [line.split("  ") for line in printed.out.splitlines()[2:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {line[0]: line[1:] for line in cells}


def test_before_anything_was_polled_no_database_is_made(office: Office) -> None:
    assert rows(office) == {"sales": ["never polled", "never", "0"]}
    (found,) = office("accounts", "--json").json
    assert found == {
        "account": "sales",
        "status": "never polled",
        "next_poll": None,
        "overdue": False,
        "last_ok": None,
        "failures": 0,
        "last_error": None,
        "held": None,
        "choice": None,
        "paused_until": None,
        "left_undone": [],
    }
    assert not office.data.exists()


def test_how_each_account_stands(office: Office) -> None:
    for name in ("broken", "off", "busy", "new"):
        office.config.write_text(office.config.read_text() + ACCOUNT.format(name=name))
    text = office.config.read_text()
    office.config.write_text(text.replace('name = "off"', 'name = "off"\nenabled = false'))
    tell(
        office,
        7300,
        polled("sales", 295),
        polled("broken", 295),
        polled("off", -9000),
        polled("busy", -9000),
        polled("removed from the configuration", 295),
    )
    tell(
        office,
        60,
        polled("broken", 3700, "-ERR \x1b[2Jwrong password"),
        lambda state: state.claim_due(["busy"], hold=1800),
    )
    assert rows(office) == {
        "sales": ["ok", "in 4m", "2h ago", "0"],
        "broken": ["failing", "in 1h", "2h ago", "1", "-ERR \\x1b[2Jwrong password"],
        "off": ["disabled", "2h ago", "0"],
        "busy": ["polling", "now", "2h ago", "0"],
        "new": ["never polled", "never", "0"],
    }
    found = {each["account"]: each for each in office("accounts", "--json").json}
    assert list(found) == ["sales", "broken", "off", "busy", "new"]
    assert found["broken"]["last_error"] == "-ERR \x1b[2Jwrong password"
    assert found["broken"]["failures"] == 1
    assert found["sales"]["next_poll"] > found["sales"]["last_ok"]
    assert "hunter2" not in json.dumps(found)


def test_what_nobody_polls_is_said_to_be_overdue(office: Office) -> None:
    tell(office, 9000, polled("sales", -7300))
    printed = office("accounts")
    assert "overdue 2h" in printed.out
    assert printed.err == "1 overdue: is a fetcher running, and the broker up?\n"
    assert office("accounts", "--json").json[0]["overdue"] is True
    tell(office, 0, lambda state: state.claim_due(["sales"], hold=1800))
    assert office("accounts").err == ""


def test_an_account_whose_poll_job_is_lost_is_overdue(office: Office) -> None:
    """It counts as queued for half an hour, which says nothing after a quarter of one."""
    tell(office, 9000, polled("sales", -7300))
    tell(office, 800, lambda state: state.claim_due(["sales"], hold=1800))
    assert rows(office)["sales"][0] == "polling"
    assert office("accounts").err == ""
    tell(office, 9000, polled("sales", -7300))
    tell(office, 1000, lambda state: state.claim_due(["sales"], hold=1800))
    assert rows(office)["sales"][:2] == ["ok", "overdue 2h"]
    assert office("accounts").err == "1 overdue: is a fetcher running, and the broker up?\n"


def test_a_disabled_account_is_seen_to_be_held(office: Office) -> None:
    """Nobody polls it, and it would be held all the same once it is enabled."""
    text = office.config.read_text()
    office.config.write_text(text.replace("[[account]]", "[[account]]\nenabled = false", 1))
    tell(office, 0, lambda state: state.hold(["sales"], "the state database is new"))
    printed = office("accounts")
    assert "disabled, held" in printed.out
    assert (printed.status, "1 held: choose with account adopt" in printed.err) == (1, True)
    assert office("accounts", "--json").json[0]["status"] == "disabled, held"
    tell(office, 0, lambda state: state.choose(["sales"], "adopt"))
    printed = office("accounts")
    assert "disabled, adopt" in printed.out
    assert (printed.status, printed.err) == (0, "")


def test_without_accounts(office: Office) -> None:
    text = office.config.read_text()
    office.config.write_text(text[: text.index("[[account]]")])
    assert office("accounts").out == "There is no [[account]] in the configuration.\n"
    assert office("accounts", "--json").json == []


def test_a_database_that_is_none(office: Office) -> None:
    office.data.mkdir()
    (office.data / "state.db").write_bytes(b"not a database at all" * 100)
    printed = office("accounts")
    assert (printed.status, printed.out) == (2, "")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (432_000.0, "5d"),
        (86_400, "1d"),
        (5400, "90m"),
        (90, "90s"),
        (0.5, "500ms"),
        (0.3, "300ms"),
        (3 * 0.1, "300ms"),
        (1.5, "1500ms"),
        (0.0001, "0.0001s"),
    ],
)
def test_durations_are_shown_as_they_are_written(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_what_a_poll_left_undone_is_told_and_one_account_in_full(office: Office) -> None:
    office.config.write_text(office.config.read_text() + ACCOUNT.format(name="other"))
    undone = "1 message cannot be fetched: message 3 (UIDL \x1b[2J): -ERR\nthe server lists 3 UIDLs"
    tell(
        office,
        60,
        lambda state: state.record_poll(
            "sales", next_poll=time.time() + 300, error=None, undone=undone
        ),
        polled("other", 300),
    )
    shown = undone.replace("\x1b", "\\x1b").split("\n")
    assert rows(office)["sales"][-1] == "; ".join(shown)
    assert "sales" not in rows(office)["other"]
    printed = office("accounts", "sales")
    assert printed.status == 0
    assert [line.split("  ")[-1].strip() for line in printed.out.splitlines()[-2:]] == shown
    assert "x at localhost:995" in printed.out or "localhost" in printed.out
    assert "other" not in printed.out
    (found,) = office("accounts", "sales", "--json").json
    assert found["left_undone"] == undone.split("\n")


def test_the_exit_status_says_whether_an_account_fails(office: Office) -> None:
    office.config.write_text(office.config.read_text() + ACCOUNT.format(name="broken"))
    tell(office, 60, polled("sales", 300), polled("broken", 300, "wrong password"))
    assert office("accounts").status == 1
    assert office("accounts", "--json").status == 1
    assert office("accounts", "broken").status == 1
    assert "wrong password" in office("accounts", "broken").out
    assert office("accounts", "sales").status == 0


def test_an_account_that_is_none(office: Office) -> None:
    printed = office("accounts", "nobody")
    assert printed.status == 1
    assert "there is no account nobody" in printed.err


def test_an_account_is_paused_and_resumed(office: Office) -> None:
    tell(office, 60, polled("sales", 295))
    assert office("account", "pause", "sales").out == "sales: paused until account resume sales\n"
    assert rows(office)["sales"][:2] == ["paused", "when resumed"]
    assert office("accounts", "--json").json[0]["paused_until"] == "resumed"
    assert "it is paused: account resume sales" in office("account", "fetch-now", "sales").out
    assert office("account", "resume", "--all").out == "sales: polled again\n"
    assert rows(office)["sales"][:2] == ["ok", "now"]
    assert "sales: paused until 2" in office("account", "pause", "sales", "--for", "1w").out
    assert rows(office)["sales"][:2] == ["paused", "in 6d"]
    assert office("account", "resume", "sales", "--json").json == [
        {"account": "sales", "paused_until": None}
    ]


def test_fetch_now_makes_an_account_due_whatever_it_waits_for(office: Office) -> None:
    tell(office, 60, polled("sales", 3_700, "-ERR wrong password"))
    assert rows(office)["sales"][:2] == ["failing", "in 1h"]
    said = office("account", "fetch-now", "sales").out
    assert said == "sales: polled as soon as a fetcher has a place for it\n"
    assert rows(office)["sales"][:2] == ["failing", "now"]


def test_until_when_an_account_is_paused_is_the_same_wherever_it_is_read(office: Office) -> None:
    tell(office, 60, polled("sales", 295))
    for lasting in ([], ["--for", "1w"], ["--for", "999999999w"]):
        (paused,) = office("account", "pause", "sales", *lasting, "--json").json
        (found,) = office("accounts", "--json").json
        assert paused["paused_until"] == found["paused_until"]
        # It says nothing of a poll that does not come.
        assert found["next_poll"] == (paused["paused_until"] if "1w" in lasting else None)
        assert (found["paused_until"] == "resumed") is ("1w" not in lasting)


def test_a_moment_too_far_to_be_told_is_shown_all_the_same(office: Office) -> None:
    tell(office, 60, polled("sales", 1e20))
    assert office("accounts", "--json").json[0]["next_poll"].startswith("9999-12-31")
    assert "sales" in office("accounts").out


def test_fetch_now_tells_a_program_too_what_is_not_polled(office: Office) -> None:
    for name in ("off", "held", "paused"):
        office.config.write_text(office.config.read_text() + ACCOUNT.format(name=name))
    text = office.config.read_text()
    office.config.write_text(text.replace('name = "off"', 'name = "off"\nenabled = false'))
    tell(office, 0, lambda state: state.hold(["held"], "the state database is new"))
    tell(office, 0, lambda state: state.choose(["sales", "paused", "off"], "adopt"))
    office("account", "pause", "paused")
    asked = office("account", "fetch-now", "--all", "--json").json
    assert {each["account"]: each["due"] for each in asked} == {
        "sales": "now",
        "off": "disabled",
        "held": "held",
        "paused": "paused",
    }
    assert office("account", "resume", "--all").out.splitlines() == [
        "sales: polled again",
        "off: resumed: polled once it is enabled",
        (
            "held: resumed: it is held: the state database is new; choose with account adopt or"
            " fetch-again"
        ),
        "paused: polled again",
    ]


@pytest.mark.parametrize("command", ["pause", "resume", "fetch-now"])
def test_accounts_are_named_or_all_are_meant(office: Office, command: str) -> None:
    assert "name the accounts, or pass --all" in office("account", command).err
    assert "no account nobody" in office("account", command, "nobody").err
    assert "expected a duration" in office("account", "pause", "sales", "--for", "long").err


def test_only_what_is_held_for_a_flood_is_released(office: Office) -> None:
    printed = office("account", "release", "sales")
    assert (printed.status, "is not held for mail" in printed.err) == (1, True)
    tell(office, 0, lambda state: state.hold_account("sales", "the state is new"))
    assert office("account", "release", "sales").status == 1
    tell(office, 0, lambda state: state.hold_account("sales", f"{FLOOD}64 of 64 are alike"))
    printed = office("accounts")
    assert (printed.status, "account release" in printed.err) == (1, True)
    assert "64 of 64 are alike" in office("accounts", "sales").out
    printed = office("account", "release", "sales", "--skip")
    assert (printed.status, "stays there" in printed.out) == (0, True)
    assert office("accounts", "--json").json[0]["choice"] == SKIP
    assert office("account", "release", "sales", "--json").json == [
        {"account": "sales", "choice": RELEASE}
    ]
