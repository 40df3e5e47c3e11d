"""The commands ``state check`` and ``state rebuild``: the SQLite files, whole or damaged.

And ``state migrate``, for a database whose tables belong to another role than uses them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from services.postmaster import show
from services.postmaster.errors import Unfit
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.lost_messages import LostMessages, find_lost
from services.postmaster.opening import open_state
from services.postmaster.options import json_option
from shared import failpoint
from shared.broker.embedded import owners, schema, statements
from shared.errors import BrokerUnavailable, ConfigError, DatabaseDamaged, StateUnavailable
from shared.log import printable
from shared.queues import QUARANTINE, plan
from shared.settings.model import Settings
from shared.sqlite.presence import QUEUES_LOST, how_gone, mark_of
from shared.sqlite.rebuild import FileHealth, Rebuilt, file_health, rebuild, remove
from shared.sqlite.write_ahead_log import require_own_log

_KNOWLEDGE: Final = frozenset(("uidl", "message", "delivered", "account", "installation"))
"""Tables without all of which mail comes again, or is not known to be held."""

PATIENCE: Final = 10.0
"""Seconds for a connection to a database at a server."""

_HELD: Final = (
    "All accounts are held, as not all that was fetched or delivered is known any more: choose with"
    " account adopt, or account fetch-again"
)


@click.group(help="Check and repair the files of the embedded broker and of the ledgers.")
def state() -> None:
    """Group the commands."""


@state.command("check")
@json_option
@pass_invocation
def check(invocation: Invocation, as_json: bool) -> int:
    """Have SQLite check each file, and count what is in it; also while processes run.

    The exit status is 1 where one is damaged, or cannot be checked. In PostgreSQL it is only made
    sure that all tables are there; PostgreSQL and RabbitMQ look after their own files.
    """
    settings = invocation.settings()
    found = {str(f): health_of(f, make) for f, make in _files(settings).items()}
    if ledger_file(settings) is None:
        found[str(settings.state.url)] = _health_at_server(settings.state_address())
    if as_json:
        show.as_json([{"file": f, **h._asdict()} for f, h in found.items()])
    else:
        for file, health in found.items():
            how = f"not checked, {health.unknown}" if health.unknown else "whole"
            click.echo(f"{file}: {'damaged' if health.faults else how}")
            for line in (*health.faults, *(f"{t}: {n} rows" for t, n in health.rows.items())):
                click.echo(f"  {line}")
    return 1 if any(health.faults or health.unknown for health in found.values()) else 0


@state.command("migrate")
@pass_invocation
def migrate(invocation: Invocation) -> None:
    """Create the tables of the ledgers, or bring them up to date, as their owner.

    Every process does so when it starts, where its database user may. Where each service has a role
    of its own (deploy/postgres/roles.sql), the owner does it, before them.
    """
    address = invocation.settings().state_address()
    asyncio.run(_bring_up_to_date(address))
    click.echo("the tables of the ledgers are up to date")


@state.command("rebuild")
@json_option
@pass_invocation
def rebuild_(invocation: Invocation, as_json: bool) -> int:
    """Rebuild each damaged file from what can be read of it; stop all processes first.

    The damaged file is kept beside it, as FILE.damaged (FILE.damaged.1 and so on where that is
    there already). A file that is gone is made anew, and is empty. Messages whose queue is no
    longer known go to quarantine. What the queues have lost, and the ledgers know as fetched, is
    reported, and fetched again if it is still at the provider.
    """
    settings = invocation.settings()
    failpoint.arm(invocation.environ)
    files = _files(settings)
    require_stopped(settings)
    done: list[dict[str, object]] = []
    for file, make in files.items():
        empty = file.with_name(f"{file.name}.new")
        remove(empty)  # what a rebuild has left that was killed
        require_own_log(file)  # the mixture would be kept, and nothing is damaged
        health = health_of(file, make)
        if health.unknown:
            raise Unfit(f"{printable(str(file))}: {health.unknown}")
        if not health.faults:
            continue
        how = how_gone(file)
        queues = file == settings.queue_file
        try:
            make(empty)
            put_right = _put_right if queues else partial(_hold_if_incomplete, settings)
            tables, kept = rebuild(file, empty, put_right)
        except (OSError, sqlite3.Error, BrokerUnavailable, StateUnavailable) as error:
            raise Unfit(
                f"{printable(str(file))} is unchanged, as no new file could be made beside it:"
                f" {printable(str(error))}. Is its disk full? Make room, and do it again"
            ) from error
        finally:
            remove(empty)
        done.append({"file": str(file), "tables": [table._asdict() for table in tables]})
        if as_json:
            continue
        if how:
            loss = f": {QUEUES_LOST}" if queues else ""
            click.echo(f"{file}: recreated empty, as the old one {how}{loss}")
        else:
            click.echo(f"{file}: rebuilt; the damaged one is {kept.name if kept else 'gone'}")
            for table in tables:
                some = "all" if table.whole else "some are lost"
                click.echo(f"  {table.table}: {table.rows} rows, {some}")
        if not queues and _knows_less(tables):
            click.echo(_HELD)
    lost = _lost(settings, [Path(str(each["file"])) for each in done])
    if as_json:
        show.as_json(done if lost is None else [*done, {"lost": lost._asdict()}])
    elif lost is not None:
        _tell_lost(lost)
    elif not done:
        click.echo("no file is damaged")
    return 0


def _lost(settings: Settings, anew: Sequence[Path]) -> LostMessages | None:
    """Compare the ledgers with the queue file if it was made anew; None where nothing is lost."""
    ledgers = ledger_file(settings)
    if settings.queue_file not in anew or (ledgers is not None and not ledgers.exists()):
        return None
    lost = find_lost(settings, ledgers)
    return lost if lost.again or lost.gone else None


def _tell_lost(lost: LostMessages) -> None:
    what = "fetched again" if lost.forgotten else "not fetched again, as the ledgers were damaged"
    for counts, where in (
        (lost.again, f"they may still be at the provider, and are {what}"),
        (lost.gone, "they are no longer at the provider"),
    ):
        for name, count in counts.items():
            click.echo(f"{printable(name)}: {count} messages are lost from the queues; {where}")


def _files(settings: Settings) -> dict[Path, Callable[[Path], None]]:
    """Return the files that these settings lead to and that are there, each with what makes it."""
    files: dict[Path, Callable[[Path], None]] = {}
    if settings.broker.embedded:
        files[settings.queue_file] = lambda path: make_queues(settings, path)
    ledgers = ledger_file(settings)
    if ledgers is not None:
        files[ledgers] = make_ledgers
    return {f: make for f, make in files.items() if f.exists() or mark_of(f).exists()}


def ledger_file(settings: Settings) -> Path | None:
    """Return the file of the ledgers, None where they are at a server.

    Raises:
        ConfigError: the URL of the database is wrong.
    """
    # Not at the top: SQLAlchemy takes its time to load.
    from shared.state.database import file_of

    url = settings.state.url
    return settings.data_dir / "state.db" if url is None else file_of(url.reveal())


def make_queues(settings: Settings, path: Path) -> None:
    """Make a queue file, or bring one up to date.

    Raises:
        ConfigError: what is there is damaged, of a newer version, or of another program.
    """
    db = schema.connect(path, 5.0)
    with statements.transaction(db):
        statements.declare(db, plan(settings.retry.tiers))
    db.close()


def make_ledgers(path: Path) -> None:
    """Make a file of ledgers, or bring one up to date.

    Raises:
        ConfigError: what is there is damaged, of a newer version, or of another program.
    """
    asyncio.run(_bring_up_to_date(path))


async def _bring_up_to_date(address: str | Path) -> None:
    async with open_state(address):
        pass


def health_of(file: Path, make: Callable[[Path], None]) -> FileHealth:
    """Return how a file is; one that opens normally and lacks something is damaged, too."""
    try:
        require_own_log(file)
    except ConfigError as error:
        return FileHealth([error.what], {})
    health = FileHealth([], {}) if how_gone(file) else file_health(file)
    if health.faults or health.unknown:
        return health
    try:
        make(file)
    except ConfigError as error:
        return health._replace(faults=[error.what])
    except (BrokerUnavailable, StateUnavailable) as error:
        return health._replace(unknown=str(error))
    return health


def _health_at_server(address: str | Path) -> FileHealth:
    """Return whether the tables of the ledgers are there; none is made."""
    # Not at the top: SQLAlchemy takes its time to load.
    from shared.state.database import probe

    try:
        probe(address, PATIENCE)
    except DatabaseDamaged as error:
        return FileHealth([error.what], {})
    except (ConfigError, StateUnavailable) as error:
        return FileHealth([], {}, printable(str(error)))
    return FileHealth([], {})


def require_stopped(settings: Settings) -> None:
    """Make sure that no process works on the queue file.

    Raises:
        ConfigError: one does.
    """
    folder = settings.queue_file.with_name(f"{settings.queue_file.name}.owners")
    if settings.broker.embedded and any(map(owners.is_locked, folder.glob("*"))):
        raise ConfigError(str(settings.data_dir), "processes use these files; stop them first")


def hold(ledgers: str | Path, settings: Settings, why: str) -> None:
    """Have no account polled before the operator has chosen; nobody uses the ledgers."""
    asyncio.run(_hold_accounts(ledgers, [account.name for account in settings.accounts], why))


async def _hold_accounts(ledgers: str | Path, accounts: Sequence[str], why: str) -> None:
    async with open_state(ledgers) as state:
        await state.hold(accounts, why)


def _knows_less(tables: Sequence[Rebuilt]) -> bool:
    """Return whether something may be lost of what was fetched and delivered, or is held."""
    return any(not table.whole and table.table in _KNOWLEDGE for table in tables)


def _hold_if_incomplete(settings: Settings, file: Path, tables: Sequence[Rebuilt]) -> None:
    """Have accounts held by ledgers that do not know all any more: mail would come again."""
    if _knows_less(tables):
        hold(file, settings, "the state database was damaged, and some of what it knew is lost")


def _put_right(file: Path, _: Sequence[Rebuilt]) -> None:
    """Let every message stand in a queue, and nothing stand there that is no message."""
    db = sqlite3.connect(file, isolation_level=None)
    with statements.transaction(db):
        for table in ("waiting", "delayed", "lease"):
            db.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT id FROM message)")  # noqa: S608
        db.execute(
            """INSERT INTO waiting (queue, id, handouts)
            SELECT (SELECT id FROM queue WHERE name = ?), id, 0 FROM message
            WHERE id NOT IN (SELECT id FROM waiting UNION SELECT id FROM delayed
                             UNION SELECT id FROM lease)""",
            (QUARANTINE,),
        )
    db.close()
