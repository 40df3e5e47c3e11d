"""What a deliverer reads from the spool: large messages, and blobs that are missing or wrong."""

from dataclasses import replace

import pytest

from services.deliverer.deliver import Deliverer
from shared.errors import SpoolMissing, SpoolUnavailable
from shared.message import Inline, Spooled
from shared.outcome import Done
from shared.spool import Spool
from tests.unit.deliverer.content import MESSAGE, PREFIX
from tests.unit.deliverer.handling import handled
from tests.unit.deliverer.stories import Told, envelope


async def put(spool: Spool, key: str, data: bytes) -> None:
    blob = await spool.create()
    await blob.write(data)
    await blob.commit(key)


async def test_a_large_message_comes_from_the_spool(
    deliverer: Deliverer, courier: Told, spool: Spool
) -> None:
    await put(spool, "3f9a", MESSAGE * 1000)
    raw = Spooled("3f9a", len(MESSAGE) * 1000, MESSAGE[:10])
    assert await handled(deliverer, envelope(raw=raw)) == Done("250 2.0.0 taken")
    ((content, data, _),) = courier.taken
    assert content.data is None
    assert content.size == len(PREFIX) + raw.size
    assert data == MESSAGE * 1000


@pytest.mark.parametrize("skip", [1, len(MESSAGE) - 1, 300_000])
async def test_lines_that_the_prefix_has_are_not_delivered_twice(
    deliverer: Deliverer, courier: Told, spool: Spool, skip: int
) -> None:
    text = MESSAGE * 10_000
    await put(spool, "3f9a", text)
    for raw in (Inline(text), Spooled("3f9a", len(text), MESSAGE[:10])):
        mail = envelope(raw=raw)
        mail = replace(mail, id=str(raw), payload=replace(mail.payload, skip=skip))
        assert await handled(deliverer, mail) == Done("250 2.0.0 taken")
        content, data, _ = courier.taken[-1]
        assert data == text[skip:]
        assert content.size == len(PREFIX) + len(text) - skip


async def test_a_message_missing_from_the_spool_is_no_fault_of_the_destination(
    deliverer: Deliverer, courier: Told, spool: Spool
) -> None:
    await put(spool, "another", MESSAGE)
    raw = Spooled("3f9a", len(MESSAGE), MESSAGE[:10])
    with pytest.raises(SpoolMissing, match="the spool has no blob '3f9a'"):
        await handled(deliverer, envelope(raw=raw))
    assert deliverer.breakers["local"].remaining() == 0
    await put(spool, "3f9a", MESSAGE)
    assert isinstance(await handled(deliverer, envelope(raw=raw)), Done)


@pytest.mark.parametrize("data", [MESSAGE[:-1], MESSAGE + b"x", b""])
async def test_a_blob_of_another_size_is_not_delivered(
    deliverer: Deliverer, courier: Told, spool: Spool, data: bytes
) -> None:
    await put(spool, "3f9a", data)
    with pytest.raises(SpoolUnavailable, match=f"has {len(data)} bytes, and should have"):
        await handled(deliverer, envelope(raw=Spooled("3f9a", len(MESSAGE), b"")))
    assert courier.taken == []
