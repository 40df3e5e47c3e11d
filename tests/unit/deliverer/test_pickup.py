import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.deliverer.courier import ClaimLost
from shared.errors import SpoolMissing
from tests.servers.disk import memory_disk
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, PREFIX, SENDER, content, courier

ENVELOPE = b"X-Sender: sender@example.net\r\nX-Receiver: anna@corp.example\r\n"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """The folder, in one of its own."""
    folder = tmp_path / "PickUp"
    folder.mkdir()
    yield folder
    assert list(tmp_path.rglob("*.tmp")) == []


async def test_the_envelope_leads_and_the_message_follows(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        results = await pickup.deliver(content(), SENDER, [ANNA, BERT])
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".eml"
    assert path.name.startswith("3f9a-")
    assert path.read_bytes() == (ENVELOPE + b"X-Receiver: bert@corp.example\r\n" + PREFIX + MESSAGE)
    assert results[ANNA] == results[BERT]
    assert results[ANNA].reply == f"written to {path}"


@pytest.mark.parametrize("chunks", [None, [MESSAGE]], ids=["at hand", "spooled"])
async def test_what_is_no_longer_ours_leaves_no_file(
    tmp_path: Path, chunks: list[bytes] | None
) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        with pytest.raises(ClaimLost):
            await pickup.deliver(content(chunks=chunks, held=False), SENDER, [ANNA])
    assert list(tmp_path.iterdir()) == []


async def test_the_null_sender(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(content(), "", [ANNA])
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().startswith(b"X-Sender: <>\r\nX-Receiver: anna@corp.example\r\n")


async def test_a_file_that_waits_to_be_picked_up_is_not_written_again(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(content(), SENDER, [ANNA])
        again = await pickup.deliver(content(chunks=[MESSAGE]), SENDER, [ANNA])
        other = await pickup.deliver(content(), SENDER, [BERT])
    assert again[ANNA].reply.startswith("was there before")
    assert other[BERT].reply.startswith("written to")
    assert len(list(tmp_path.iterdir())) == 2


async def test_line_ends_are_crlf_and_dots_stay(tmp_path: Path) -> None:
    chunks = [b"Subject: x\r", b"\n\r\n.\na\rb"]
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(content(chunks=chunks, prefix=b""), SENDER, [ANNA])
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == ENVELOPE + b"Subject: x\r\n\r\n.\r\na\r\nb"


async def test_an_address_that_could_add_lines_is_never_written(tmp_path: Path) -> None:
    evil = "x@y\r\nX-Receiver: boss@corp.example"
    async with courier(f"pickup://{tmp_path}") as pickup:
        results = await pickup.deliver(content(), SENDER, [ANNA, evil])
        by_sender = await pickup.deliver(content(id_="other"), evil, [ANNA])
    assert (results[ANNA].verdict, results[evil].verdict) == ("delivered", "permanent")
    assert by_sender[ANNA].verdict == "delivered"
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    assert sum(text.startswith(b"X-Sender: <>\r\n") for text in written) == 1
    assert b"boss" not in b"".join(written)


async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}/mounted/PickUp") as pickup:
        results = await pickup.deliver(content(), SENDER, [ANNA])
        (tmp_path / "mounted").mkdir()
        again = await pickup.deliver(content(), SENDER, [ANNA])
        assert list((tmp_path / "mounted").iterdir()) == []
        (tmp_path / "mounted" / "PickUp").mkdir()
        there = await pickup.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == again[ANNA].verdict == "temporary"
    assert "No such file or directory" in results[ANNA].reply
    assert there[ANNA].verdict == "delivered"


async def test_a_message_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    broken = content(chunks=[MESSAGE], error=SpoolMissing("3f9a"))
    async with courier(f"pickup://{tmp_path}") as pickup:
        with pytest.raises(SpoolMissing):
            await pickup.deliver(broken, SENDER, [ANNA])
    assert list(tmp_path.iterdir()) == []


async def test_to_replay_it_addresses_stand_in_angle_brackets(tmp_path: Path) -> None:
    async with courier(f"replay://{tmp_path}") as replay:
        await replay.deliver(content(), SENDER, [ANNA, BERT])
        await replay.deliver(content(id_="bounce"), "", [ANNA])
    first, bounce = sorted(path.read_bytes() for path in tmp_path.iterdir())[::-1]
    assert first == (
        b"X-Sender: <sender@example.net>\r\nX-Receiver: <anna@corp.example>\r\n"
        b"X-Receiver: <bert@corp.example>\r\n" + PREFIX + MESSAGE
    )
    assert bounce.startswith(b"X-Sender: <>\r\nX-Receiver: <anna@corp.example>\r\n" + PREFIX)


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize("scheme", ["pickup", "replay"])
@pytest.mark.parametrize(
    ("message", "stored"),
    [
        (b"Subject: x\r\n", b"Subject: x\r\n\r\n"),
        (b"Subject: x", b"Subject: x\r\n\r\n"),
        (b"Subject: x\r\n\r\n", b"Subject: x\r\n\r\n"),
        (b"Subject: x\n\nbody", b"Subject: x\r\n\r\nbody"),
        (b"X: a\r\r\nSubject: x\ry\r\n\r\na\rb", b"X: a\r\nSubject: x y\r\n\r\na\r\nb"),
    ],
)
async def test_the_header_is_one_block_and_a_blank_line_is_below_it(
    tmp_path: Path, message: bytes, stored: bytes, scheme: str, cut: int
) -> None:
    chunks = [message[at : at + cut] for at in range(0, len(message), cut)]
    async with courier(f"{scheme}://{tmp_path}") as folder:
        await folder.deliver(content(message), SENDER, [ANNA])
        await folder.deliver(content(chunks=chunks, id_="spooled"), SENDER, [ANNA])
    for path in tmp_path.iterdir():
        assert path.read_bytes().partition(PREFIX)[2] == stored


class Watched:
    """What was ever seen in a folder, whatever its name."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self._folder = folder

    def look(self) -> None:
        self.names |= {path.name for path in self._folder.iterdir()}


@pytest.mark.parametrize("staging", ["", "?staging={}/elsewhere"])
async def test_nothing_but_whole_messages_is_ever_seen_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staging: str
) -> None:
    watched, link, fsync = Watched(tmp_path), os.link, os.fsync

    def seen_link(*places: str, follow_symlinks: bool) -> None:
        watched.look()
        link(*places, follow_symlinks=follow_symlinks)

    def seen_fsync(fd: int) -> None:
        watched.look()
        fsync(fd)

    monkeypatch.setattr(os, "link", seen_link)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    async with courier(f"pickup://{tmp_path}{staging.format(tmp_path.parent)}") as pickup:
        await pickup.deliver(content(), SENDER, [ANNA])
        await pickup.deliver(content(id_="large", chunks=[MESSAGE] * 3), SENDER, [ANNA])
    watched.look()
    assert len(watched.names) == 2
    assert all(name.endswith(".eml") for name in watched.names)


async def test_where_the_folder_is_a_mounted_share_files_grow_below_it(tmp_path: Path) -> None:
    with memory_disk(tmp_path, "1m"):
        async with courier(f"pickup://{tmp_path}") as pickup:
            results = await pickup.deliver(content(), SENDER, [ANNA])
        assert results[ANNA].verdict == "delivered"
        assert list((tmp_path / ".pop3-connector").iterdir()) == []
        assert len(list(tmp_path.glob("*.eml"))) == 1


async def test_a_staging_folder_on_another_file_system_is_refused(tmp_path: Path) -> None:
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    async with courier(f"pickup://{tmp_path}?staging=/dev/shm/pop3-connector-test") as pickup:
        results = await pickup.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert "no place to write on the file system of the folder" in results[ANNA].reply
    assert not Path("/dev/shm/pop3-connector-test").exists()


async def test_a_staging_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(content(), SENDER, [ANNA])
        (tmp_path.parent / ".pop3-connector-PickUp").rmdir()
        results = await pickup.deliver(content(id_="next"), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"


async def test_what_a_killed_process_left_behind_is_removed_in_the_end(tmp_path: Path) -> None:
    staging = tmp_path.parent / ".pop3-connector-PickUp"
    staging.mkdir()
    old, new = staging / "a.1-1.tmp", staging / "b.1-1.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 40 * 3600))
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(content(), SENDER, [ANNA])
    assert [path.name for path in staging.iterdir()] == ["b.1-1.tmp"]
    new.unlink()
