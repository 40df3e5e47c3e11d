"""The spool in every kind of store: bounded in memory, honest about what is missing."""

import asyncio
import hashlib
import os
import secrets
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from shared.clock import Clock, SystemClock
from shared.errors import ConfigError, SpoolMissing, SpoolUnavailable
from shared.spool import CHUNK, Spool
from tests.clock import ManualClock
from tests.servers.s3 import BUCKET, S3Server, s3
from tests.unit.blobs import HOUR, KEY, OTHER, get, put


class At(Protocol):
    """Opens the spool of a test, as each process opens it for itself."""

    def __call__(self, clock: Clock = ..., /) -> Spool: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(params=["path", "file", "memory", "s3"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> At:
    name = f"spool-{secrets.token_hex(4)}"
    url = {
        "path": str(tmp_path / "spool"),
        "file": f"file://{tmp_path}/spool",
        "memory": f"memory://{name}",
        "s3": f"s3://{BUCKET}/{name}",
    }[request.param]
    options = request.getfixturevalue("server").options if request.param == "s3" else None
    return lambda clock=SystemClock(): Spool(url, options, clock)


class TestEveryStore:
    async def test_what_is_committed_is_read_back_in_chunks(self, at: At) -> None:
        data = secrets.token_bytes(3 * CHUNK + 17)
        await put(at(), KEY, data)
        chunks = [chunk async for chunk in at().chunks(KEY, 100_000)]
        assert b"".join(chunks) == data
        assert max(map(len, chunks)) <= 100_000

    async def test_a_blob_of_another_length_yields_nothing(self, at: At) -> None:
        await put(at(), KEY, b"x" * 10)
        assert [chunk async for chunk in at().chunks(KEY, 4, length=10)] == [
            b"xxxx",
            b"xxxx",
            b"xx",
        ]
        for length in (9, 11):
            with pytest.raises(SpoolUnavailable, match=f"has 10 bytes, and should have {length}"):
                await anext(at().chunks(KEY, length=length))

    async def test_an_empty_blob(self, at: At) -> None:
        spool = at()
        await put(spool, KEY, b"")
        assert await get(spool, KEY) == b""

    async def test_the_memory_written_from_may_be_used_again(self, at: At) -> None:
        spool = at()
        buffer = bytearray(b"first ")
        blob = await spool.create()
        await blob.write(memoryview(buffer))
        buffer[:] = b"second"
        await blob.write(memoryview(buffer))
        await blob.commit(KEY)
        assert await get(spool, KEY) == b"first second"

    async def test_the_same_key_again_replaces_the_blob(self, at: At) -> None:
        spool = at()
        await put(spool, KEY, b"once")
        await put(spool, KEY, b"twice")
        assert await get(spool, KEY) == b"twice"

    async def test_nothing_is_there_before_the_commit_and_after_an_abort(self, at: At) -> None:
        spool = at()
        blob = await spool.create()
        await blob.write(b"x" * 2 * CHUNK)
        with pytest.raises((SpoolMissing, SpoolUnavailable)):
            await get(spool, KEY)
        await blob.abort()
        await blob.abort()
        await put(spool, OTHER, b"")
        with pytest.raises(SpoolMissing):
            await get(spool, KEY)

    async def test_a_deleted_blob_is_missing_and_can_be_deleted_again(self, at: At) -> None:
        spool = at()
        await put(spool, KEY, b"x")
        await spool.delete(KEY)
        await spool.delete(KEY)
        await spool.delete("../../etc/passwd")
        with pytest.raises(SpoolMissing) as caught:
            await get(spool, KEY)
        assert caught.value.key == KEY

    async def test_a_copy_outlives_the_original(self, at: At) -> None:
        spool = at()
        await put(spool, KEY, b"content" * CHUNK)
        await spool.copy(KEY, OTHER)
        await spool.delete(KEY)
        assert await get(spool, OTHER) == b"content" * CHUNK
        with pytest.raises(SpoolMissing):
            await spool.copy(KEY, OTHER)

    @pytest.mark.parametrize("key", ["", "ab", "../x", "..", "ab..", "abc/d", "ab/cd", "é" * 9])
    async def test_a_key_that_could_leave_the_spool_names_no_blob(self, at: At, key: str) -> None:
        spool = at()
        with pytest.raises(SpoolMissing):
            await get(spool, key)
        blob = await spool.create()
        with pytest.raises(ValueError, match="key"):
            await blob.commit(key)
        await blob.abort()

    async def test_the_sweep_takes_old_orphans_only(self, at: At) -> None:
        clock = ManualClock(2_000_000_000.0)  # long after anything that is written now
        now = ManualClock(0.0)
        spool = at(clock)
        await put(spool, KEY, b"kept")
        await put(spool, OTHER, b"orphan")
        assert (await at(now).sweep(HOUR, set())).deleted == []
        assert (await spool.sweep(HOUR, {KEY})).deleted == [OTHER]
        assert await get(spool, KEY) == b"kept"
        with pytest.raises(SpoolMissing):
            await get(spool, OTHER)

    async def test_a_mark_is_there_and_no_blob(self, at: At) -> None:
        spool = at()
        assert await spool.mark() is None
        await put(spool, "abc1", b"x")
        assert await spool.set_mark(b"first")
        assert await spool.set_mark(b"second")
        assert await at().mark() == b"second"
        assert [blob.key for blob in await spool.blobs()] == ["abc1"]
        assert (await spool.sweep(-1, ())).deleted == ["abc1"]
        assert await at().mark() == b"second"

    async def test_many_blobs_at_once(self, at: At) -> None:
        spool = at()
        blobs = {hashlib.sha256(bytes([n])).hexdigest(): secrets.token_bytes(n) for n in range(50)}
        await asyncio.gather(*(put(spool, key, data) for key, data in blobs.items()))
        found = await asyncio.gather(*(get(spool, key) for key in blobs))
        assert found == list(blobs.values())


class TestS3:
    """What an object store does that a folder does not."""

    @pytest.fixture
    def spool(self, server: S3Server) -> Spool:
        return Spool(f"s3://{BUCKET}/s3", server.options)

    async def test_what_another_process_wrote_after_a_listing_is_there(
        self, spool: Spool, server: S3Server
    ) -> None:
        await put(spool, KEY, b"first")
        assert [blob.key for blob in await spool.blobs()] == [KEY]
        near = KEY[:4] + "near"  # in the folder that was listed
        server.client().put_object(Bucket=BUCKET, Key=f"s3/{near[:2]}/{near[2:]}", Body=b"second")
        assert await get(spool, near) == b"second"

    async def test_a_blob_that_is_replaced_while_it_is_read_is_not_half_of_each(
        self, spool: Spool
    ) -> None:
        await put(spool, KEY, b"a" * 20 * CHUNK)
        reader = spool.chunks(KEY)
        await anext(reader)
        await put(spool, KEY, b"b" * 20 * CHUNK)
        with pytest.raises(SpoolUnavailable, match="FileExpired"):
            async for _ in reader:
                pass
        assert await get(spool, KEY) == b"b" * 20 * CHUNK

    async def test_a_large_message_passes_in_bounded_memory(self, spool: Spool) -> None:
        tracemalloc.start()
        try:
            blob = await spool.create()
            part = b"x" * 60_000
            for _ in range(1000):
                await blob.write(part)
            await blob.commit(KEY)
            size = 0
            async for chunk in spool.chunks(KEY):
                size += len(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size == 60_000_000
        assert peak < 40_000_000

    async def test_a_bucket_that_is_not_there_takes_nothing(self, server: S3Server) -> None:
        with pytest.raises(SpoolUnavailable):
            await put(Spool("s3://nobody/has/it", server.options), KEY, b"x")

    async def test_a_server_that_is_away_is_no_reason_to_miss_a_blob(self, tmp_path: Path) -> None:
        with s3(tmp_path) as own:
            spool = Spool(f"s3://{BUCKET}/x", own.options)
            await put(spool, KEY, b"before")
            own.kill()
            writing = put(spool, OTHER, b"lost")
            for failing in (get(spool, KEY), writing, spool.delete(KEY), spool.blobs()):
                with pytest.raises(SpoolUnavailable, match="Could not connect"):
                    await failing
            own.start()
            assert await get(spool, KEY) == b"before"
            await put(spool, OTHER, b"after")
            assert await get(spool, OTHER) == b"after"


class TestUrls:
    def test_an_unknown_scheme(self) -> None:
        with pytest.raises(ConfigError, match=r"spool\.url: .*gopher"):
            Spool("gopher://bucket/prefix")

    def test_a_scheme_whose_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(ConfigError, match=r"spool\.url: gs:// needs .*gcsfs"):
            Spool("gs://bucket/prefix")

    async def test_an_object_store_gets_one_upload_and_no_litter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        spool = Spool(f"memory://litter-{secrets.token_hex(4)}")
        await put(spool, KEY, b"x" * CHUNK)
        assert list(tmp_path.iterdir()) == []
        abandoned = tmp_path / "pop3-connector-spool-abandoned"
        abandoned.touch()
        os.utime(abandoned, (0, 0))
        await spool.sweep(HOUR, {KEY})
        assert list(tmp_path.iterdir()) == []
