"""Blobs in an object store, by whatever fsspec has a file system for.

A draft is a local temporary file, uploaded to its final name by one put when it is committed. The
key is known only then, so nothing can be streamed to it before; and a temporary object, copied
within the store, would cost a second transfer and leave litter that somebody pays for. An object
appears whole or not at all, durable when the store has answered: that much a store must promise.
It cannot be asked to delete an object only if that is old, so a sweep looks at the age immediately
before; its callers leave hours between the last use of a blob and its sweeping.

Of a large object some MiB at a time are in memory. S3 is what this is tested with; file systems of
other stores upload in pieces as large as they please.
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
from shared.log import printable
from shared.spool.options import meant, of_folder
from shared.spool.store import MARK, StoredBlob, key_of, path_of

_PREFIX: Final = "pop3-connector-spool-"
_READ: Final = 1024 * 1024
"""Bytes that are asked for at a time; s3fs would ask for 50 MiB."""

_PATIENCE: Final = {"connect_timeout": 10, "read_timeout": 10, "retries": {"max_attempts": 1}}
"""With S3. s3fs tries five times to read or write, and of these botocore would each try five times,
for 60 seconds: longer than a message can wait that may as well be retried."""

_PIECES: Final = {"chunksize": 8 * 1024 * 1024, "max_concurrency": 2}
"""How S3 gets a large object; s3fs would hold up to 100 MiB of each of eight at a time."""


class RemoteDraft:
    """A temporary file on this machine; one that a kill left over is swept up by its prefix."""

    def __init__(self, filesystem: Any, root: str, pieces: Mapping[str, int]) -> None:
        self._filesystem = filesystem
        self._root = root
        self._pieces = pieces
        self._file = tempfile.NamedTemporaryFile(prefix=_PREFIX)  # noqa: SIM115

    def write(self, chunks: Sequence[bytes]) -> None:
        """Add to it."""
        self._file.writelines(chunks)

    def commit(self, key: str) -> None:
        """Upload it as the blob of this key."""
        self._file.flush()
        path = f"{self._root}/{path_of(key)}"
        self._filesystem.put_file(self._file.name, path, **self._pieces)
        self._file.close()

    def discard(self) -> None:
        """Leave no trace of it."""
        self._file.close()


class RemoteStore:
    """Objects below a prefix.

    Args:
        filesystem: one of fsspec's.
        root: bucket and prefix, as that file system writes them.
        pieces: how a large file is put, in words of that file system.
    """

    own = (PermissionError,)  # any other may be the end of the connection

    def __init__(self, filesystem: Any, root: str, pieces: Mapping[str, int] | None = None) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._pieces = pieces or {}
        # A listing of before would hide what other processes have written since.
        filesystem.dircache.use_listings_cache = False

    def draft(self) -> RemoteDraft:
        """Begin a blob."""
        return RemoteDraft(self._filesystem, self._root, self._pieces)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading."""
        path = f"{self._root}/{path_of(key)}"
        return cast(BinaryIO, self._filesystem.open(path, "rb", block_size=_READ))

    def delete(self, key: str) -> None:
        """Delete a blob."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(f"{self._root}/{path_of(key)}")

    def delete_old(self, key: str, before: float) -> bool:
        """Delete a blob if it was written before this moment; return whether it was."""
        try:
            old = self._written(f"{self._root}/{path_of(key)}") < before
        except FileNotFoundError:
            return False
        if old:
            self.delete(key)
        return old

    def blob_keys(self) -> Iterator[str]:
        """Yield the keys of all blobs."""
        for path in self._filesystem.find(self._root):
            key = key_of(path.removeprefix(f"{self._root}/"))
            if key is not None:
                yield key

    def describe_blobs(self) -> Iterator[StoredBlob]:
        """Yield all blobs with size and time."""
        for key in self.blob_keys():
            path = f"{self._root}/{path_of(key)}"
            try:
                found = StoredBlob(key, int(self._filesystem.size(path)), self._written(path))
            except FileNotFoundError:  # deleted meanwhile
                continue
            except self.own as error:
                found = StoredBlob(key, 0, 0.0, error)
            yield found

    def drafts(self) -> Iterator[StoredBlob]:
        """Yield temporary files of this machine; elsewhere there are none before their commit."""
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # gone, or another user's
                found = path.stat()
                yield StoredBlob(str(path), found.st_size, found.st_mtime)

    def discard_drafts(self, before: float) -> None:
        """Delete temporary files of ours that nobody has written to since this moment."""
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # gone, or another user's
                if path.stat().st_mtime < before:
                    path.unlink()

    def mark(self, longest: int) -> bytes | None:
        """Return the beginning of what says who fills the spool; None where nothing does."""
        try:
            return bytes(self._filesystem.cat_file(f"{self._root}/{MARK}")[:longest])
        except FileNotFoundError:
            return None

    def set_mark(self, content: bytes) -> bool:
        """Put that in the place of what is there; return False where there is no spool yet."""
        self._filesystem.pipe_file(f"{self._root}/{MARK}", content)
        return True

    def _written(self, path: str) -> float:
        moment = self._filesystem.modified(path)
        return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def connect(url: str, options: Mapping[str, str]) -> RemoteStore | Path:
    """Return the store of a URL; where that leads to this machine, the folder.

    Raises:
        ConfigError: there is no such kind of URL, its package is not installed, or an option is
            wrong.
    """
    where = "spool.url"
    scheme = url.partition("://")[0]
    of_s3 = scheme in ("s3", "s3a")
    patience = {"config_kwargs": _PATIENCE} if of_s3 else {}
    said = meant(scheme, url, options)
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **said, **patience)
    except ImportError as error:
        raise ConfigError(where, f"{scheme}:// needs a package: {error}") from error
    except ValueError as error:
        raise ConfigError(where, f"fsspec does not know {scheme}://") from error
    except TypeError as error:
        raise ConfigError("spool.options", printable(f"{scheme}://: {error}")) from error
    if filesystem.protocol in ("file", ("file", "local")):
        of_folder(options)
        return Path(root)
    return RemoteStore(filesystem, root, _PIECES if of_s3 else {})
