"""How much room has to be free, and the reserve that is given up when there is none."""

from pathlib import Path

import pytest

from shared.disk.space import MIB, USUAL, Floor, Reserve, Room, log_pages, space
from shared.settings.values import floor
from tests.servers.disk import memory_disk


@pytest.mark.parametrize(
    ("total", "wanted"), [(1 << 40, 200 * MIB), (64 * MIB, 16 * MIB)], ids=["large", "small"]
)
def test_the_usual_floor_fits_the_disk(total: int, wanted: int) -> None:
    assert USUAL.of(total) == wanted


@pytest.mark.parametrize(
    ("text", "wanted", "shown"),
    [
        ("1GiB", 1 << 30, "1024 MiB"),
        ("5%", 50 * MIB, "5 %"),
        (0, 0, "0 MiB"),
    ],
)
def test_a_floor_is_a_size_or_a_share(text: object, wanted: int, shown: str) -> None:
    found = floor(text)
    assert found.of(1000 * MIB if "%" in str(text) else 1 << 40) == wanted
    assert str(found) == shown


@pytest.mark.parametrize("text", ["95%", "-1%", "much", None, "5 percent"])
def test_anything_else_is_said_to_be_wrong(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected a size, .* or a share of the disk"):
        floor(text)


def test_room_is_short_below_the_floor_until_there_is_clearly_more(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m") as disk:
        room = Room([tmp_path, disk.root / "not" / "there"], Floor(4 * MIB, 100.0))
        assert room.lacking() is None
        held = disk.root / "mail"
        held.write_bytes(bytes(13 * MIB))
        assert f"3 MiB are free on the disk of {disk.root}" in str(room.lacking())
        held.write_bytes(bytes(11 * MIB + MIB // 2))
        assert room.lacking() is not None
        held.write_bytes(bytes(10 * MIB))
        assert room.lacking() is None


def test_room_is_short_where_no_more_files_can_be_made(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m", files=40) as disk:
        room = Room([disk.root], USUAL)
        held = [disk.root / f"{n}" for n in range(30)]
        assert room.lacking() is None
        for path in held:
            path.touch()
        assert f"the disk of {disk.root} has room for 9 more files" in str(room.lacking())
        assert not room.scarce()
        assert Room([disk.root], Floor(0, 100.0)).lacking() is None  # nobody wants to be told
        held.pop().unlink()
        assert room.lacking() is not None  # not for one message at a time
        for path in held[10:]:
            path.unlink()
        assert room.lacking() is None
        for n in range(26):
            (disk.root / f"more{n}").touch()
        assert room.scarce()


def test_a_reserve_is_made_given_up_and_made_again(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m") as disk:
        reserve = Reserve(disk.root / "reserve", Floor(3 * MIB, 100.0))
        assert not reserve.see_to_it(stuck=False)
        assert (disk.root / "reserve").stat().st_size == MIB
        before = space(disk.root)
        disk.fill()
        assert reserve.see_to_it(stuck=False)
        found = space(disk.root)
        assert before is not None and found is not None
        assert found.free >= MIB
        assert not reserve.see_to_it(stuck=False)  # there is none any more, and no room for one
        disk.free()
        assert not reserve.see_to_it(stuck=False)
        assert [path.name for path in disk.root.iterdir()] == ["reserve"]


def test_what_cannot_be_written_takes_the_reserve_before_the_disk_is_full(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m") as disk:
        reserve = Reserve(disk.root / "reserve", Floor(3 * MIB, 100.0))
        reserve.see_to_it(stuck=False)
        (disk.root / "mail").write_bytes(bytes(13 * MIB))
        assert not reserve.see_to_it(stuck=False)
        assert reserve.see_to_it(stuck=True)


def test_the_log_of_a_database_is_small_where_the_disk_is(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m") as disk:
        assert log_pages(disk.root / "queue.db", 4000) == 128
    assert log_pages(tmp_path / "queue.db", 1000) == 1000
