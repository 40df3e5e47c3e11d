"""What was fetched and has come to no end is known, in whatever order that is told."""

from collections import Counter

from shared.log import MailLog
from shared.unfinished import Unfinished


def test_what_ends_elsewhere_stays_counted() -> None:
    unfinished = Unfinished()
    log = MailLog("fetcher", Counter(), unfinished=unfinished)
    stage = log.of("deliverer")
    for id_ in "abcdef":
        log.fetched(id_, "sales", id_, 1)
    stage.delivered("a", "sales", "", 0.0)
    stage.failed("b", "sales", "pickup.failed", "550")
    stage.quarantined("c", "sales", "torn")
    stage.suppressed("d", "sales", "delivered before")
    stage.retrying("e", "sales", "pickup.retry.5m", "421", 1)
    assert unfinished.count == 2


def test_an_end_before_its_beginning_counts() -> None:
    unfinished = Unfinished()
    log = MailLog("fetcher", Counter(), unfinished=unfinished)
    log.of("deliverer").delivered("a", "sales", "", 0.0)
    log.of("deliverer").delivered("left by an earlier run", "sales", "", 0.0)
    log.fetched("a", "sales", "u1", 1)
    log.suppressed("b", "sales", "the maildrop holds it again")
    log.fetched("b", "sales", "u2", 1)
    assert unfinished.count == 1
