from pathlib import Path

import pytest

from services.deliverer.courier import ClaimLost
from shared.errors import SpoolMissing
from tests.unit.deliverer.letters import ANNA, BERT, MESSAGE, PREFIX, SENDER, courier, letter

ENVELOPE = b"X-Sender: sender@example.net\r\nX-Receiver: anna@corp.example\r\n"


async def test_the_envelope_leads_and_the_message_follows(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        results = await pickup.deliver(letter(), SENDER, [ANNA, BERT])
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
            await pickup.deliver(letter(chunks=chunks, held=False), SENDER, [ANNA])
    assert list(tmp_path.iterdir()) == []


async def test_the_null_sender(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(letter(), "", [ANNA])
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().startswith(b"X-Sender: <>\r\nX-Receiver: anna@corp.example\r\n")


async def test_a_file_that_waits_to_be_picked_up_is_not_written_again(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(letter(), SENDER, [ANNA])
        again = await pickup.deliver(letter(chunks=[MESSAGE]), SENDER, [ANNA])
        other = await pickup.deliver(letter(), SENDER, [BERT])
    assert again[ANNA].reply.startswith("was there before")
    assert other[BERT].reply.startswith("written to")
    assert len(list(tmp_path.iterdir())) == 2


async def test_line_ends_are_crlf_and_dots_stay(tmp_path: Path) -> None:
    chunks = [b"Subject: x\r", b"\n\r\n.\na\rb"]
    async with courier(f"pickup://{tmp_path}") as pickup:
        await pickup.deliver(letter(chunks=chunks, prefix=b""), SENDER, [ANNA])
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == ENVELOPE + b"Subject: x\r\n\r\n.\r\na\r\nb"


async def test_an_address_that_could_add_lines_is_never_written(tmp_path: Path) -> None:
    evil = "x@y\r\nX-Receiver: boss@corp.example"
    async with courier(f"pickup://{tmp_path}") as pickup:
        results = await pickup.deliver(letter(), SENDER, [ANNA, evil])
        by_sender = await pickup.deliver(letter(id_="other"), evil, [ANNA])
    assert (results[ANNA].verdict, results[evil].verdict) == ("delivered", "permanent")
    assert by_sender[ANNA].verdict == "delivered"
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    assert sum(text.startswith(b"X-Sender: <>\r\n") for text in written) == 1
    assert b"boss" not in b"".join(written)


async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async with courier(f"pickup://{tmp_path}/mounted/PickUp") as pickup:
        results = await pickup.deliver(letter(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert "No such file or directory" in results[ANNA].reply
    assert list(tmp_path.iterdir()) == []


async def test_a_message_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    broken = letter(chunks=[MESSAGE], error=SpoolMissing("3f9a"))
    async with courier(f"pickup://{tmp_path}") as pickup:
        with pytest.raises(SpoolMissing):
            await pickup.deliver(broken, SENDER, [ANNA])
    assert list(tmp_path.iterdir()) == []
