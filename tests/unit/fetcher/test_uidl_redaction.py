"""UIDLs that may hold the password: how much is looked at before others have their turn."""

import asyncio
from collections.abc import Callable

import pytest

from services.fetcher.pop3.listing import UIDL_LIMIT
from services.fetcher.pop3.uidl_redaction import without_secrets
from shared.redaction.redaction import Redaction

ESCAPES = ["=41", "%6f", "\\x41", "&#65;", "\\a"]


class Watched(Redaction):
    """Notes how many characters it looked at in each turn of the loop."""

    def __init__(self, turn: Callable[[], int]) -> None:
        super().__init__("open-sesame", "sales", "pop.example:110")
        self.looked: dict[int, int] = {}
        self._turn = turn

    def holds(self, text: str) -> bool:
        self.looked[self._turn()] = self.looked.get(self._turn(), 0) + len(text)
        return super().holds(text)


@pytest.mark.parametrize("escape", [*ESCAPES, "x"])
async def test_however_long_uidls_are_others_have_their_turn(escape: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    numbers = {f"{n:07}{escape * UIDL_LIMIT}"[:UIDL_LIMIT]: n for n in range(1, 601)}
    watched = Watched(lambda: turns)
    assert await without_secrets(numbers, watched) == numbers
    beside.cancel()
    assert sum(watched.looked.values()) >= 600 * UIDL_LIMIT
    assert max(watched.looked.values()) <= 17 * 1024


async def test_a_stand_in_among_long_and_short_ones_is_found_wherever_it_is() -> None:
    numbers = {f"{n:04}{'x' * (n % 400)}": n for n in range(1, 1_001)}
    numbers |= {f"=6fpen-sesame{n}": n for n in range(1_001, 1_003)}
    shown = await without_secrets(numbers, Redaction("open-sesame", "sales", "pop.example:110"))
    assert list(shown.values()) == list(numbers.values())
    assert [uidl for uidl in shown if uidl not in numbers] == list(shown)[-2:]
    assert not any("sesame" in uidl for uidl in shown)
