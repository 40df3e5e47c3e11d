"""A delivery into files that is cancelled: what may be there is told of, nothing comes later."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.deliverer.courier import CourierResult, MailObject
from services.deliverer.deliver import Deliverer
from services.deliverer.destinations import courier_for
from shared.ledger import Claim
from shared.spool import Spool
from shared.state import State
from shared.state.leases import LEASE_SECONDS
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, SENDER, content, requests, until
from tests.unit.deliverer.stories import Told, envelope

SCHEMES = ("maildir", "pickup", "replay")


class Gate:
    """A call of the operating system that is held up until it is let go."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self._real = real

    def __call__(self, *arguments: object, **keywords: object) -> object:
        self.reached.set()
        assert self.open.wait(20)
        return self._real(*arguments, **keywords)


@pytest.fixture(params=["fsync", "link"])
def gate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The disk takes its time."""
    made = Gate(getattr(os, request.param))
    monkeypatch.setattr(os, request.param, made)
    yield made
    made.open.set()


def arrived(folder: Path) -> list[str]:
    return sorted(p.name.partition(".")[0][:4] for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_is_being_placed_is_told_of_before_it_ends(
    tmp_path: Path, gate: Gate, scheme: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    told: dict[int, CourierResult] = {}
    courier = courier_for("local", f"{scheme}://{folder}")
    posts = [MailObject(content(id_=f"000{n}"), SENDER, [ANNA, BERT]) for n in range(2)]
    delivering = asyncio.create_task(courier.deliver(requests(posts, told)))
    await until(gate.reached.is_set)
    for _ in range(3):  # whoever is impatient
        delivering.cancel()
        await asyncio.sleep(0)
    assert not delivering.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    there = arrived(folder)
    await courier.close()
    assert there == arrived(folder) == ["0000", "0001"]
    results = [told[place] for place in range(2)]
    assert [x[ANNA].verdict for x in results if not isinstance(x, Exception)] == ["delivered"] * 2


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_it_is_recorded_so_nobody_delivers_it_again(
    tmp_path: Path, scheme: str, ledger: State, other: State, spool: Spool, clock: ManualClock,
    gate: Gate,
) -> None:  # fmt: skip
    folder = tmp_path / "folder"
    folder.mkdir()
    courier = courier_for("local", f"{scheme}://{folder}")
    deliverer = Deliverer({"local": courier}, ledger, spool, clock)
    handling = asyncio.create_task(deliverer.handle([envelope(ANNA)], lambda *_: None))
    await until(gate.reached.is_set)
    handling.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await handling
    await deliverer.close()
    assert arrived(folder) == ["3f9a"]
    assert await claim_one(other, "3f9a", "local") == Claim(frozenset({ANNA}), replay=False)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("call", ["open", "write"])
async def test_what_is_still_being_written_is_given_up_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, call: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    told: dict[int, CourierResult] = {}
    courier = courier_for("local", f"{scheme}://{folder}")
    large = MailObject(content(chunks=[MESSAGE] * 3), SENDER, [ANNA])
    await courier.deliver(requests([MailObject(content(id_="0000"), SENDER, [ANNA])], {}))
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    gate = Gate(getattr(os, call))
    with monkeypatch.context() as slow:
        slow.setattr(os, call, gate)
        delivering = asyncio.create_task(courier.deliver(requests([large], told)))
        await until(gate.reached.is_set)
        delivering.cancel()
        await asyncio.sleep(0)
        assert not delivering.done()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await delivering
    assert told == {}
    assert arrived(tmp_path) == ["0000"]
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    await courier.close()


async def test_what_was_being_delivered_may_have_been_for_whoever_comes_next(
    ledger: State, other: State, spool: Spool, clock: ManualClock
) -> None:
    courier = Told(gate=asyncio.Event())
    deliverer = Deliverer({"local": courier}, ledger, spool, clock)
    handling = asyncio.create_task(deliverer.handle([envelope(ANNA)], lambda *_: None))
    await courier.started.wait()
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert await claim_one(other, "3f9a", "local") is None
    await clock.advance(LEASE_SECONDS + 1)
    assert await claim_one(other, "3f9a", "local") == Claim(frozenset(), replay=True)
