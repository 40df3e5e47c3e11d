"""Deliveries that the ledger could not take, written down in a file that has its room already.

A message that was delivered, and not recorded, comes twice as soon as its process ends. The ledger
may be out of reach because the disk is full, so this file is made, and filled with zeros, while
there is room; to write into it then takes none. Deliverers that share the folder share the file,
one at a time (flock). A line stands for one delivery, with its checksum: one that was torn is left
out.

Known limits: what does not fit into it is not written down; a file system that never overwrites in
place (btrfs, ZFS) may have no room for it all the same; and another deliverer that runs already
when this one ends reads it only when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from shared.ledger import DeliveryKey, Finished

SIZE: Final = 1024 * 1024
"""Bytes of the file: some thousand deliveries, where 512 messages are in hand at the most."""

_REPLY: Final = 500
"""Characters of a reply that are kept."""


class Unrecorded:
    """The file.

    Args:
        path: where it is; None where there is none, and nothing is written down.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    async def make(self) -> None:
        """Make the file, if there is room for it; without, nothing can be written down."""
        await asyncio.to_thread(self._make)

    async def write(self, finished: Sequence[Finished]) -> bool:
        """Write deliveries down; return whether that is on disk."""
        return await asyncio.to_thread(self._write, finished)

    async def read(self) -> list[Finished]:
        """Return what is written down, nothing where there is no such file."""
        return await asyncio.to_thread(self._read)

    async def strike(self, finished: Sequence[Finished]) -> None:
        """Strike out what is recorded by now."""
        await asyncio.to_thread(self._strike, finished)

    def _make(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with self._lock() as fd:
                there = os.fstat(fd).st_size
                if there < SIZE:
                    os.pwrite(fd, bytes(SIZE - there), there)
                    os.fsync(fd)

    def _write(self, finished: Sequence[Finished]) -> bool:
        with contextlib.suppress(OSError), self._lock() as fd:
            there = _read_written(fd)
            new = b"".join(line for each in finished if (line := _line(each)) not in there)
            torn = b"" if there.endswith(b"\n") or not there else b"\n"
            os.pwrite(fd, torn + new, len(there))
            os.fdatasync(fd)
            return True
        return False

    def _read(self) -> list[Finished]:
        with contextlib.suppress(OSError), self._lock() as fd:
            return list(_deliveries(_read_written(fd)))
        return []

    def _strike(self, finished: Sequence[Finished]) -> None:
        with contextlib.suppress(OSError), self._lock() as fd:
            there = _read_written(fd)
            gone = {_line(each) for each in finished}
            kept = (_line(each) for each in _deliveries(there))
            left = b"".join(line for line in kept if line not in gone)
            os.pwrite(fd, left.ljust(len(there), b"\0"), 0)
            os.fdatasync(fd)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int]:
        if self._path is None:
            raise FileNotFoundError
        with self._path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()


def _read_written(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0).partition(b"\0")[0]


def _line(finished: Finished) -> bytes:
    delivery, receipts = finished
    kept = {recipient: reply[:_REPLY] for recipient, reply in receipts.items()}
    text = json.dumps([delivery.id, delivery.destination, kept]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _deliveries(lines: bytes) -> Iterator[Finished]:
    for line in lines.splitlines():
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text):
            id_, destination, receipts = json.loads(text)
            yield Finished(DeliveryKey(id_, destination), receipts)
