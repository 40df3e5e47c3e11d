"""What an error of a disk means, in words for whoever has to mend it.

The kernel has one error for a disk without room for bytes and for one without room for more files
(inodes), and who looks at the bytes finds plenty of room. It trusts ``statvfs``, a moment later.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from shared.disk.space import space

_FEW: Final = 8
"""Files that may have been deleted again by whoever could not make another one."""

_SOME: Final = 64 * 1024
"""Bytes; with fewer than these it is they that lack."""


def disk_words(error: OSError, path: str | Path | None = None) -> str:
    """Return what went wrong, without saying with which file.

    Args:
        error: of the operating system.
        path: what was to be written, where the error does not know.
    """
    said = error.strerror or str(error)
    place = error.filename if path is None else path
    if error.errno != errno.ENOSPC or not isinstance(place, str | Path):
        return said
    found = space(Path(place))
    if found is None or not found.files or found.more_files > _FEW or found.free < _SOME:
        return said
    return f"no inodes left: the disk holds {found.files} files, and no more; delete some there"
