"""The spool in a folder: what is synced and when, full disks, killed writers, sweeps that race."""

import asyncio
import contextlib
import fcntl
import os
import resource
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import SpoolMissing, SpoolUnavailable
from shared.spool import CHUNK, Spool
from tests.servers.disk import memory_disk
from tests.servers.process import wait_until
from tests.unit.blobs import HOUR, KEY, OTHER, get, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


class TestFiles:
    async def test_layout_and_modes(self, root: Path) -> None:
        await put(Spool(str(root)), KEY, b"x")
        assert files(root) == [root / KEY[:2] / KEY[2:]]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()}
        assert modes == {0o700}
        assert stat.S_IMODE(files(root)[0].stat().st_mode) == 0o600

    async def test_file_then_folder_are_synced_before_commit_returns(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = _watch(monkeypatch)
        await put(Spool(str(root)), KEY, b"x")
        shard = root / KEY[:2]
        draft = next(where for what, where in steps if f"{root}/tmp/" in where)
        order = [
            ("fsync", draft),
            ("mkdir", str(shard)),
            ("fsync", str(root)),
            ("replace", str(shard / KEY[2:])),
            ("fsync", str(shard)),
        ]
        assert steps[-len(order) :] == order

    async def test_a_full_disk_is_temporary_and_leaves_nothing(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"small")
        with _file_size_limit(CHUNK + 1000):
            blob = await spool.create()
            with pytest.raises(SpoolUnavailable, match="File too large"):
                await blob.write(b"x" * 3 * CHUNK)
            await blob.abort()
            with pytest.raises(SpoolUnavailable):
                await put(spool, KEY, b"x" * 3 * CHUNK, step=CHUNK // 2)
        assert await get(spool, KEY) == b"small"
        await put(spool, OTHER, b"x" * 3 * CHUNK)

    async def test_a_disk_that_holds_no_more_files_is_said_to_be_full(self, tmp_path: Path) -> None:
        with memory_disk(tmp_path / "disk", "16m", files=5) as disk:
            await put(Spool(str(disk.root / "spool")), KEY, b"small")
            with pytest.raises(SpoolUnavailable) as told:
                await put(Spool(str(disk.root / "spool")), OTHER, b"small")
        said = "the spool cannot be used: no inodes left: the disk holds 5 files, and no more"
        assert str(told.value).startswith(said)
        assert str(disk.root) in str(told.value)

    async def test_a_commit_that_fails_leaves_the_old_blob_and_no_draft(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, OTHER, b"other")
        (root / KEY[:2]).write_text("in the way")
        blob = await spool.create()
        await blob.write(b"x" * 2 * CHUNK)
        with pytest.raises(SpoolUnavailable):
            await blob.commit(KEY)
        assert files(root / "tmp") == []
        assert await get(spool, OTHER) == b"other"
        (root / KEY[:2]).unlink()
        await put(spool, KEY, b"now")
        assert await get(spool, KEY) == b"now"

    async def test_a_spool_that_is_not_mounted_is_not_an_empty_one(self, root: Path) -> None:
        with pytest.raises(SpoolUnavailable):
            await get(Spool(str(root)), KEY)
        await put(Spool(str(root)), OTHER, b"")
        with pytest.raises(SpoolMissing):
            await get(Spool(str(root)), KEY)

    async def test_a_blob_below_what_is_no_folder_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "spool").write_text("not a folder")
        with pytest.raises(SpoolUnavailable):
            await put(Spool(str(tmp_path / "spool")), KEY, b"x")

    async def test_the_sweep_takes_old_drafts(self, root: Path) -> None:
        spool = Spool(str(root))
        left, fresh = await spool.create(), await spool.create()
        await left.write(b"x" * CHUNK)
        (draft,) = files(root / "tmp")
        os.utime(draft, (0, 0))
        await fresh.write(b"x" * CHUNK)
        assert (await spool.sweep(HOUR, set())).deleted == []
        assert draft not in files(root / "tmp")
        with pytest.raises(SpoolUnavailable):
            await left.commit(KEY)
        await fresh.commit(KEY)
        assert len(await get(spool, KEY)) == CHUNK

    async def test_a_sweep_never_takes_a_blob_that_is_just_written_again(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"orphan")
        path = root / KEY[:2] / KEY[2:]
        os.utime(path, (0, 0))
        with _lock(path.parent) as waiting:  # as a fetcher does that is about to rename
            sweeping = asyncio.create_task(spool.sweep(HOUR, set()))
            await asyncio.to_thread(wait_until, waiting, "the sweep to wait")
            os.utime(path)
        assert (await sweeping).deleted == []
        assert await get(spool, KEY) == b"orphan"

    async def test_a_blob_is_never_written_again_while_it_is_swept_up(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"orphan")
        path = root / KEY[:2] / KEY[2:]
        with _lock(path.parent) as waiting:  # as a sweep does that is about to delete
            writing = asyncio.create_task(put(spool, KEY, b"again"))
            await asyncio.to_thread(wait_until, waiting, "the commit to wait")
            path.unlink()
        await writing
        assert await get(spool, KEY) == b"again"

    async def test_a_killed_writer_leaves_a_draft_and_no_blob(self, root: Path) -> None:
        script = f"""
            import asyncio
            from shared.spool import Spool

            async def main():
                spool = Spool({str(root)!r})
                blob = await spool.create()
                await blob.write(b"x" * 1000)
                await blob.commit({KEY!r})
                blob = await spool.create()
                await blob.write(b"y" * 1_000_000)
                print("half way", flush=True)
                await asyncio.Event().wait()

            asyncio.run(main())
        """
        with _python(script) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half way\n"
            spool = Spool(str(root))
            await spool.discard_drafts(HOUR)
            (draft,) = files(root / "tmp")
            assert [d.key for d in await spool.drafts()] == [f"tmp/{draft.name}"]
            process.kill()
            process.wait()
            await spool.discard_drafts(HOUR)
        assert await get(spool, KEY) == b"x" * 1000
        assert files(root / "tmp") == []
        assert await spool.drafts() == []

    async def test_a_draft_that_cannot_be_looked_at_keeps_no_other(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"x")
        strange = [root / "tmp" / name for name in ("a", "m", "z")]
        drafts = [root / "tmp" / name for name in ("b", "n", "y")]
        for path in strange:
            (path / "folder").mkdir(parents=True)
        for path in drafts:
            path.write_bytes(b"begun")
        with pytest.raises(SpoolUnavailable, match="directory"):
            await spool.discard_drafts(HOUR)
        assert files(root / "tmp") == []

    async def test_a_reader_that_is_cancelled_or_stops_early_closes_its_file(
        self, root: Path
    ) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"x" * 10 * CHUNK)
        path = root / KEY[:2] / KEY[2:]

        async def read_forever() -> None:
            while True:
                await get(spool, KEY, 1000)

        reading = asyncio.create_task(read_forever())
        for _ in range(200):
            await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        early = spool.chunks(KEY, 1000)
        await anext(early)
        assert _open_files(path) == 1
        await early.aclose()
        assert _open_files(path) == 0

    async def test_a_reader_goes_on_with_the_blob_it_opened(self, root: Path) -> None:
        spool = Spool(str(root))
        await put(spool, KEY, b"a" * 10)
        reader = spool.chunks(KEY, 5)
        first = await anext(reader)
        await put(spool, KEY, b"b" * 10)
        assert first + b"".join([chunk async for chunk in reader]) == b"a" * 10


class TestMemory:
    async def test_a_large_message_passes_in_bounded_memory(self, root: Path) -> None:
        spool = Spool(str(root))
        tracemalloc.start()
        try:
            blob = await spool.create()
            part = b"x" * 60_000
            for _ in range(500):
                await blob.write(part)
            await blob.commit(KEY)
            size = 0
            async for chunk in spool.chunks(KEY):
                size += len(chunk)
            await spool.copy(KEY, OTHER)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size == 30_000_000
        assert peak < 3 * 1024 * 1024


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[Callable[[], bool]]:
    """Lock a folder; yield whether somebody waits for the lock."""
    inode = f":{folder.stat().st_ino} "

    def waiting() -> bool:
        lines = Path("/proc/locks").read_text().splitlines()
        return any("->" in line and inode in line for line in lines)

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield waiting
    finally:
        os.close(descriptor)


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note what is synced, renamed and made, in order; all of it really happens."""
    steps: list[tuple[str, str]] = []
    fsync, replace, mkdir = os.fsync, os.replace, os.mkdir

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def watched_replace(source: Path, target: Path) -> None:
        replace(source, target)
        steps.append(("replace", str(target)))

    def watched_mkdir(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        steps.append(("mkdir", str(path)))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "mkdir", watched_mkdir)
    return steps


def _open_files(path: Path) -> int:
    return sum(
        1
        for link in Path("/proc/self/fd").iterdir()
        if os.path.realpath(link) == str(path.resolve())
    )


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Let writes fail beyond a size, as a full disk does; Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _python(script: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
