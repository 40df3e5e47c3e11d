"""New files, complete and durable or not there at all; many of them made durable together.

A file is written under a temporary name, synced, linked to its final name, and the directory
synced. It trusts the file system to keep what ``fsync`` has confirmed. A final name that exists
already is a delivery that happened before. Each failure is an OSError for that file alone. A thread
cannot be cancelled: a task that is, while one works for it, waits for its end first.

Known limit: where the file system has no hard links, a file that appears under the final name in
the moment between the look and the renaming is replaced; the claim keeps other deliverers off it.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from services.deliverer.courier import MailContent, Result, ResultKind
from services.deliverer.line_ends import Form, InChunks
from shared.disk.durable import sync
from shared.disk.explain import disk_words
from shared.errors import Unreachable
from shared.failpoint import reach
from shared.group_commit import GroupCommit
from shared.log import printable

BATCH: Final = 200
"""Files made durable together at most; each is an open descriptor for a while."""

WRITERS: Final = 4
"""Threads that write and sync the files of a batch, each its share. Syncs that wait at the same
time share one flush of the disk. Four that write too are done sooner than eight that wait for one
that writes, and cost less.
"""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_T = TypeVar("_T")


class NewFile(NamedTuple):
    """A file to be.

    Attributes:
        temporary: where it is written; in the same file system as ``directory``.
        directory: where it appears.
        name: the name under which it appears there.
        data: what is in it; None where that is, or is to be, written to ``temporary``.
        prepare: makes the directories; called where they do not exist. None where that is not ours.
    """

    temporary: str
    directory: str
    name: str
    data: bytes | None = None
    prepare: Callable[[], object] | None = None

    @property
    def final(self) -> str:
        """The path under which it appears."""
        return f"{self.directory}/{self.name}"


class FileStore:
    """Writes files in threads of its own.

    Args:
        name: of the destination, for the names of the threads.
    """

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=f"store-{name}")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix=f"write-{name}")
        self._publish = GroupCommit(partial(publish, self._writers), self._threads, BATCH)
        self._serial = itertools.count()
        self._pid = os.getpid()

    def temporary_name(self, id_: str) -> str:
        """Return a file name for a message that nobody else on this machine uses."""
        return f"{id_}.{self._pid}-{next(self._serial)}.tmp"

    async def stage(self, file: NewFile, head: bytes, content: MailContent, form: Form) -> NewFile:
        """Return a file with a message in it, ready for ``put``.

        One that is not at hand is written under the temporary name, never held whole.

        Args:
            file: where to, without data.
            head: lines that go before the message.
            content: the message.
            form: its line ends there.

        Raises:
            OSError: it could not be written.
            SpoolMissing: as ``MailContent.chunks`` does.
            SpoolUnavailable: as ``MailContent.chunks`` does.
        """
        if content.data is not None:
            data = form.whole(head + content.prefix + content.data)
            return NewFile(file.temporary, file.directory, file.name, data, file.prepare)
        fd = await self._create_open(file)
        try:
            await self._copy(fd, head + content.prefix, content, form.chunked())
        except BaseException:
            discard(file)
            raise
        finally:
            os.close(fd)
        return file

    async def _create_open(self, file: NewFile) -> int:
        creating = asyncio.ensure_future(self.run(_create, file))
        try:
            return await await_to_end(creating)
        except asyncio.CancelledError:
            if not creating.cancelled() and creating.exception() is None:
                os.close(creating.result())
                discard(file)
            raise

    async def _copy(self, fd: int, head: bytes, content: MailContent, ends: InChunks) -> None:
        await self.run(_write, fd, ends.feed(head))
        async for chunk in content.chunks():
            await self.run(_write, fd, ends.feed(chunk))
        await self.run(_write, fd, ends.end())

    async def put(self, files: Sequence[NewFile]) -> Sequence[bool | Exception]:
        """Make staged files appear, durably.

        Returns:
            For each True, False if its final name was there before, or an OSError. A file of that
            name may be there all the same.
        """
        return await self._publish.all(files) if files else ()

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Return what a blocking function returns, called in a thread.

        Where this is cancelled, the thread is done with it when this ends.
        """
        loop = asyncio.get_running_loop()
        return await await_to_end(loop.run_in_executor(self._threads, work, *arguments))

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown()
        self._writers.shutdown()


async def await_to_end(work: Awaitable[_T]) -> _T:
    """Return what is awaited; where this is cancelled, raise that when the work has ended.

    Raises:
        Exception: what the work raises.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        raise


def publish(writers: Executor, files: Sequence[NewFile]) -> list[bool | Exception]:
    """Make files appear under their final names, durably.

    Args:
        writers: threads to write and sync the files in.
        files: temporary ones, or to be made.

    Returns:
        for each file True, False if its final name was there before, or an OSError.
    """
    placed = [
        error if isinstance(error, OSError) else _catch(_link, file)
        for file, error in zip(files, _write_all(writers, files), strict=True)
    ]
    for file in files:
        discard(file)
    # Those that were there before are synced too: who placed them may have died before that.
    directories = {
        directory: _catch(sync, directory) for directory in {file.directory for file in files}
    }
    return [
        how if isinstance(how, OSError) else directories[file.directory] or how
        for file, how in zip(files, placed, strict=True)
    ]


def _write_all(writers: Executor, files: Sequence[NewFile]) -> list[OSError | None]:
    if len(files) < WRITERS:
        return _write_each(files)
    answers: list[OSError | None] = [None] * len(files)
    shares = [slice(first, None, WRITERS) for first in range(WRITERS)]
    done = writers.map(_write_each, [files[share] for share in shares])
    for share, each in zip(shares, done, strict=True):
        answers[share] = each
    return answers


def _write_each(files: Sequence[NewFile]) -> list[OSError | None]:
    opened = [_catch(_open, file) for file in files]
    for fd in opened:
        if isinstance(fd, int):
            # Starts writing out without waiting, so that the syncs have less to wait for.
            _catch(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return [fd if isinstance(fd, OSError) else _catch(_sync, fd) for fd in opened]


def _catch(work: Callable[..., _T], *arguments: object) -> _T | OSError:
    """Return what work returns, or why it could not be done: that is about one file alone."""
    try:
        return work(*arguments)
    except OSError as error:
        return error
    except Exception as error:  # noqa: BLE001  (a NUL in a name, or anything else about it)
        return OSError(errno.EINVAL, f"{type(error).__name__}: {error}")


def _create(file: NewFile) -> int:
    try:
        return os.open(file.temporary, _CREATE, 0o600)
    except FileNotFoundError:
        if file.prepare is None:
            raise
        file.prepare()
        return os.open(file.temporary, _CREATE, 0o600)


def _open(file: NewFile) -> int:
    """Return a descriptor of the temporary file, with all its data in it."""
    if file.data is None:
        return os.open(file.temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fd = _create(file)
    try:
        _write(fd, file.data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _link(file: NewFile) -> bool:
    reach("deliverer", "before-file")
    try:
        os.link(file.temporary, file.final, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename(file)
    return True


def _rename(file: NewFile) -> bool:
    """Place a file where the file system has no hard links; the claim keeps others off the name."""
    if os.path.lexists(file.final):
        return False
    Path(file.temporary).rename(file.final)
    return True


def discard(file: NewFile) -> None:
    """Remove the temporary file, if it is there."""
    # What stays is no delivery, and the reader of a Maildir sweeps tmp. ValueError: it has a name
    # that no file can have.
    with suppress(OSError, ValueError):
        os.unlink(file.temporary)  # noqa: PTH108  (a Path costs more than the call)


def require_writable(path: str, *, make: bool = True) -> None:
    """Make sure that files can be written into a directory, or that it can be made.

    Asks for rights, and writes nothing: a server may watch the folder and take files out of it.

    Args:
        path: of the directory.
        make: whether it would be made where it does not exist.

    Raises:
        Unreachable: they cannot; it names the directory that is in the way.
    """
    place = Path(path)
    if not make and not place.is_dir():
        raise Unreachable(printable(path), "there is no such directory")
    there = next(p for p in (place, *place.parents) if os.path.lexists(p))
    shown = printable(str(there))
    if not there.is_dir():
        raise Unreachable(shown, "it is in the way: no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Unreachable(shown, "this user may not write there")


def stored_result(file: NewFile, *, new: bool) -> Result:
    """Return the result for a file that is there, now or since before."""
    how = "written to" if new else "was there before:"
    return Result("delivered", printable(f"{how} {file.final}"))


def failure_result(error: OSError) -> Result:
    """Return the result for a file that could not be written.

    Disks are emptied and rights mended; only a name that is too long stays so.
    """
    why = f"{disk_words(error)} ({error.filename})" if error.filename else str(error)
    verdict: ResultKind = "permanent" if error.errno == errno.ENAMETOOLONG else "temporary"
    return Result(verdict, printable(f"not written: {why}"))
