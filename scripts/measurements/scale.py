"""Measures what docs/scaling.md reckons with; prints one line for each figure.

    scripts/measure-scale [ACCOUNTS]        (default 50,000: rows in the schedule)
    scripts/measure-scale strangers         what rows of accounts of nobody cost, alone

It starts the demo's POP3 server and a private PostgreSQL and RabbitMQ, which have to be installed,
on 127.0.0.1. The figures are medians of a few rounds, and CPU time of one process where
"CPU" is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from scripts.demonstration.maildrop import PASSWORD, Maildrop, serving
from services.fetcher.account import Account
from services.fetcher.fetch import Fetcher
from services.fetcher.interfaces import FetcherContext
from services.fetcher.pop3.login import Login
from services.parser.parse import parse
from services.rewriter.rewrite import Rewriter, Route
from shared import wire
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.clock import SystemClock
from shared.log import MailLog
from shared.log_lines import configure
from shared.message import Envelope, Fetched, Inline, Parsed, Poll
from shared.outcome import Done, Forward, Outcome
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING, Tier
from shared.settings.load import load
from shared.spool import Spool
from shared.state import LedgerEntry, State, new_owner
from shared.timetable import Timetable
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.servers.rabbitmq import RabbitServer, shared_rabbitmq

ROUNDS = 5
POLLS = 300
LEFT = 20
"""Messages that lie in each maildrop, all of them fetched before."""
MESSAGES = 5_000
BATCH = 250
BODY = b"A line of text in a message of ordinary size, as people write them.\r\n" * 70
MESSAGE = b"From: a@example.net\r\nTo: b@example.org\r\nSubject: measured\r\n\r\n" + BODY


def say(what: str, values: Sequence[float], unit: str) -> None:
    """Print the median of some rounds."""
    print(f"{what:<66} {statistics.median(values):>10,.1f} {unit}", flush=True)


def cpu() -> float:
    """Return the seconds of CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_stages() -> None:
    """CPU of the two stages that only compute, decoding and encoding included."""
    fetched = Fetched(Inline(MESSAGE), "u1", "pop:995")
    rewriter = Rewriter({"sales": Route(("sales@corp.example",), "default")}, "host", "0")
    body = wire.encode(Envelope("id", "sales", fetched, 1.0))
    parsing, rewriting = [], []
    for _ in range(ROUNDS):
        started = cpu()
        for _ in range(MESSAGES):
            envelope = wire.decode(body, Fetched)
            outcome = parse(envelope)
            assert isinstance(outcome, Forward)
            parsed = Envelope("id", "sales", outcome.payloads[0], 1.0)
            directed = wire.encode(parsed)
        parsing.append((cpu() - started) / MESSAGES * 1e6)
        started = cpu()
        for _ in range(MESSAGES):
            outcome = rewriter.handle(wire.decode(directed, Parsed))
            assert isinstance(outcome, Forward)
            wire.encode(Envelope("id", "sales", outcome.payloads[0], 1.0))
        rewriting.append((cpu() - started) / MESSAGES * 1e6)
    say("parser: CPU a message of 5 KB, without the broker", parsing, "us")
    say("rewriter: CPU a message of 5 KB, without the broker", rewriting, "us")


def measure_configuration(accounts: int, folder: Path) -> None:
    """What a process needs to read the configuration with all accounts in it."""
    file = folder / "connector.toml"
    account = '[[account]]\nname = "a{0}"\nhost = "pop.example"\nusername = "a{0}"\n'
    account += 'password = "secret"\nmailbox = "a{0}@corp.example"\n'
    tables = "".join(account.format(i) for i in range(accounts))
    file.write_text('[delivery]\nurl = "smtp://mail.example"\n' + tables)
    before = cpu()
    load(file, {})
    say(f"reading a configuration of {accounts:,} accounts: CPU", [cpu() - before], "s")


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        drops = {
            f"u{i}": Maildrop([MESSAGE + b"%d\r\n" % n for n in range(LEFT)]) for i in range(POLLS)
        }
        async with serving(drops) as port:
            pipe.send(port)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


@contextlib.contextmanager
def maildrops() -> Iterator[int]:
    """Serve maildrops from a process of their own; the value is the port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield int(ours.recv())
    finally:
        ours.send(None)
        process.join()


@contextlib.asynccontextmanager
async def state(url: str) -> AsyncIterator[State]:
    """Open a state database until the block ends."""
    opened = await State.open(url, owner=new_owner())
    try:
        yield opened
    finally:
        await opened.close()


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the seconds and the CPU seconds that some work took."""
    started, used = time.perf_counter(), cpu()
    await work()
    return time.perf_counter() - started, cpu() - used


async def measure_polls(name: str, url: str, port: int, folder: Path) -> None:
    """Polls that find nothing new, 32 at a time, as a fetcher does them."""
    broker = EmbeddedBroker(folder / "queue.db", tiers=(Tier("1h", 3600),), name="measure")
    await broker.open()
    async with state(url) as ledger:
        login = {
            f"u{i}": Login("127.0.0.1", port, "none", f"u{i}", lambda: PASSWORD)
            for i in range(POLLS)
        }
        accounts = {
            user: Account(user, one, Timetable.always(300.0), float("inf"))
            for user, one in login.items()
        }
        spool = Spool(str(folder / "spool"))
        world = FetcherContext(
            ledger,
            ledger,
            QueuePublisher(broker, INCOMING),
            spool,
            131_072,
            MailLog("measure", lines=configure("ERROR")),
            SystemClock(),
        )
        fetcher, places = Fetcher(accounts, world), asyncio.Semaphore(32)

        async def poll(user: str) -> None:
            async with places:
                await fetcher.handle([Envelope(f"poll-{user}", user, Poll(), 1.0)], polled)

        def polled(_: int, outcome: Outcome | Exception) -> None:
            assert isinstance(outcome, Done), outcome

        async def everybody() -> None:
            await asyncio.gather(*map(poll, accounts))

        await everybody()  # fetches what there is
        rounds = [await timed(everybody) for _ in range(ROUNDS)]
    await broker.close()
    say(
        f"{name}: polls a second with nothing new, one fetcher, no TLS",
        [POLLS / wall for wall, _ in rounds],
        "/s",
    )
    say(
        f"{name}: CPU of the fetcher for such a poll",
        [used / POLLS * 1e6 for _, used in rounds],
        "us",
    )


async def measure_schedule(name: str, url: str, accounts: int, vacuum: Callable[[], None]) -> None:
    """What the schedule costs every second, however little is due; and writing to the ledger."""
    names = [f"account-{i:07}" for i in range(accounts)]
    async with state(url) as ledger:
        await ledger.claim_due(names, hold=86_400)
        later = time.time() + 86_400

        async def end() -> None:
            for start in range(0, accounts, 1_000):
                some = names[start : start + 1_000]
                await asyncio.gather(
                    *(ledger.record_poll(n, next_poll=later, error=None) for n in some)
                )

        ends = [await timed(end)]
        vacuum()  # as autovacuum does; before it, the index is full of what was
        nothing = [await timed(lambda: ledger.claim_due(names, hold=86_400)) for _ in range(ROUNDS)]
        entries = [LedgerEntry(f"uidl-{i}", f"{i:032x}") for i in range(LEFT)]

        async def record(prefix: str) -> None:
            await asyncio.gather(
                *(
                    ledger.record(n, [LedgerEntry(e.uidl, prefix + n + e.id) for e in entries])
                    for n in names[:1000]
                )
            )

        wrote = [await timed(partial(record, f"{i}-")) for i in range(ROUNDS)]
    say(
        f"{name}: a look at the schedule of {accounts:,}, nothing due",
        [w * 1e3 for w, _ in nothing],
        "ms",
    )
    say(f"{name}: ends of polls recorded a second", [accounts / w for w, _ in ends], "/s")
    say(
        f"{name}: messages recorded in the ledger a second",
        [1000 * LEFT / w for w, _ in wrote],
        "/s",
    )


async def measure_hop(server: RabbitServer) -> None:
    """One hop over a quorum queue: published, confirmed, consumed, acknowledged."""
    vhost, tiers = server.vhost(), (Tier("1h", 3600),)
    url = server.url(vhost)
    steward = KombuSteward(url, tiers)
    steward.declare()
    steward.close()
    broker = RabbitBroker(url, sender="postmaster", name="measure", tiers=tiers, version="0")
    await broker.open()
    envelope = Envelope("id", "sales", Fetched(Inline(MESSAGE), "u1", "pop:995"), 1.0)
    incoming = QueuePublisher(broker, INCOMING)

    async def hop() -> None:
        for _ in range(MESSAGES // BATCH):
            await incoming.put(*[envelope] * BATCH)
        deliveries = broker.consume(INCOMING, BATCH)
        left = MESSAGES
        while left:
            arrived = await anext(deliveries)
            await broker.settle_all([(delivery, ()) for delivery in arrived])
            left -= len(arrived)
        await deliveries.aclose()

    await hop()  # warms up both sides
    theirs, rounds = [], []
    for _ in range(ROUNDS):
        before = _broker_cpu(server)
        rounds.append(await timed(hop))
        theirs.append((_broker_cpu(server) - before) / MESSAGES * 1e6)
    await broker.close()
    server.drop_vhost(vhost)
    say("RabbitMQ, one node: hops a second of 5 KB", [MESSAGES / w for w, _ in rounds], "/s")
    say("RabbitMQ: CPU of the broker for a hop", theirs, "us")
    say("RabbitMQ: CPU of ours for a hop", [used / MESSAGES * 1e6 for _, used in rounds], "us")


def _broker_cpu(server: RabbitServer) -> float:
    """Return the seconds of CPU that the node has used."""
    found = re.search(r"\d+", server.ctl("eval", "element(1, erlang:statistics(runtime))."))
    assert found
    return int(found[0]) / 1000


STRANGERS = (1_000, 50_000)
OURS = 1_000
LOOKS = 10
LOCKED = (
    "SELECT name FROM account WHERE (next_poll <= {now} OR set_at > {now} + 60)"
    " AND (queued_until <= {now} OR queued_at > {now} + 60) FOR UPDATE SKIP LOCKED"
)
"""How the schedule was looked at when it locked whatever was due."""


async def measure_strangers(server: PostgresqlServer, strangers: int) -> None:
    """What a look costs that finds nothing of ours, and many rows of accounts of nobody."""
    url = server.empty()
    names = [f"ours-{i:07}" for i in range(OURS)]
    async with state(url) as ledger:
        await ledger.claim_due([f"removed-{i:07}" for i in range(strangers)], hold=0)
        await ledger.claim_due(names, hold=86_400)
        _vacuumed(server)
        await ledger.claim_due(names, hold=86_400)  # learns that there are strangers

        async def look() -> None:
            await ledger.claim_due(names, hold=86_400)

        async def lock() -> None:
            now = time.time()
            await asyncio.to_thread(_once, server, url, LOCKED.format(now=now))

        for what, work in (("locked, as before", lock), ("now", look)):
            log, used = _log_position(server), _database_cpu(server)
            wall, ours = zip(*[await timed(work) for _ in range(LOOKS)], strict=True)
            log, used = _log_position(server) - log, _database_cpu(server) - used
            name = f"a look at {strangers:,} of nobody, {what}: "
            say(name + "log", [log / LOOKS / 1024], "KiB")
            say(name + "CPU of PostgreSQL", [used / LOOKS * 1e3], "ms")
            say(name + "CPU of ours", [sum(ours) / LOOKS * 1e3], "ms")
            say(name + "time", [w * 1e3 for w in wall], "ms")


def _once(server: PostgresqlServer, url: str, statement: str) -> None:
    with server.connect() as connection, connection.transaction():
        connection.execute(f"SET LOCAL search_path = {url.rpartition('%3D')[2]}".encode())
        connection.execute(statement.encode()).fetchall()


def _log_position(server: PostgresqlServer) -> int:
    with server.connect() as connection:
        found = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert found
    return int(str(found[0]))


def _database_cpu(server: PostgresqlServer) -> float:
    """Return the seconds of CPU of the server, of processes that have ended too."""
    with server.connect() as connection:
        found = connection.execute(
            "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"
        ).fetchone()
    assert found
    postmaster = str(found[0])
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if folder.name == postmaster:
                ticks += sum(map(int, fields[11:15]))
            elif fields[1] == postmaster:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _vacuumed(server: PostgresqlServer) -> None:
    with server.connect() as connection:
        connection.execute("VACUUM ANALYZE")


async def measure(accounts: int, folder: Path) -> None:
    """Measure everything."""
    measure_stages()
    measure_configuration(accounts, folder)
    await measure_hop(shared_rabbitmq())
    with maildrops() as port, postgresql() as server:
        urls = {"SQLite": f"sqlite:///{folder}/state.db", "PostgreSQL": server.empty()}
        vacuums = {"SQLite": lambda: None, "PostgreSQL": lambda: _vacuumed(server)}
        for name, url in urls.items():
            (folder / name).mkdir()
            await measure_polls(name, url, port, folder / name)
            await measure_schedule(name, url, accounts, vacuums[name])
        for strangers in STRANGERS:
            await measure_strangers(server, strangers)


async def measure_strangers_alone() -> None:
    """Measure what rows of accounts of nobody cost, and nothing else."""
    with postgresql() as server:
        for strangers in STRANGERS:
            await measure_strangers(server, strangers)


def main(arguments: Sequence[str]) -> int:
    """Measure with so many accounts."""
    if list(arguments) == ["strangers"]:
        asyncio.run(measure_strangers_alone())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(int(arguments[0]) if arguments else 50_000, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
