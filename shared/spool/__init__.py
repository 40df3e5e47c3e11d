"""The spool: raw messages too large to travel through queues, one blob each.

The key of a blob is the id of its message, so that a message fetched again overwrites its own blob.
A blob that was committed is durable, and never changes. Whatever goes wrong with the storage is
SpoolUnavailable, whatever is not there SpoolMissing. Blocking calls run in threads, some hundred
KiB at a time; a message is never held whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

from shared.clock import Clock, SystemClock
from shared.daemon_thread import in_daemon_thread
from shared.disk.explain import disk_words
from shared.errors import SpoolMissing, SpoolUnavailable
from shared.log import printable
from shared.mark import LONGEST
from shared.spool.local import LocalStore
from shared.spool.options import of_folder
from shared.spool.store import TMP, Draft, Store, StoredBlob, path_of, valid

__all__ = ["BlobWriter", "Spool", "StoredBlob", "Swept", "folder_of", "said", "valid"]

R = TypeVar("R")

CHUNK: Final = 256 * 1024
"""Bytes that are read, or collected before they are written, at a time."""

_THREADS: Final = 8
_SYSTEM_CLOCK: Final = SystemClock()


class Swept(NamedTuple):
    """What became of blobs that were to be deleted.

    Attributes:
        deleted: the keys of those that are gone.
        left: why the others are not, by key; ``tmp`` stands for drafts.
    """

    deleted: list[str]
    left: dict[str, str]


class BlobWriter:
    """A blob that is being written. It ends with ``commit`` or ``abort``, or the sweep finds it."""

    def __init__(self, store: Store, threads: _Threads) -> None:
        self._store = store
        self._call = threads.call
        self._draft: Draft | None = None
        self._pending: list[bytes] = []
        self._size = 0

    async def write(self, chunk: bytes | memoryview) -> None:
        """Add to the blob; the caller may then use the memory again.

        Raises:
            SpoolUnavailable: it cannot be written, or the storage is full.
        """
        self._pending.append(bytes(chunk))
        self._size += len(chunk)
        if self._size >= CHUNK:
            await self._call(self._flush)

    async def commit(self, key: str) -> None:
        """Make this the blob of a key; it is durable on return.

        Raises:
            SpoolUnavailable: it is not; nothing of it is left, and an older blob is as it was.
            ValueError: no blob can have such a key.
        """
        path_of(key)
        try:
            await self._call(partial(self._commit, key))
        except BaseException:
            await self.abort()
            raise

    async def abort(self) -> None:
        """Leave no trace of it; harmless after ``commit``."""
        self._pending.clear()
        if self._draft is not None:
            draft, self._draft = self._draft, None
            await self._call(draft.discard)

    def _flush(self) -> None:
        if self._draft is None:
            self._draft = self._store.draft()
        chunks, self._pending, self._size = self._pending, [], 0
        self._draft.write(chunks)

    def _commit(self, key: str) -> None:
        self._flush()
        if self._draft is not None:
            self._draft.commit(key)


class Spool:
    """The blobs below one URL.

    Args:
        url: a folder (a path, or ``file:///srv/spool``), or what fsspec knows: ``s3://bucket/x``.
        options: what the fsspec file system takes besides, such as ``endpoint_url``.
        clock: tells how old a blob is.

    Raises:
        ConfigError: the URL or an option is wrong, or a package is needed that is not installed.
    """

    def __init__(
        self, url: str, options: Mapping[str, str] | None = None, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._store = _store(url, options or {})
        self._clock = clock
        self._threads = _Threads()
        self._call = self._threads.call
        self._call_detached = self._threads.call_detached

    @property
    def moved(self) -> int:
        """How many pieces of blobs were read or written since the start; grows as mail moves."""
        return self._threads.done

    async def create(self) -> BlobWriter:
        """Begin a blob."""
        return BlobWriter(self._store, self._threads)

    async def chunks(
        self, key: str, size: int = CHUNK, *, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield a blob in chunks of at most so many bytes.

        Args:
            key: of the blob.
            size: bytes of a chunk.
            length: bytes that it has to have, where that is known.

        Raises:
            SpoolMissing: there is no blob of this key.
            SpoolUnavailable: it cannot be read just now, or is not as long as it has to be; that
                is found before anything is yielded.
        """
        if not valid(key):
            raise SpoolMissing(key)
        file = await self._call(partial(self._open, key, length))
        try:
            while chunk := await self._call(partial(file.read, size)):
                yield chunk
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        """Delete a blob; nothing happens where there is none."""
        if valid(key):
            await self._call(partial(self._store.delete, key))

    async def copy(self, key: str, new_key: str) -> None:
        """Make a second blob of the same content, as durable as the first.

        Raises:
            SpoolMissing: there is no blob of this key.
            SpoolUnavailable: it cannot be read, or the copy not written.
            ValueError: no blob can have such a new key.
        """
        blob = await self.create()
        try:
            async for chunk in self.chunks(key):
                await blob.write(chunk)
        except BaseException:
            await blob.abort()
            raise
        await blob.commit(new_key)

    async def blobs(self) -> list[StoredBlob]:
        """Return all blobs, the oldest first.

        Raises:
            SpoolUnavailable: it cannot be read just now.
        """
        found = await self._call(lambda: list(self._store.describe_blobs()))
        return sorted(found, key=lambda blob: (blob.written, blob.key))

    async def drafts(self) -> list[StoredBlob]:
        """Return what was begun and not committed, the oldest first, with paths for keys.

        Raises:
            SpoolUnavailable: it cannot be read just now.
        """
        found = await self._call(lambda: list(self._store.drafts()))
        return sorted(found, key=lambda draft: (draft.written, draft.key))

    async def discard_drafts(self, older_than: float) -> None:
        """Delete drafts of processes that are dead.

        Args:
            older_than: seconds without a write, after which any draft is deleted.

        Raises:
            SpoolUnavailable: it cannot be done just now.
        """
        await self._call_detached(
            partial(self._store.discard_drafts, self._clock.now() - older_than)
        )

    async def mark(self) -> bytes | None:
        """Return what says who fills the spool (``shared.mark``), None where nothing does.

        Raises:
            SpoolUnavailable: it cannot be read just now.
        """
        return await self._call_detached(partial(self._store.mark, LONGEST))

    async def set_mark(self, content: bytes) -> bool:
        """Put that in the place of what is there; return False where there is no spool yet.

        Raises:
            SpoolUnavailable: it cannot be written just now.
        """
        return await self._call_detached(partial(self._store.set_mark, content))

    async def sweep(self, older_than: float, keep: Container[str]) -> Swept:
        """Delete blobs that nothing refers to, and what was begun and never committed.

        Args:
            older_than: seconds that must have passed since it was written; a blob is there before
                anything refers to it.
            keep: keys of blobs to keep, whatever their age.

        Raises:
            SpoolUnavailable: it cannot be used just now; one blob that cannot be deleted is no
                reason for that.
        """
        return await self._call(partial(self._sweep, self._clock.now() - older_than, keep))

    def _sweep(self, before: float, keep: Container[str]) -> Swept:
        swept = Swept([], {})
        with self._note_failure(TMP, swept.left):
            self._store.discard_drafts(before)
        for key in [key for key in self._store.blob_keys() if key not in keep]:
            with self._note_failure(key, swept.left):
                if self._store.delete_old(key, before):
                    swept.deleted.append(key)
        return swept

    @contextmanager
    def _note_failure(self, key: str, left: dict[str, str]) -> Iterator[None]:
        """Note what concerns one blob alone."""
        try:
            yield
        except self._store.own as error:
            left[key] = said(error)

    def _open(self, key: str, length: int | None) -> BinaryIO:
        try:
            file = self._store.open(key)
        except FileNotFoundError as error:
            raise SpoolMissing(key) from error
        if length is not None and (found := file.seek(0, os.SEEK_END)) != length:
            file.close()
            raise SpoolUnavailable(f"blob {key} has {found} bytes, and should have {length}")
        file.seek(0)
        return file


class _Threads:
    """Where blocking work is done.

    Attributes:
        done: how much was done.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")
        self.done = 0

    async def call(self, work: Callable[[], R]) -> R:
        """Do work in a thread, and say in our terms what went wrong.

        A caller that is cancelled still waits for the thread: it may be using a file that the
        caller closes next.
        """
        job = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            with _translate_errors():
                found = await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait([job])
            raise
        self.done += 1
        return found

    async def call_detached(self, work: Callable[[], R]) -> R:
        """Do work that is nobody's message: a start, or an end, may give up on it if it hangs."""
        with _translate_errors():
            return await in_daemon_thread(work, "spool, daemon")


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except SpoolMissing:
        raise
    except Exception as error:  # fsspec lets through whatever the client of a store raises
        raise SpoolUnavailable(said(error)) from error


def said(error: Exception) -> str:
    """Return what went wrong, in words for whoever has to mend it."""
    return printable(_words(error))


def _words(error: Exception) -> str:
    foreign = type(error).__module__ != "builtins"  # of fsspec, say: its name tells what it means
    if foreign or not isinstance(error, OSError) or error.strerror is None:
        return f"{type(error).__name__}: {error}"
    where = "" if error.filename is None else f": {error.filename}"
    words = disk_words(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) and words == error.strerror
    what = ". Delete something there: room may lack for bytes, or for more files" if full else ""
    return f"the spool cannot be used: {words}{where}{what}"


def folder_of(url: str, options: Mapping[str, str]) -> Path | None:
    """Return the folder of this machine that a URL leads to; None where it leads elsewhere.

    Raises:
        ConfigError: it is wrong, or needs a package that is not installed.
    """
    found = _place(url, options)
    return found if isinstance(found, Path) else None


def _store(url: str, options: Mapping[str, str]) -> Store:
    found = _place(url, options)
    return LocalStore(found) if isinstance(found, Path) else found


def _place(url: str, options: Mapping[str, str]) -> Store | Path:
    if "://" not in url:
        of_folder(options)
        return Path(url)
    # Not at the top: a directory needs no fsspec.
    from shared.spool.remote import connect

    return connect(url, options)
