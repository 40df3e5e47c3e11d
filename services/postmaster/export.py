"""``export``: the raw bytes of messages, into a file, into a folder, or to standard output.

Nothing is ever overwritten. In a folder each message gets a file named after its id; an id that
could be a path, as only somebody else's could, is replaced by a hash of it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from services.postmaster import mail_folder, show
from services.postmaster.absent import open_folder
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.mail_folder import MailFolder
from services.postmaster.opening import open_spool
from services.postmaster.options import json_option
from services.postmaster.selection import selecting, selection_in
from shared.broker import Stored
from shared.errors import SpoolMissing, SpoolUnavailable
from shared.log import printable

if TYPE_CHECKING:
    from shared.spool import Spool

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def export(folder: MailFolder) -> click.Command:
    """Return the command for the messages of a folder."""

    @click.command("export", help="Write raw messages, byte for byte as they were fetched.")
    @selecting
    @click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="A new file to write to, or a folder for a file each; else standard output.",
    )
    @json_option
    @pass_invocation
    def command(
        invocation: Invocation, /, output: Path | None, as_json: bool, **options: Any
    ) -> None:
        selection = selection_in(options)
        if output is None and (as_json or sys.stdout.isatty()):
            raise click.UsageError("pass -o FILE: raw bytes go neither to a terminal nor into JSON")
        several = len(selection.ids) != 1
        into = output is not None and output.is_dir()
        if several and not into:
            raise click.UsageError(
                "pass -o FOLDER, an existing one: several messages need a file each"
            )
        settings = invocation.settings()
        with open_folder(settings, folder) as (steward, _):
            messages = selection.of(steward, folder)
            blobs = open_spool(settings)
            if output is not None and into:
                _export_all(blobs, messages, output, as_json)
            else:
                _export_one(blobs, next(iter(messages)), output, as_json)

    return command


def _export_one(blobs: Spool, message: Stored, output: Path | None, as_json: bool) -> None:
    if why := mail_folder.without_blob(message):
        raise click.ClickException(f"nothing to export: {why}")
    size = _write_chunks(mail_folder.chunks(blobs, message), output)
    if output is not None:
        show.report({"bytes": size, "file": str(output)}, json_wanted=as_json)


def _export_all(blobs: Spool, messages: Iterable[Stored], into: Path, as_json: bool) -> None:
    """Write each message, whatever becomes of the others; parts of one message are written once."""
    sizes: dict[str, int | None] = {}
    for message in messages:
        if message.message_id not in sizes:
            sizes[message.message_id] = _export_each(blobs, message, into)
    written = [size for size in sizes.values() if size is not None]
    show.report(
        {"exported": len(written), "bytes": sum(written), "folder": str(into)}, json_wanted=as_json
    )
    if len(written) < len(sizes):
        raise click.ClickException(f"{len(sizes) - len(written)} of {len(sizes)} not exported")


def _export_each(blobs: Spool, message: Stored, into: Path) -> int | None:
    """Write a message and return its size; say why if it cannot be written, and return None."""
    why = mail_folder.without_blob(message)
    try:
        if why is None:
            return _write_chunks(
                mail_folder.chunks(blobs, message), into / _name(message.message_id)
            )
    except click.ClickException as error:
        why = error.message
    except (SpoolMissing, SpoolUnavailable) as error:
        why = str(error)
    click.echo(f"{printable(message.message_id)}: {printable(str(why))}", err=True)
    return None


def _name(id_: str) -> str:
    safe = id_ if _NAME.fullmatch(id_) else sha256(id_.encode(errors="replace")).hexdigest()
    return f"{safe}.eml"


def _write_chunks(chunks: AsyncIterator[bytes], output: Path | None) -> int:
    """Write all of the chunks to a new file (mode 0600), or to standard output; return the size.

    Raises:
        ClickException: there is such a file already, or it cannot be written.
    """
    if output is None:
        return asyncio.run(_copy(chunks, sys.stdout.buffer))
    with ExitStack() as undo:
        try:
            output.touch(0o600, exist_ok=False)
            undo.callback(output.unlink)
            with output.open("wb") as file:
                size = asyncio.run(_copy(chunks, file))
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from error
        undo.pop_all()
    return size


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO) -> int:
    size = 0
    async for chunk in chunks:
        size += file.write(chunk)
    file.flush()
    return size
