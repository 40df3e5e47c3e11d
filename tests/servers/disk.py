"""File systems of our own to do harm to: one that is full, one that the kernel makes read-only.

Mounting takes root, and a container may not let even root do it; then the test is skipped and says
why.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.process import require, wait_until

FILLER = "filler"


@dataclass(frozen=True)
class Disk:
    """A mounted file system.

    Attributes:
        root: where it is mounted.
        image: the file that it lies in, None for one in memory.
    """

    root: Path
    image: Path | None = None

    def fill(self, leave: int = 0) -> None:
        """Leave no room, or so many bytes, as somebody else's file would."""
        with (self.root / FILLER).open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
            file.truncate(max(0, file.tell() - leave))

    def free(self) -> None:
        """Make room again."""
        (self.root / FILLER).unlink()

    def break_down(self) -> None:
        """Let the kernel find an error in it: it makes the file system read-only (ext4)."""
        device = self._device()
        (Path("/sys/fs/ext4") / device / "trigger_fs_error").write_text("test")
        wait_until(self._read_only, "a read-only file system")

    def repair(self) -> None:
        """Check it and mount it anew; nobody may use it meanwhile."""
        _run("umount", str(self.root))
        fsck = ["fsck.ext4", "-f", "-y", str(self.image)]
        done = subprocess.run(fsck, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: errors, all corrected
        mount(self.root, "-o", OPTIONS, str(self.image))

    def _device(self) -> str:
        source = _run("findmnt", "-n", "-o", "SOURCE", str(self.root))
        return Path(source.strip()).name

    def _read_only(self) -> bool:
        try:
            (self.root / FILLER).write_bytes(b"")
        except OSError:
            return True
        return False


OPTIONS = "loop,errors=remount-ro"


def mount(root: Path, *arguments: str) -> None:
    """Mount a file system, or skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    done = subprocess.run(
        ["mount", *arguments, str(root)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@contextlib.contextmanager
def memory_disk(root: Path, size: str, files: int = 0) -> Iterator[Disk]:
    """Mount a small file system in memory until the block ends, for so many files if not 0."""
    require("mount")
    root.mkdir(parents=True, exist_ok=True)
    mount(root, "-t", "tmpfs", "-o", f"size={size},mode=755,nr_inodes={files}", "tmpfs")
    try:
        yield Disk(root)
    finally:
        _run("umount", "-l", str(root))


@contextlib.contextmanager
def fragile_disk(root: Path, image: Path, megabytes: int) -> Iterator[Disk]:
    """Mount a file system that can break down until the block ends."""
    require("mount", "mkfs.ext4", "fsck.ext4", "findmnt")
    root.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    mount(root, "-o", OPTIONS, str(image))
    try:
        yield Disk(root, image)
    finally:
        _run("umount", "-l", str(root))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
