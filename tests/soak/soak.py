"""The soak: mail and faults for so long, then quiet, until nothing is on its way any more."""

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.errors import BrokerUnavailable
from tests.flow.connector import Connector
from tests.servers.process import wait_until
from tests.soak.components import Breaker, components
from tests.soak.crew import FIRST
from tests.soak.mail import Mail
from tests.soak.place import Place, open_place
from tests.soak.verdict import Verdict, judge

TURN = 20.0
"""Seconds until all accounts are fetched from once more."""
OVERDUE = timedelta(seconds=60)
"""How late a poll may be; nothing keeps the fetchers from it any more."""
ROUNDS = 5
"""How often the product is stopped to see whether it had anything left in hand, at the most."""


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seed: of mail and faults.
        seconds: with faults.
        rate: messages a second.
        sqlite: the state is in SQLite, and not in PostgreSQL.
        pace: what the times between faults are multiplied with.
        longest: seconds that a fault may last.
        drain: seconds that mail may take to arrive when there are no faults any more.
        patience: seconds of these until all accounts are fetched from, backed off or not.
    """

    seed: int
    seconds: float
    rate: float = 10.0
    sqlite: bool = False
    pace: float = 1.0
    longest: float = 100.0
    drain: float = 900.0
    patience: float = 150.0


def soak(folder: Path, plan: Plan, product: type[Connector] = Connector) -> Verdict:
    """Run mail and faults against the product; return what came of it.

    Args:
        folder: for all logs and files; an empty one.
        plan: what is to be done.
        product: how processes are started.
    """
    with open_place(folder, product, sqlite=plan.sqlite) as place:
        mail = Mail(place, plan.seed, plan.rate)
        breakers = [
            Breaker(component, mail, plan.seed, plan.pace, plan.longest)
            for component in components(sqlite=plan.sqlite, disk=place.disk is not None)
        ]
        place.crew.want(*FIRST)
        _storm(mail, breakers, plan.seconds)
        struck = [fault for breaker in breakers for fault in breaker.struck]
        healed = time.monotonic()
        left = _settled(place, plan)
        struck.sort(key=lambda fault: fault.begin)
        _keep(folder / "faults.jsonl", [*map(asdict, struck), *map(asdict, place.crew.deaths)])
        return judge(mail, struck, left, time.monotonic() - healed)


def _keep(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _storm(mail: Mail, breakers: list[Breaker], seconds: float) -> None:
    """Let mail come in and things break for so long; return when all is healed."""
    stop = threading.Event()
    threads = [threading.Thread(target=breaker.run, args=[stop]) for breaker in breakers]
    threads.append(threading.Thread(target=mail.come_in, args=[stop]))
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until and not any(b.failure for b in breakers):
            stop.wait(0.5)
        if any(b.failure for b in breakers):
            mail.given_up.set()
    except BaseException:
        mail.given_up.set()
        raise
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        mail.place.calm()
    for breaker in breakers:
        if breaker.failure is not None:
            raise breaker.failure


def _settled(place: Place, plan: Plan) -> Mapping[str, int]:
    """Wait until all mail has arrived, and end the product; return what is left all the same."""
    until = time.monotonic() + plan.drain
    left: Mapping[str, int] = {}
    for _ in range(ROUNDS):
        _drained(place, plan, max(1.0, until - time.monotonic()))
        # Only when all have ended nobody has anything in hand.
        place.crew.dismiss(*FIRST)
        left = _left(place)
        if not left or time.monotonic() > until:
            break
        place.crew.want(*FIRST)
    return left


def _drained(place: Place, plan: Plan, seconds: float) -> None:
    """Return when nothing seems to be left, or after so many seconds.

    An account that failed for long is left alone for up to an hour. After a while they are fetched
    from all the same, as by an operator; one that is due and not polled by then is a defect.
    """
    until = time.monotonic() + seconds
    patience = plan.patience
    while _left(place) and (left := until - time.monotonic()) > 0:
        # Where it is in vain, the verdict says what is left.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not _left(place), "all mail to arrive", min(left, patience))
            return
        _note_overdue(place)
        place.product.cli("run", "--once")
        patience = TURN


def _note_overdue(place: Place) -> None:
    now = datetime.now(UTC)
    # The exit status says whether one failed, and after all that was broken one may have.
    for account in json.loads(place.product.cli("accounts", "--json").stdout):
        due = account["next_poll"] and datetime.fromisoformat(account["next_poll"])
        if due and now - due > OVERDUE:
            place.crew.oddities.append(f"{account['account']} was due at {due} and not polled")


def _left(place: Place) -> Mapping[str, int]:
    """Return what is still on its way: maildrops and queues that are not empty."""
    waiting = {f"maildrop {name}": count for name, count in place.waiting().items()}
    try:
        return waiting | {f"queue {name}": count for name, count in place.queued().items()}
    except (BrokerUnavailable, OSError) as error:
        return waiting | {str(error): 1}
