"""Blobs in an object store, by whatever fsspec has a file system for.

A draft is a local temporary file, uploaded to its final name by one put when it is committed. The
key is known only then, so nothing can be streamed to it before; and a temporary object, copied
within the store, would cost a second transfer and leave litter that somebody pays for. An object
appears whole or not at all, durable when the store has answered: that much a store must promise.
It cannot be asked to delete an object only if that is old, so a sweep looks at the age immediately
before; its callers leave hours between the last use of a blob and its sweeping.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import fsspec

from shared.errors import ConfigError
from shared.spool.store import Listed, key_of, path_of

_PREFIX: Final = "pop3-connector-spool-"


class RemoteDraft:
    """A temporary file on this machine; one that a kill left over is swept up by its prefix."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root
        self._file = tempfile.NamedTemporaryFile(prefix=_PREFIX)  # noqa: SIM115

    def write(self, chunks: Sequence[bytes]) -> None:
        """Add to it."""
        self._file.writelines(chunks)

    def commit(self, key: str) -> None:
        """Upload it as the blob of this key."""
        self._file.flush()
        self._filesystem.put_file(self._file.name, f"{self._root}/{path_of(key)}")
        self._file.close()

    def discard(self) -> None:
        """Leave no trace of it."""
        self._file.close()


class RemoteStore:
    """Objects below a prefix.

    Args:
        filesystem: one of fsspec's.
        root: bucket and prefix, as that file system writes them.
    """

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def draft(self) -> RemoteDraft:
        """Begin a blob."""
        return RemoteDraft(self._filesystem, self._root)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading."""
        return cast(BinaryIO, self._filesystem.open(f"{self._root}/{path_of(key)}", "rb"))

    def delete(self, key: str) -> None:
        """Delete a blob."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(f"{self._root}/{path_of(key)}")

    def delete_old(self, key: str, before: float) -> bool:
        """Delete a blob if it was written before this moment; return whether it was."""
        self._filesystem.invalidate_cache()
        try:
            old = self._written(f"{self._root}/{path_of(key)}") < before
        except FileNotFoundError:
            return False
        if old:
            self.delete(key)
        return old

    def listed(self) -> Iterator[str]:
        """Yield the keys of all blobs."""
        self._filesystem.invalidate_cache()
        for path in self._filesystem.find(self._root):
            key = key_of(path.removeprefix(f"{self._root}/"))
            if key is not None:
                yield key

    def described(self) -> Iterator[Listed]:
        """Yield all blobs with size and time."""
        for key in self.listed():
            path = f"{self._root}/{path_of(key)}"
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                yield Listed(key, int(self._filesystem.size(path)), self._written(path))

    def discard_drafts(self, before: float) -> None:
        """Delete temporary files of ours that nobody has written to since this moment."""
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # gone, or another user's
                if path.stat().st_mtime < before:
                    path.unlink()

    def _written(self, path: str) -> float:
        moment = self._filesystem.modified(path)
        return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def connect(url: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        ConfigError: there is no such kind of URL, or its package is not installed.
    """
    where = "spool.url"
    scheme = url.partition("://")[0]
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise ConfigError(where, f"{scheme}:// needs a package: {error}") from error
    except ValueError as error:
        raise ConfigError(where, f"fsspec does not know {scheme}://") from error
    return filesystem, root
