"""A small disk of its own for a test, which can be filled to the last byte: a tmpfs."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

BALLAST = "ballast"


class SmallDisk:
    """A file system with room for a few messages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self) -> None:
        """Leave no room for a single byte."""
        with (self.root / BALLAST).open("ab", buffering=0) as ballast:
            for size in (65_536, 4_096):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def make_room(self) -> None:
        (self.root / BALLAST).unlink()


@contextlib.contextmanager
def small_disk(root: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk on a folder until the block ends; skip the test where that is not allowed.

    Args:
        root: the folder; it is made.
        size: as ``mount`` takes it, such as ``1m``.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount the small disk that is to be filled")
    root.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(root)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
