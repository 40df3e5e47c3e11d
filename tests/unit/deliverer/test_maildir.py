import asyncio
import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from services.deliverer.courier import ClaimLost, MailObject
from services.deliverer.files.durable_files import BATCH
from shared.disk.durable import make_directory
from shared.errors import SpoolMissing
from tests.servers.disk import memory_disk
from tests.unit.deliverer.content import (
    ANNA,
    BERT,
    MESSAGE,
    PREFIX,
    SENDER,
    content,
    courier,
    told,
)

TOP = b"Delivered-To: anna@corp.example\n"
STORED = TOP + (PREFIX + MESSAGE).replace(b"\r\n", b"\n")


def files(maildir: Path) -> dict[str, list[str]]:
    return {sub: sorted(p.name for p in (maildir / sub).iterdir()) for sub in ("new", "cur", "tmp")}


async def test_a_message_is_one_file_in_new_with_lf_line_ends(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/{{mailbox}}") as maildir:
        results = await maildir.deliver(content(), SENDER, [ANNA])
    path = tmp_path / ANNA / "new" / "3f9a.pop3-connector"
    assert path.read_bytes() == STORED
    assert files(tmp_path / ANNA) == {"new": [path.name], "cur": [], "tmp": []}
    assert results[ANNA].verdict == "delivered"
    assert results[ANNA].reply == f"written to {path}"


@pytest.mark.parametrize("chunks", [None, [MESSAGE]], ids=["at hand", "spooled"])
async def test_what_is_no_longer_ours_leaves_no_file(
    tmp_path: Path, chunks: list[bytes] | None
) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        await maildir.deliver(content(id_="first"), SENDER, [ANNA])
        with pytest.raises(ClaimLost):
            await maildir.deliver(content(chunks=chunks, held=False), SENDER, [ANNA])
    assert files(tmp_path / "box") == {"new": ["first.pop3-connector"], "cur": [], "tmp": []}


async def test_only_this_user_may_read_it(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/mail/{{local}}") as maildir:
        await maildir.deliver(content(), SENDER, [ANNA])
    made = [tmp_path / "mail", *(tmp_path / "mail").rglob("*")]
    modes = {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_file()} == {0o600}


async def test_bare_line_ends_stay_what_they_are(tmp_path: Path) -> None:
    message = b"Subject: x\r\n\r\na\rb\nc\r\r\nd\r"
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        await maildir.deliver(content(message, prefix=b""), SENDER, [ANNA])
        cut = [message[i : i + 1] for i in range(len(message))]
        await maildir.deliver(content(chunks=cut, prefix=b"", id_="cut"), SENDER, [ANNA])
    want = TOP + message.replace(b"\r\n", b"\n")
    assert [p.read_bytes() for p in (tmp_path / "box" / "new").iterdir()] == [want, want]


async def test_delivered_twice_is_one_file(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        first = await maildir.deliver(content(), SENDER, [ANNA])
        second = await maildir.deliver(content(chunks=[MESSAGE]), SENDER, [ANNA])
    assert files(tmp_path / "box")["new"] == ["3f9a.pop3-connector"]
    assert files(tmp_path / "box")["tmp"] == []
    assert first[ANNA].reply.startswith("written to")
    assert second[ANNA].reply.startswith("was there before")


@pytest.mark.parametrize("name", ["3f9a.pop3-connector", "3f9a.pop3-connector:2,S"])
async def test_after_a_crash_a_message_that_was_read_already_is_found(
    tmp_path: Path, name: str
) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        await maildir.deliver(content(), SENDER, [ANNA])
        (tmp_path / "box" / "new" / "3f9a.pop3-connector").rename(tmp_path / "box" / "cur" / name)
        results = await maildir.deliver(content(replay=True), SENDER, [ANNA])
        await maildir.deliver(content(replay=True, chunks=[MESSAGE]), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert files(tmp_path / "box") == {"new": [], "cur": [name], "tmp": []}


async def test_a_replay_into_a_new_maildir_is_delivered(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        await maildir.deliver(content(replay=True), SENDER, [ANNA])
    assert files(tmp_path / "box")["new"] == ["3f9a.pop3-connector"]


@pytest.mark.parametrize("made", range(3))
async def test_a_maildir_that_was_half_made_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    left = iter(range(made))

    def make_some(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "no space left", str(path))
        make_directory(path)

    async with courier(f"maildir://{tmp_path}/box") as maildir:
        with monkeypatch.context() as patch:
            patch.setattr("services.deliverer.files.maildir.make_directory", make_some)
            first = await maildir.deliver(content(), SENDER, [ANNA])
        second = await maildir.deliver(content(), SENDER, [ANNA])
    assert (first[ANNA].verdict, second[ANNA].verdict) == ("temporary", "delivered")


async def test_a_large_message_is_written_in_chunks_to_every_mailbox(tmp_path: Path) -> None:
    chunks = [b"Subject: x\r\n\r", b"\n", *([b"0123456789\r\n" * 10_000] * 20)]
    async with courier(f"maildir://{tmp_path}/{{local}}/{{domain}}") as maildir:
        results = await maildir.deliver(content(chunks=chunks), SENDER, [ANNA, BERT])
    want = (PREFIX + b"".join(chunks)).replace(b"\r\n", b"\n")
    for box in ("anna", "bert"):
        (path,) = (tmp_path / box / "corp.example" / "new").iterdir()
        assert path.read_bytes() == TOP.replace(b"anna", box.encode()) + want
    assert {r.verdict for r in results.values()} == {"delivered"}


async def test_a_message_that_breaks_off_is_in_no_mailbox(tmp_path: Path) -> None:
    broken = content(chunks=[MESSAGE], error=SpoolMissing("3f9a"))
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        with pytest.raises(SpoolMissing):
            await maildir.deliver(broken, SENDER, [ANNA, BERT])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


async def test_a_message_that_breaks_off_at_the_second_mailbox_is_in_neither(
    tmp_path: Path,
) -> None:
    whole, broken = content(chunks=[MESSAGE]), content(error=SpoolMissing("3f9a"))
    readings = iter([whole.chunks, broken.chunks])
    twice = whole._replace(chunks=lambda: next(readings)())
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        with pytest.raises(SpoolMissing):
            await maildir.deliver(twice, SENDER, [ANNA, BERT])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "recipient", ["../anna@x", "a/b@x", ".hidden@x", "a\0@x", "ä" * 200 + "@x", "@x", ""]
)
async def test_a_mailbox_never_leads_out_of_its_place(tmp_path: Path, recipient: str) -> None:
    root = tmp_path / "mail"
    async with courier(f"maildir://{root}/{{local}}") as maildir:
        results = await maildir.deliver(content(), SENDER, [recipient, ANNA])
    assert results[recipient].verdict == "permanent"
    assert results[recipient].reply.isprintable()
    assert results[ANNA].verdict == "delivered"
    assert [p.name for p in tmp_path.iterdir()] == ["mail"]
    assert [p.name for p in root.iterdir()] == ["anna"]


async def test_recipients_who_share_a_maildir_get_one_file(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/{{domain}}") as maildir:
        results = await maildir.deliver(content(), SENDER, [ANNA, BERT])
    assert {r.verdict for r in results.values()} == {"delivered"}
    assert len(files(tmp_path / "corp.example")["new"]) == 1


async def test_on_top_stands_to_whom_it_was_delivered(tmp_path: Path) -> None:
    older = PREFIX.replace(b"X-POP3-Connector-For", b"Received: x\r\nDelivered-To")
    async with courier(f"maildir://{tmp_path}/{{domain}}") as maildir:
        await maildir.deliver(content(), SENDER, [ANNA, BERT])
        await maildir.deliver(content(id_="older", prefix=older), SENDER, [ANNA])
    new = tmp_path / "corp.example" / "new"
    both = TOP + TOP.replace(b"anna", b"bert")
    assert (new / "3f9a.pop3-connector").read_bytes() == STORED.replace(TOP, both, 1)
    assert (new / "older.pop3-connector").read_bytes().count(b"Delivered-To") == 1


async def test_many_at_once_all_arrive(tmp_path: Path) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        messages = [content(b"Subject: %d\r\n\r\n" % i, id_=f"{i:04}") for i in range(500)]
        await asyncio.gather(*(maildir.deliver(x, SENDER, [ANNA]) for x in messages))
    found = files(tmp_path / "box")
    assert found["new"] == [f"{i:04}.pop3-connector" for i in range(500)]
    assert found["tmp"] == []


async def test_a_message_to_many_mailboxes_opens_few_files_at_once(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    recipients = [f"{number}@corp.example" for number in range(2 * BATCH)]
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        held = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        resource.setrlimit(resource.RLIMIT_NOFILE, (held + BATCH + 50, hard))
        try:
            results = await maildir.deliver(content(), SENDER, recipients)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {result.verdict for result in results.values()} == {"delivered"}


async def test_a_disk_that_takes_no_more_files_is_said_to_be_that(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "16m", files=8) as disk:
        async with courier(f"maildir://{disk.root}/{{local}}") as maildir:
            for number in range(9):
                results = await maildir.deliver(content(id_=f"{number:032x}"), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert results[ANNA].reply.startswith("not written: no inodes left: the disk holds 8 files")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
async def test_a_disk_that_does_not_take_it_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        await maildir.deliver(content(), SENDER, [ANNA])

        def fail(*_: object, **__: object) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as broken:
            broken.setattr(os, call, fail)
            for other in (content(id_="other"), content(id_="large", chunks=[MESSAGE])):
                results = await maildir.deliver(other, SENDER, [ANNA])
                assert results[ANNA].verdict == "temporary"
                assert os.strerror(code) in results[ANNA].reply
        assert files(tmp_path / "anna") == {
            "new": ["3f9a.pop3-connector"],
            "cur": [],
            "tmp": [],
        }
        results = await maildir.deliver(content(id_="other"), SENDER, [ANNA])
        assert results[ANNA].verdict == "delivered"


async def test_a_name_that_is_too_long_for_the_disk_is_permanent(tmp_path: Path) -> None:
    long = "a" * 250 + "@corp.example"
    async with courier(f"maildir://{tmp_path}/mail-of-{{local}}") as maildir:
        results = await maildir.deliver(content(), SENDER, [long])
    assert results[long].verdict == "permanent"
    assert "name too long" in results[long].reply


async def test_one_bad_mailbox_does_not_keep_the_others_from_theirs(tmp_path: Path) -> None:
    (tmp_path / "anna").write_text("a file where a Maildir should be")
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        both = [content(), content(id_="large", chunks=[MESSAGE])]
        for one in both:
            results = await maildir.deliver(one, SENDER, [ANNA, BERT])
            assert results[ANNA].verdict == "temporary"
            assert results[BERT].verdict == "delivered"


async def test_where_there_are_no_hard_links_files_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        for _ in range(2):
            results = await maildir.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].reply.startswith("was there before")
    assert files(tmp_path / "box") == {"new": ["3f9a.pop3-connector"], "cur": [], "tmp": []}


async def test_what_is_durable_is_synced_file_first_then_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with courier(f"maildir://{tmp_path}/box") as maildir:
        await maildir.deliver(content(), SENDER, [ANNA])  # the Maildir exists now
        done: list[str] = []
        fsync, link = os.fsync, os.link

        def watched_fsync(fd: int) -> None:
            done.append("sync " + Path(f"/proc/self/fd/{fd}").readlink().parent.name)
            fsync(fd)

        def watched_link(a: str, b: str, *, follow_symlinks: bool) -> None:
            done.append("link")
            link(a, b, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "link", watched_link)
        for other in (content(id_="other"), content(id_="large", chunks=[MESSAGE])):
            done.clear()
            await maildir.deliver(other, SENDER, [ANNA])
            assert done == ["sync tmp", "link", "sync box"]


async def test_of_messages_delivered_together_one_that_fails_disturbs_no_other(
    tmp_path: Path,
) -> None:
    messages = [
        content(id_="first"),
        content(id_="unread", error=SpoolMissing("ab12")),
        content(id_="lost", held=False),
        content(id_="last"),
    ]
    async with courier(f"maildir://{tmp_path}/{{local}}") as maildir:
        posts = [MailObject(each, SENDER, [ANNA]) for each in messages]
        first, unread, lost, last = await told(maildir.courier, posts)
    assert isinstance(unread, SpoolMissing)
    assert isinstance(lost, ClaimLost)
    for delivered in (first, last):
        assert not isinstance(delivered, Exception)
        assert delivered[ANNA].verdict == "delivered"
    arrived = {path.name.partition(".")[0] for path in (tmp_path / "anna" / "new").iterdir()}
    assert arrived == {"first", "last"}
    assert not list((tmp_path / "anna" / "tmp").iterdir())
