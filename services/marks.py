"""Where the marks of an installation lie (``shared.mark``), and whether its mail lies anywhere.

One lies with the queues: beside the file of the embedded broker, or at RabbitMQ; one in the spool.
Where a place has none, or may not be asked (a topology or permissions of an older version), there
is nothing to compare with. At RabbitMQ those of all connectors of a virtual host are one message,
which whoever writes takes out first. A broker that is away is waited for; a spool is not, since
small messages do without it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from shared.clock import Clock
from shared.daemon_thread import answer_within, in_daemon_thread
from shared.disk.replaced_file import beside, read_file, write_file
from shared.earlier_deliveries import find_delivered
from shared.errors import BrokerUnavailable, ConfigError, SpoolUnavailable
from shared.log import Report
from shared.mark import LONGEST, Mark, read
from shared.settings.model import Settings
from shared.spool import Spool
from shared.waiting import any_of, until_there

if TYPE_CHECKING:
    from shared.broker.steward.steward import KombuSteward

QUEUES: Final = "the queues"
SPOOL: Final = "the blobs in the spool"

SPOOL_WITHIN: Final = 10.0
"""Seconds that a spool may take to answer."""

T = TypeVar("T")


class _NotAskedError(Exception):
    """Nobody knows whether there is a mark: this process may not ask."""


class Marks:
    """The marks of one installation.

    Args:
        settings: its configuration.
        spool: its spool.
        sender: whose exchange this process sends with.
        report: told of what cannot be read or written.
        clock: the time.
    """

    def __init__(
        self, settings: Settings, spool: Spool, sender: str, report: Report, clock: Clock
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._sender = sender
        self._report = report
        self._clock = clock
        self._refused: set[str] = set()
        self._hangs: asyncio.Future[Any] | None = None

    @property
    def hangs(self) -> bool:
        """Whether the spool was asked, and has not answered yet."""
        return self._hangs is not None and not self._hangs.done()

    async def read(self) -> Mapping[str, Mark | None]:
        """Return what marks there are, by the words for their places; None where there is none.

        A place that could not be asked is not among them.
        """
        marks: dict[str, Mark | None] = {}
        with suppress(_NotAskedError):
            marks[QUEUES] = await self._at_queues()
        try:
            marks[SPOOL] = _read(await self._at_spool(self._spool.mark))
        except SpoolUnavailable as error:
            self._tell(SPOOL, error)
        return marks

    async def queues(self) -> Mark | None:
        """Return the mark that lies with the queues, once the broker answers.

        None without one, and where it may not be asked for.
        """
        try:
            return await self._at_queues()
        except _NotAskedError:
            return None

    async def _at_queues(self) -> Mark | None:
        text = await until_there(
            lambda: in_daemon_thread(self._read_queues, "mark"),
            any_of(BrokerUnavailable),
            self._report,
            "waiting for the mark that lies with the queues",
            once=True,
        )
        return _read(text)

    async def write(self, mark: Mark) -> Sequence[str]:
        """Write a mark wherever that works; return these places."""
        done = []
        try:
            await in_daemon_thread(lambda: self._write_queues(mark.text()), "mark")
            done.append(QUEUES)
        except _NotAskedError:
            pass
        except (BrokerUnavailable, OSError) as error:
            self._tell(QUEUES, error)
        try:
            if await self._at_spool(lambda: self._spool.set_mark(mark.text().encode())):
                done.append(SPOOL)
        except SpoolUnavailable as error:
            self._tell(SPOOL, error)
        return done

    async def _at_spool(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask the spool, one thing at a time: what hangs there keeps a thread.

        Raises:
            SpoolUnavailable: it fails, or does not answer.
        """
        if not self.hangs:
            self._hangs = task = asyncio.ensure_future(work())
            try:
                return await answer_within(self._clock, SPOOL_WITHIN, task)
            except TimeoutError:
                pass
        raise SpoolUnavailable(f"it has not answered within {SPOOL_WITHIN:g} seconds")

    def delivered(self, accounts: Sequence[str]) -> str | None:
        """Return why these accounts are known to have delivered mail here; blocking."""
        # Not at the top: only a state database that is new is a reason to look.
        from services.deliverer.files.maildir import SUFFIX

        names = frozenset(accounts)
        for destination in self._settings.every_destination.values():
            url = urlsplit(destination.url.reveal())
            template = unquote(url.path).rstrip("/")
            if url.scheme == "maildir" and (path := find_delivered(template, SUFFIX, names)):
                return (
                    "the state database is new, and mail that was delivered before is not: there is"
                    f" {Path(path).parent.parent}"
                )
        return None

    @property
    def _file(self) -> Path:
        return beside(self._settings.queue_file)

    def _read_queues(self) -> bytes | None:
        if self._settings.broker.embedded:
            try:
                return read_file(self._file, LONGEST)
            except OSError as error:
                self._tell(QUEUES, error)
                raise _NotAskedError from error
        return self._at_rabbitmq(lambda steward: self._own(_by_connector(steward.mark())))

    def _write_queues(self, text: str) -> None:
        if self._settings.broker.embedded:
            write_file(self._file, text.encode())
            return

        def changed(before: bytes | None) -> str:
            names = self._settings.broker.names
            others = _by_connector(before)
            kept = {name: other for name, other in others.items() if name not in names}
            return json.dumps({**kept, names[0]: text})

        self._at_rabbitmq(lambda steward: steward.set_mark(self._sender, changed))

    def _own(self, marks: Mapping[str, str]) -> bytes | None:
        """Return the mark of this connector, under the name that it has, or had."""
        own = next((marks[name] for name in self._settings.broker.names if name in marks), None)
        return None if own is None else own.encode()

    def _at_rabbitmq(self, work: Callable[[KombuSteward], T]) -> T:
        from shared.broker.steward.steward import KombuSteward

        broker = self._settings.broker
        ca_file = None if broker.ca_file is None else str(broker.ca_file)
        tiers = self._settings.retry.tiers
        try:
            with closing(KombuSteward(broker.addresses(), tiers, ca_file, self._report)) as steward:
                return work(steward)
        except ConfigError as error:
            self._tell(QUEUES, error)
            raise _NotAskedError from error

    def _tell(self, where: str, error: Exception) -> None:
        """Say it once for each place: without a mark nothing is worse than it was before."""
        if where not in self._refused:
            self._refused.add(where)
            what = "no mark of the state database can be read or stored"
            self._report(what, where=where, why=error)


def _read(text: bytes | None) -> Mark | None:
    return None if text is None else read(text)


def _by_connector(text: bytes | None) -> Mapping[str, str]:
    """Return the marks at RabbitMQ, by the names of the connectors; none where it is none."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    marks = found.items() if isinstance(found, dict) else ()
    return {name: mark for name, mark in marks if isinstance(mark, str)}
