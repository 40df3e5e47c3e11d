"""What a server can bring about again and again is some lines in the log, and then a count."""

import io
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import SpoolUnavailable
from shared.flood import MANY, SOME, STRETCH
from shared.log import MailLog
from shared.log_lines import DEBUG, INFO, LogLines

TIMES = 1_000
REPEATED: dict[str, Callable[[MailLog, str, int], None]] = {
    "suppressed": lambda log, account, n: log.suppressed(f"id{n}", account, "seen"),
    "retrying": lambda log, account, n: log.retrying(f"id{n}", account, "pickup", f"no {n}", 1),
    "failed": lambda log, account, n: log.failed(f"id{n}", account, "pickup.failed", f"no {n}"),
    "quarantined": lambda log, account, n: log.quarantined(f"id{n}", account, f"no {n}"),
    "left undone": lambda log, account, n: log.left_undone(account, f"message {n}"),
    "account failed": lambda log, account, n: log.account_failed(account, f"no {n}", 1.0),
    "handler crashed": lambda log, account, n: log.crashed(f"id{n}", account, ValueError(n)),
    "spool unavailable": lambda log, account, n: log.spool_failed(
        SpoolUnavailable(f"no {n}"), account, f"id{n}"
    ),
}


class Log:
    """A log whose clock is set by hand."""

    def __init__(self, level: int = INFO) -> None:
        self._out = io.StringIO()
        self.now = 0.0
        self.mail = MailLog(
            "deliverer", lines=LogLines(self._out, level, monotonic=lambda: self.now)
        )

    def lines(self) -> list[dict[str, Any]]:
        """Return what was written since the last time."""
        said = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("event", REPEATED)
def test_each_mail_event_that_a_server_can_multiply(event: str) -> None:
    log, happen = Log(), REPEATED[event]
    for number in range(TIMES):
        happen(log.mail, "sales", number)
    happen(log.mail, "info", 0)
    told = log.lines()
    assert Counter(line["account"] for line in told) == {"sales": SOME, "info": 1}
    log.now += STRETCH
    log.mail.of("fetcher").note("anything")
    count, anything = log.lines()
    assert (count["event"], count["account"], count["left_out"]) == (event, "sales", TIMES - SOME)
    assert (count["stage"], count["level"]) == ("deliverer", told[0]["level"])
    assert anything["event"] == "anything"
    happen(log.mail, "sales", 7)
    assert len(log.lines()) == 1


def test_what_was_fetched_and_delivered_has_a_line_each() -> None:
    log = Log()
    for number in range(TIMES):
        log.mail.fetched(f"id{number}", "sales", "u", 1)
        log.mail.delivered(f"id{number}", "sales", "250 ok", 1.0)
        log.mail.removed(f"id{number}", "sales", "u")
    assert len(log.lines()) == 3 * TIMES


def test_an_event_about_very_many_is_told_once_about_each_and_then_counted() -> None:
    log = Log()
    for _ in range(SOME):
        for number in range(TIMES):
            log.mail.account_failed(f"account-{number}", "away", 1.0)
    told = log.lines()
    assert {line["account"] for line in told} == {f"account-{n}" for n in range(TIMES)}
    assert len(told) == TIMES + MANY
    log.mail.finish()
    (count,) = log.lines()
    assert (count["event"], count["left_out"]) == ("account failed", (SOME - 1) * TIMES - MANY)


def test_who_debugs_gets_them_all() -> None:
    log = Log(DEBUG)
    for number in range(TIMES):
        log.mail.failed(f"id{number}", "sales", "pickup.failed", "no")
    assert len(log.lines()) == TIMES


def test_another_reason_has_a_line_but_not_each_of_very_many() -> None:
    log = Log()
    for number in range(TIMES):
        log.mail.retrying(f"id{number}", "sales", "pickup", f"no folder {number}", 1)
    log.lines()
    log.mail.retrying("id", "sales", "pickup", "the database is locked", 1)
    (told,) = log.lines()
    assert told["reason"] == "the database is locked"
    for number in range(TIMES):
        log.mail.retrying(f"id{number}", "sales", "pickup", "x" * number, 1)
    assert len(log.lines()) == SOME - 2


def test_what_befalls_all_alike_is_one_line_for_each_reason_and_then_a_count() -> None:
    log = Log()
    for number in range(TIMES):
        why = "incoming: full"
        log.mail.account_failed(f"account-{number}", why, 1.0, ours=True)
        log.mail.trouble("settling failed; it is retried", why=f"{number} bytes: full")
    log.mail.account_failed("account-0", "no connection", 1.0, ours=True)
    told = [(line["event"], line.get("reason")) for line in log.lines()]
    assert told == [
        ("account failed", "incoming: full"),
        ("settling failed; it is retried", None),
        ("account failed", "no connection"),
    ]
    log.now += STRETCH
    log.mail.note("anything")
    counts = [(line["event"], line.get("left_out")) for line in log.lines()]
    assert counts[:2] == [
        ("account failed", TIMES - 1),
        ("settling failed; it is retried", TIMES - 1),
    ]
