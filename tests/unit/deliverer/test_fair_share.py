"""How many may wait for a server: what it takes in half a minute, and its share of the places."""

from services.deliverer.servers.fair_share import (
    FIRST_LOOK,
    HORIZON,
    LOOK_EVERY,
    PER_CONNECTION,
    WINDOW,
    DeliverySlots,
    FairShare,
)
from tests.clock import ManualClock

CONNECTIONS = 10
LEAST = PER_CONNECTION * CONNECTIONS


class Server:
    """A line before a server that takes so many messages in a second."""

    def __init__(
        self, clock: ManualClock, places: DeliverySlots, rate: float, waiting: int
    ) -> None:
        self.line = list(range(waiting))
        self.rate = rate
        self.share = FairShare(places, self.line, CONNECTIONS, clock)
        self.share.begin()
        self._due = 0.0

    def second(self) -> int:
        """Let a second pass; return how many are too many in the line then."""
        self._due += self.rate
        taken = min(int(self._due), len(self.line))
        self._due -= taken
        del self.line[:taken]
        self.share.done += taken
        self.share.look()
        return self.share.surplus(CONNECTIONS)


async def seconds(clock: ManualClock, server: Server, count: int) -> list[int]:
    found = list[int]()
    for _ in range(count):
        await clock.advance(LOOK_EVERY)
        found.append(server.second())
    return found


async def test_nobody_is_put_aside_before_anything_is_known(clock: ManualClock) -> None:
    server = Server(clock, DeliverySlots(512), 0, 300)
    assert server.share.surplus(CONNECTIONS) == 0
    first, second = await seconds(clock, server, 2)
    assert first == 0
    assert second > 0


async def test_a_line_that_stands_and_fills_the_places_keeps_half_of_them(
    clock: ManualClock,
) -> None:
    """Nobody else gets in before that."""
    server = Server(clock, DeliverySlots(512), 0, 500)
    assert server.share.surplus(CONNECTIONS) == 0
    await clock.advance(FIRST_LOOK)
    assert server.share.surplus(CONNECTIONS) == 500 - 256


async def test_a_line_that_moves_is_not_cut_before_it_is_known_how_fast(clock: ManualClock) -> None:
    server = Server(clock, DeliverySlots(512), 0, 500)
    await clock.advance(FIRST_LOOK)
    server.share.done += 1
    assert server.share.surplus(CONNECTIONS) == 0


async def test_two_that_stand_and_fill_the_places_together(clock: ManualClock) -> None:
    places = DeliverySlots(512)
    one, two = Server(clock, places, 0, 350), Server(clock, places, 0, 150)
    await clock.advance(FIRST_LOOK)
    assert one.share.surplus(CONNECTIONS) == 350 - 256
    assert two.share.surplus(CONNECTIONS) == 0


async def test_a_server_that_hangs_keeps_a_few(clock: ManualClock) -> None:
    server = Server(clock, DeliverySlots(512), 0, 500)
    surplus = (await seconds(clock, server, 2 * WINDOW))[-1]
    assert len(server.line) - surplus == LEAST


async def test_a_line_that_is_done_with_before_others_are_back_is_not_cut(
    clock: ManualClock,
) -> None:
    """Else the server would be idle until they are."""
    server = Server(clock, DeliverySlots(512), 50, 512)
    assert not any(await seconds(clock, server, 9))


async def test_a_slow_server_keeps_what_it_takes_until_others_are_back(clock: ManualClock) -> None:
    server = Server(clock, DeliverySlots(512), 8, 512)
    surplus = (await seconds(clock, server, 2 * WINDOW))[-1]
    assert 8 * HORIZON <= len(server.line) - surplus <= 9 * HORIZON + CONNECTIONS


async def test_several_slow_ones_share_the_places_and_leave_some_to_others(
    clock: ManualClock,
) -> None:
    places = DeliverySlots(512)
    servers = [Server(clock, places, 8, 200) for _ in range(3)]
    for _ in range(5):
        await clock.advance(LOOK_EVERY)
        surplus = [server.second() for server in servers]
    keeps = [len(server.line) - count for server, count in zip(servers, surplus, strict=True)]
    assert keeps == [512 // 4] * 3


async def test_a_quick_one_gives_nothing_up_for_slow_ones(clock: ManualClock) -> None:
    places = DeliverySlots(512)
    slow = Server(clock, places, 1, 200)
    quick = Server(clock, places, 100, 500)
    for _ in range(4):
        await clock.advance(LOOK_EVERY)
        assert quick.second() == 0
        slow.second()


async def test_what_is_put_aside_comes_back_when_what_is_before_it_is_done(
    clock: ManualClock,
) -> None:
    server = Server(clock, DeliverySlots(512), 8, 512)
    assert server.share.note_put_aside(100, CONNECTIONS) == 0.0  # nobody knows yet
    await seconds(clock, server, WINDOW)
    before = len(server.line) + 100
    first = server.share.note_put_aside(1_000, CONNECTIONS)
    assert before / 9.5 <= first <= before / 8
    second = server.share.note_put_aside(1_000, CONNECTIONS)
    assert second - first > 1_000 / 9.5
    await clock.advance(1_000)
    server.share.look()
    assert server.share.note_put_aside(1, CONNECTIONS) > 0
