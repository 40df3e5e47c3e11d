"""The commands ``backup`` and ``restore``: all that lies in ``data_dir`` as one file, and back."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import click

from services.postmaster import archive, restoring, show
from services.postmaster.archive import LEDGERS, QUEUES
from services.postmaster.errors import Unfit
from services.postmaster.installation_files import InstallationFiles
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.options import json_option
from services.postmaster.snapshot import Snapshot, own_folder, readable, snapshot
from services.postmaster.state import require_stopped
from shared import failpoint
from shared.clock import SystemClock
from shared.disk.durable import durable_file, sync
from shared.disk.explain import disk_words
from shared.errors import ConfigError, StateUnavailable
from shared.log import printable
from shared.sqlite.rebuild import damage_error, file_health

_file = click.argument("file", type=click.Path(path_type=Path))

_DRAFT: Final = "archive"


class _Saved(NamedTuple):
    """What is in an archive that was written: messages that queues hold, blobs, and its bytes."""

    about: archive.About
    messages: int
    blobs: int
    size: int


@click.command()
@_file
@json_option
@pass_invocation
def backup(invocation: Invocation, file: Path, as_json: bool) -> None:
    """Save queues, ledgers and spool as they are at this moment into one FILE.

    Processes may run meanwhile. FILE holds mail, so only its owner can read it; it is there when
    all of it is, and takes the place of an older backup of that name. The configuration and its
    secrets are not in it, nor is what lies in RabbitMQ, PostgreSQL or S3.
    """
    settings = invocation.settings()
    failpoint.arm(invocation.environ)
    parts = InstallationFiles.of(settings)
    parts.require_some()
    _require_free(file)
    with _translate_errors("nothing was saved"):
        saved = _save(parts, file)
    if as_json:
        show.as_json(
            {
                "file": str(file),
                "moment": saved.about.moment,
                "holds": saved.about.holds,
                "messages": saved.messages,
                "blobs": saved.blobs,
                "missing_blobs": saved.about.missing,
                "size": saved.size,
                "not_in_it": parts.elsewhere,
            }
        )
        return
    click.echo(
        f"{printable(str(file))}: {saved.messages} messages in queues and {saved.blobs} blobs,"
        f" as of {show.minute(saved.about.moment)}; {show.size(saved.size)}"
    )
    if saved.about.missing:
        keys = " ".join(map(printable, saved.about.missing))
        click.echo(f"missing from the spool already, or cannot be read: {keys}", err=True)
    for what in parts.elsewhere:
        click.echo(f"not in it: {what}; see Backup in docs/operations.md", err=True)


@click.command()
@_file
@json_option
@pass_invocation
def restore(invocation: Invocation, file: Path, as_json: bool) -> None:
    """Put back what "backup" saved into FILE; data_dir must be empty, no process may run.

    FILE is read to its end and checked before anything is put back. Mail that was fetched since,
    and is no longer at the provider, is not in it; what was delivered since is delivered again.
    """
    settings = invocation.settings()
    parts = InstallationFiles.of(settings)
    require_stopped(settings)
    with _translate_errors("nothing was restored"):
        found = restoring.restore(parts, settings, file)
    if as_json:
        show.as_json({"moment": found.about.moment, "messages": found.messages})
    else:
        click.echo(
            f"restored as of {show.minute(found.about.moment)}: {found.messages} messages in queues"
        )
        known = LEDGERS in found.about.holds
        since = "what was delivered since is delivered again"
        lost = "what was lost with the queues is fetched again, if it is still at the providers"
        if known or QUEUES in found.about.holds:
            click.echo(
                "All accounts are held. Choose: account fetch-again --all --undelivered"
                f" ({since if known else lost}), or account adopt --all (what lies at the"
                " providers counts as delivered)",
                err=True,
            )


@contextlib.contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Say what went wrong in words, and what that means."""
    try:
        yield
    except archive.Damaged as error:
        raise Unfit(f"{what}: {printable(str(error))}") from error
    except ConfigError as error:  # a file is damaged
        raise ConfigError(f"{what}: {error.where}", error.what) from error
    except OSError as error:
        where = printable(str(error.filename or ""))
        raise Unfit(f"{what}: {where}: {printable(disk_words(error))}") from error
    except sqlite3.Error as error:
        raise Unfit(f"{what}: {printable(str(error))}; try state check") from error
    except StateUnavailable as error:
        raise StateUnavailable(f"{what}: {error}") from error


def _require_free(file: Path) -> None:
    if file.exists() and not archive.is_archive(file):
        raise Unfit(f"{printable(str(file))} is there, and is no backup: give another name")


def _save(parts: InstallationFiles, file: Path) -> _Saved:
    """Write the archive beside its place, and put it there once it is whole and on disk."""
    with own_folder(file.with_name(f"{file.name}.part")) as folder:
        with snapshot(parts.databases, parts.spool, parts.note) as found:
            saved = _write_archive(parts, found, folder)
            failpoint.reach("backup", "written")
        (folder / _DRAFT).replace(file)
    sync(file.parent)
    return saved


def _write_archive(parts: InstallationFiles, found: Snapshot, folder: Path) -> _Saved:
    moment = show.time(SystemClock().now())
    copies = {name: folder / name for name in parts.named}
    for copy, (name, path) in zip(found.databases, copies.items(), strict=True):
        copy(path)
        health = file_health(path)
        if health.unknown:
            raise Unfit(f"nothing was saved, as {path.name} cannot be looked at: {health.unknown}")
        if faults := health.faults:
            raise damage_error(parts.named[name], faults[0])
        failpoint.reach("backup", "copied")
    messages, missing, blobs = 0, [], found.blobs
    if archive.QUEUES in copies:
        messages, held = restoring.count_references(copies[archive.QUEUES])
        blobs = {k: path for k, path in blobs.items() if held.hold(k) and readable(path)}
        missing = sorted(held.keys - blobs.keys()) if parts.spool is not None else []
    about = archive.About(moment, metadata.version("pop3-connector"), parts.holds, tuple(missing))
    draft = folder / _DRAFT
    with durable_file(draft) as out:
        writer = archive.Writer(out, about)
        for name, path in copies.items():
            writer.add(name, path)
        if found.note:
            writer.add_bytes(archive.NOTE, found.note)
        for key, path in blobs.items():
            writer.add(f"{archive.SPOOL}{key}", path)
        writer.finish()
    return _Saved(about, messages, len(blobs), draft.stat().st_size)
