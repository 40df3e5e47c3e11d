"""Puts a backup back, after making sure that it is whole and that its parts fit together.

First the archive is read to its end: sums, databases, and whether each blob is there that a queue
names. Only then are files put in place: blobs, marks, queues, and at last the ledgers, so that a
restore that was cut short has lost nothing, and is told by its marks. What is put in place is on
disk. It trusts that nobody starts the product meanwhile.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from services.postmaster import archive, orphans
from services.postmaster.errors import Unfit
from services.postmaster.installation_files import InstallationFiles
from services.postmaster.state import PATIENCE, health_of, hold, make_ledgers, make_queues
from shared.broker import Stored
from shared.broker.embedded import statements
from shared.disk.durable import durable_file, sync
from shared.disk.replaced_file import beside, write_file
from shared.log import printable
from shared.mark import Mark
from shared.queues import POLL
from shared.spool.local import LocalStore
from shared.spool.store import MARK
from shared.sqlite.rebuild import SIDES, remove

if TYPE_CHECKING:
    from shared.settings.model import Settings

_NOTHING: Final = frozenset(("lost+found", MARK))
"""What lies in a folder that is empty: the root of a file system of its own has the one; the other
tells that a spool was used with a newer state."""


class Restored(NamedTuple):
    """What was put back, and how many messages wait in its queues."""

    about: archive.About
    messages: int


def restore(parts: InstallationFiles, settings: Settings, file: Path) -> Restored:
    """Put a backup back.

    Args:
        parts: where its files belong.
        settings: of this installation.
        file: the archive.

    Raises:
        Unfit: it does not fit, or its place is not empty; nothing was changed.
        Damaged: it is damaged; nothing was changed.
        ConfigError: the ledgers are at a server, and may not be used; nothing was changed.
        StateUnavailable: that server cannot be reached; nothing was changed.
        OSError: a file cannot be read or written.
    """
    about = archive.about(file)
    if about.holds != parts.holds:
        raise Unfit(
            f"it holds {_and(about.holds)}, and this configuration keeps {_and(parts.holds)} here"
        )
    _require_empty(parts)
    for folder in {path.parent for path in parts.named.values()}:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    makers = {
        archive.QUEUES: lambda path: make_queues(settings, path),
        archive.LEDGERS: make_ledgers,
    }
    with _drafts(parts) as drafts:
        note, blobs = _unpacked(file, drafts)
        for name, draft in drafts.items():
            _require_whole(name, draft, makers[name])
        messages = _require_blobs(parts, drafts, blobs, about)
        if archive.LEDGERS in drafts:
            _hold(drafts[archive.LEDGERS], settings, about)
        elif archive.QUEUES in drafts:
            _hold_at_server(settings, about)
        _put_blobs(parts, file)
        if archive.LEDGERS in drafts:
            _put_marks(parts, drafts[archive.LEDGERS])
        for name, draft in drafts.items():
            if name == archive.LEDGERS and note and parts.note is not None:
                _write(parts.note, [note])
            draft.replace(parts.named[name])
        for folder in {path.parent for path in parts.named.values()}:
            sync(folder)
    return Restored(about, messages)


def count_references(queues: Path) -> tuple[int, orphans.References]:
    """Return how many messages a queue file that nobody uses holds, and which blobs they name."""
    count = 0

    def counted() -> Iterator[Stored]:
        nonlocal count
        for stored in statements.everything(db):
            if stored.queue != POLL:
                count += 1
                yield stored

    with contextlib.closing(sqlite3.connect(queues, isolation_level=None)) as db:
        references = orphans.references(counted())
    return count, references


def _and(names: Iterable[str]) -> str:
    return " and ".join(name.rstrip("/") for name in names) or "nothing"


def _require_empty(parts: InstallationFiles) -> None:
    folders = (folder for folder in (parts.data_dir, parts.spool) if folder is not None)
    there = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    # A log of another file would be taken for that of the one that is put there.
    named = [path.with_name(path.name + side) for path in parts.databases for side in ("", *SIDES)]
    there += [path for path in named if path.exists()]
    if found := next((path for path in there if path.name not in _NOTHING), None):
        raise Unfit(
            f"{printable(str(found))} is there: a backup is put back where nothing is. Stop all"
            " processes, and move away what is there"
        )


@contextlib.contextmanager
def _drafts(parts: InstallationFiles) -> Iterator[dict[str, Path]]:
    """Yield where each database is unpacked at first: beside its place."""
    drafts = {name: path.with_name(f"{path.name}.draft") for name, path in parts.named.items()}
    try:
        yield drafts
    finally:
        for draft in drafts.values():
            remove(draft)


def _unpacked(file: Path, drafts: dict[str, Path]) -> tuple[bytes, set[str]]:
    """Read the archive to its end; return the note in it, and the keys of its blobs."""
    note, blobs, seen = b"", set(), set()
    for name, pieces in archive.members(file):
        seen.add(name)
        if name in drafts:
            _write(drafts[name], pieces)
        elif name == archive.NOTE:
            note = b"".join(pieces)
        else:
            for _ in pieces:
                pass
            if name.startswith(archive.SPOOL):
                blobs.add(name.removeprefix(archive.SPOOL))
    if missing := drafts.keys() - seen:
        raise archive.Damaged(f"there is no {_and(missing)} in it")
    return note, blobs


def _require_whole(name: str, draft: Path, make: Callable[[Path], None]) -> None:
    """Make sure that a database is whole and of a schema that we know; bring it up to date."""
    if not draft.stat().st_size:
        raise Unfit(f"nothing was restored, as {name} in it is empty")
    health = health_of(draft, make)
    if health.unknown:
        raise Unfit(f"nothing was restored, as {name} in it cannot be looked at: {health.unknown}")
    if faults := health.faults:
        raise Unfit(f"nothing was restored, as {name} in it cannot be used: {faults[0]}")
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE").fetchone()  # a file that is whole by itself
    sync(draft)


def _hold(ledgers: Path, settings: Settings, about: archive.About) -> None:
    """Have no account polled before the operator has chosen: what came since is not in them."""
    why = f"the state database was restored from a backup of {about.moment}"
    hold(ledgers, settings, why)
    with contextlib.closing(sqlite3.connect(ledgers, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE").fetchone()
    sync(ledgers)


def _hold_at_server(settings: Settings, about: archive.About) -> None:
    """Have no account polled that the ledgers at a server know more of than the queues.

    Raises:
        Unfit: there are no ledgers.
        ConfigError: the settings do not lead to them.
        StateUnavailable: they cannot be reached.
    """
    # Not at the top: SQLAlchemy takes its time to load.
    from shared.state.database import probe

    address = settings.state_address()
    if not probe(address, PATIENCE):
        raise Unfit(
            f"nothing was restored, as there are no ledgers in {settings.state.url}: put that"
            " database back first (pg_restore), or, where it is lost, have state migrate make one"
        )
    hold(address, settings, f"the queues were restored from a backup of {about.moment}")


def _require_blobs(
    parts: InstallationFiles, drafts: dict[str, Path], blobs: set[str], about: archive.About
) -> int:
    """Make sure that all blobs are there that were there; return the count of messages."""
    if archive.QUEUES not in drafts:
        return 0
    messages, references = count_references(drafts[archive.QUEUES])
    missing = references.keys - blobs - set(about.missing)
    if missing and parts.spool is not None:
        raise Unfit(
            f"nothing was restored: queues name {len(missing)} large messages that are not in it,"
            f" such as {printable(min(missing))}"
        )
    return messages


def _put_blobs(parts: InstallationFiles, file: Path) -> None:
    if parts.spool is None:
        return
    blobs, put = LocalStore(parts.spool), []
    try:
        for name, pieces in archive.members(file):
            if not name.startswith(archive.SPOOL):
                for _ in pieces:
                    pass
                continue
            put.append(name.removeprefix(archive.SPOOL))
            draft = blobs.draft()
            for piece in pieces:
                draft.write([piece])
            draft.commit(put[-1])
    except BaseException:
        for key in put:
            blobs.delete(key)
        blobs.discard_drafts(inf)
        raise


def _put_marks(parts: InstallationFiles, ledgers: Path) -> None:
    """Have queues and blobs say which ledgers they were filled with: those beside them in it.

    Ledgers that are at a server know more than what is put back here: without a mark the fetcher
    says that something is gone.
    """
    with contextlib.closing(sqlite3.connect(ledgers, isolation_level=None)) as db:
        (row,) = db.execute("SELECT id, number, at FROM installation")
    text = Mark(*row).text().encode()
    if parts.queues is not None:
        write_file(beside(parts.queues), text)
    if parts.spool is not None:
        parts.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        LocalStore(parts.spool).set_mark(text)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with durable_file(path) as out:
        out.writelines(pieces)
