"""What is measured: the scenarios, each a function from a scale to a result.

Contenders take turns within a round, so that what else the machine does meets them all. A slow one
gets fewer messages; all figures are for one message.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from scripts.benchmarks.connector import (
    LIMITS,
    To,
    embedded,
    embedded_running,
    over_rabbitmq,
    ready,
    table,
    to_lmtp,
    to_maildir,
)
from scripts.benchmarks.growth import growth
from scripts.benchmarks.measure import Sample, row, until
from scripts.benchmarks.neighbours import neighbours
from scripts.benchmarks.place import (
    PASSWORD,
    USER,
    Drop,
    Lmtp,
    Load,
    Place,
    message,
    mixed_sizes,
    open_place,
    same_size,
)
from scripts.benchmarks.proxy import proxy
from scripts.benchmarks.race import Race
from scripts.benchmarks.raw import raw_lmtp
from scripts.benchmarks.report import Chart, Result, rates
from scripts.benchmarks.rivals import (
    Rival,
    fetchmail_lmtp,
    getmail_lmtp,
    getmail_maildir,
    installed,
    mpop,
    mpop_lmtp,
)
from scripts.benchmarks.scale import Scale
from scripts.benchmarks.sink import program, smtp_sink
from tests.flow.connector import connector

EMBEDDED: Final = "pop3-connector, embedded"
RUNNING: Final = "pop3-connector, embedded, running"
RABBITMQ: Final = "pop3-connector, RabbitMQ"


@dataclass(frozen=True, slots=True)
class Contender:
    """Who takes part: its name, what runs it, and the share of the messages that it is given."""

    name: str
    go: Rival
    share: float = 1.0
    ours: bool = False


def _ours(place: Place, to: To) -> list[Contender]:
    found = [
        Contender(EMBEDDED, partial(embedded, to=to), ours=True),
        Contender(RUNNING, partial(embedded_running, to=to), ours=True),
    ]
    if place.broker is not None:
        found.append(Contender(RABBITMQ, partial(over_rabbitmq, to=to), ours=True))
    return found


def _theirs(*contenders: Contender) -> list[Contender]:
    return [c for c in contenders if installed(c.go)]


def _side_by_side(
    place: Place, contenders: Sequence[Contender], mail: Sequence[bytes], rounds: int
) -> Race[Sample]:
    race: Race[Sample] = Race()
    for _ in range(rounds):
        for contender in contenders:
            portion = mail[: max(10, int(len(mail) * contender.share))]
            _turn(race, contender, place, Load([place.drop], portion))
    return race


def _turn(race: Race[Sample], contender: Contender, place: Place, load: Load) -> None:
    sample = race.turn(contender.name, lambda: contender.go(place, load), ours=contender.ours)
    if sample is not None:
        print(f"  {contender.name}: {load.messages / sample.wall:,.0f}/s", flush=True)


def _compared(name: str, title: str, race: Race[Sample]) -> Result:
    rows = [row(*item) for item in race.samples.items()]
    return Result(title, [rates(name, rows)], rows, failed=race.failed)


def maildir(folder: Path, scale: Scale) -> Result:
    """5 KB messages into a Maildir."""
    with open_place(folder) as place:
        rivals = _theirs(
            Contender("mpop, Maildir", mpop), Contender("getmail6, Maildir", getmail_maildir, 0.1)
        )
        everybody = [*_ours(place, to_maildir), *rivals]
        race = _side_by_side(place, everybody, same_size(scale.messages), scale.rounds)
    return _compared("maildir", "5 KB messages into a Maildir", race)


def lmtp(folder: Path, scale: Scale) -> Result:
    """5 KB messages into Dovecot by LMTP."""
    with open_place(folder) as place:
        race = _by_lmtp(place, scale)
    return _compared("lmtp", "5 KB messages into Dovecot by LMTP", race)


def sink(folder: Path, scale: Scale) -> Result:
    """5 KB messages by LMTP to a server that stores nothing."""
    title = "5 KB messages by LMTP to a server that stores nothing"
    if program() is None:
        return Result(title, [], notes=["left out: smtp-sink (package postfix) is not installed"])
    with open_place(folder) as place, smtp_sink(folder) as server:
        to = Lmtp(server.host, server.port, server.arrivals)
        race = _by_lmtp(replace(place, lmtp=to), scale)
    return _compared("sink", title, race)


def _by_lmtp(place: Place, scale: Scale) -> Race[Sample]:
    rivals = _theirs(
        Contender("mpop, Maildir", mpop),
        Contender("mpop and msmtp, LMTP", mpop_lmtp, 0.02),
        Contender("getmail6, LMTP", getmail_lmtp, 0.5),
        Contender("fetchmail, LMTP", fetchmail_lmtp, 0.02),
    )
    everybody = [*_ours(place, to_lmtp), *rivals, *_raw(1, 8)]
    return _side_by_side(place, everybody, same_size(scale.messages), scale.rounds)


def _raw(*connections: int) -> list[Contender]:
    """Return what the mail server takes at best: an upper bound for everybody."""
    return [
        Contender(f"raw LMTP, {n} connections", partial(raw_lmtp, connections=n))
        for n in connections
    ]


def mixed(folder: Path, scale: Scale) -> Result:
    """Mixed sizes into a Maildir."""
    with open_place(folder) as place:
        rivals = _theirs(
            Contender("mpop, Maildir", mpop), Contender("getmail6, Maildir", getmail_maildir, 0.2)
        )
        everybody = [*_ours(place, to_maildir), *rivals]
        mail = mixed_sizes(scale.messages // 5)
        race = _side_by_side(place, everybody, mail, scale.rounds)
    return _compared("mixed", "Mixed sizes (median 5 KB, 5 % of 500 KB, some of 20 MB)", race)


def memory(folder: Path, scale: Scale) -> Result:
    """One message of 200 MB through all stages."""
    with open_place(folder) as place:
        size = 200_000_000 if scale.full else 50_000_000
        notes, bars = [], []
        for contender in _ours(place, to_maildir):
            sample = contender.go(place, Load([place.drop], [message(0, size)]))
            one = len(sample.memory) == 1
            bars += [
                (contender.name if one else f"{contender.name}: {process}", peak / 1e6)
                for process, peak in sample.memory.items()
            ]
            notes.append(f"{contender.name}: {sample.wall:.1f} s, {sample.cpu:.1f} s of CPU")
    title = f"Memory: one message of {size / 1e6:.0f} MB"
    return Result(title, [Chart("memory", "peak MB", bars)], notes=notes)


def far(folder: Path, scale: Scale) -> Result:
    """Many accounts behind 50 ms of round trip."""
    users = [f"user{n}" for n in range(100 if scale.full else 20)]
    mail = same_size(20)
    race: Race[Sample] = Race()
    with open_place(folder, users) as place:
        server = place.provider
        with proxy(server.host, server.pop3, 0.050) as distant:
            drops = [Drop(distant.host, distant.port, user) for user in users]
            rivals = _theirs(Contender("mpop", mpop), Contender("fetchmail", fetchmail_lmtp, 0.1))
            for contender in [*_ours(place, to_maildir), *rivals] * scale.rounds:
                load = Load(drops[: max(1, int(len(drops) * contender.share))], mail)
                _turn(race, contender, place, load)
    title = f"{len(users)} accounts of {len(mail)} messages, 50 ms away"
    return _compared("far", title, race)


def latency(folder: Path, scale: Scale) -> Result:
    """From the beginning of a poll to the message in its place, on an idle system."""
    with open_place(folder) as place, proxy(place.provider.host, place.provider.pop3) as door:
        account = table(Drop(door.host, door.port, USER), poll_every="1s")
        rounds = 50 if scale.full else 10
        bars = []
        for name, broker in ((EMBEDDED, None), (RABBITMQ, place.broker)):
            if name == RABBITMQ and broker is None:
                continue
            home = place.fresh("latency")
            vhost = "" if broker is None else broker.vhost()
            with connector(home) as product:
                url = None if broker is None else broker.url(vhost)
                product.configure([account], f"maildir://{home}/mail/{{local}}", url, limits=LIMITS)
                if broker is None:
                    product.start("run")
                else:
                    ready(place, product, vhost)
                    product.start("fetcher")
                found = [_latency(place, home / "mail" / USER / "new", n) for n in range(rounds)]
            took = [at - max(c for c in door.connected if c < at) for at in found[1:]]
            bars += [
                (f"{name}: median", median(took) * 1e3),
                (f"{name}: worst of {len(took)}", max(took) * 1e3),
            ]
    title = "Latency on an idle system, poll begun to delivered"
    return Result(title, [Chart("latency", "milliseconds", bars)])


def _latency(place: Place, new: Path, number: int) -> float:
    place.provider.put(USER, message(number))
    until(lambda: new.exists() and len(list(new.iterdir())) > number, 60, "a message")
    newest = max(path.stat().st_ctime_ns for path in new.iterdir())
    return newest / 1e9


def backlog(folder: Path, scale: Scale) -> Result:
    """Ten new messages among very many old ones that stay on the server."""
    count = 100_000 if scale.full else 5_000
    with open_place(folder) as place:
        drop = place.drop
        place.fill(Load([drop], [message(n, 400) for n in range(count)]))
        home = place.fresh("backlog")
        with connector(home) as product:
            product.configure(
                [table(drop, keep="forever")], f"maildir://{home}/mail", limits=LIMITS
            )
            product.cli("run", "--once", timeout=3600)
            polls, listings = [], []
            for turn in range(scale.rounds):
                place.provider.put_all(USER, [message(count + 10 * turn + n) for n in range(10)])
                _read_listing(drop)  # Dovecot takes note of new mail: not what is compared
                listings.append(_read_listing(drop))
                done = product.cli("run", "--once")
                polls.append(_polled(done.stderr))
    raw, poll = median(listings), median(polls)
    bars = [("reading the UIDL listing raw", raw), ("pop3-connector: the whole poll", poll)]
    title = f"{count:,} messages kept on the server, 10 of them new"
    chart = Chart("backlog", "seconds", bars)
    return Result(title, [chart], notes=[f"the poll takes {poll / raw:.2f} times as long"])


def _polled(log: str) -> float:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return next(float(line["seconds"]) for line in lines if line["event"] == "polled")


def _read_listing(drop: Drop) -> float:
    """Return the seconds that a session takes which reads the UIDL listing and nothing else."""
    started = time.perf_counter()
    with socket.create_connection((drop.host, drop.port)) as line, line.makefile("rb") as said:
        said.readline()
        for command in (f"USER {drop.user}", f"PASS {PASSWORD}", "UIDL"):
            line.sendall(command.encode() + b"\r\n")
            said.readline()
        while said.readline() != b".\r\n":
            pass
        line.sendall(b"QUIT\r\n")
        said.readline()
    return time.perf_counter() - started


Scenario: TypeAlias = Callable[[Path, Scale], Result]

SCENARIOS: Final[dict[str, Scenario]] = {
    each.__name__: each
    for each in (maildir, lmtp, sink, mixed, memory, far, latency, backlog, growth, neighbours)
}
