import pytest

from shared.backoff import STEADY, Backoff

FIRST = 0.1


class Recorder:
    """A clock that does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def boottime(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_pauses_double_up_to_the_cap() -> None:
    clock = Recorder()
    backoff = Backoff(clock, FIRST, 1.0, jitter=True)
    for _ in range(30):
        await backoff.pause()
    for ceiling, pause in zip([FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST], clock.pauses, strict=False):
        assert ceiling / 2 <= pause <= ceiling
    assert all(0.5 <= pause <= 1.0 for pause in clock.pauses[4:])


@pytest.mark.parametrize(("lasted", "again"), [(STEADY, True), (STEADY - 1, False)])
async def test_only_a_success_that_lasts_starts_again(lasted: float, again: bool) -> None:
    clock = Recorder()
    backoff = Backoff(clock, FIRST, 100.0, jitter=True)
    for _ in range(5):
        await backoff.pause()
    backoff.note_success()
    clock.time += lasted
    await backoff.pause()
    assert (clock.pauses[-1] <= FIRST) is again
