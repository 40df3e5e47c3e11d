"""Servers that take so many messages in a while: a slower pace, and no message is tried in vain."""

import pytest

from services.deliverer.courier import PutAside, Throttled
from services.deliverer.servers.courier import LIMITS
from services.deliverer.servers.overflow import PAUSE
from tests.clock import ManualClock
from tests.servers.smtp import smtp_server
from tests.unit.deliverer.content import BERT, told
from tests.unit.deliverer.crowds import fates, opened, passing, posts, subjects

RATE = "451 4.7.1 Ratelimit exceeded"


class Allowance:
    """A server that takes so many messages in a while."""

    def __init__(
        self, clock: ManualClock, most: int, seconds: float, say: str = RATE, to: str = "END"
    ) -> None:
        self.clock, self.most, self.seconds = clock, most, seconds
        self.say, self.to = say, to
        self.taken = 0
        self.until = 0.0
        self.refused = 0

    def __call__(self, key: str, _: int) -> str | None:
        if key != self.to:
            return None
        if self.clock.monotonic() >= self.until:
            self.taken, self.until = 0, self.clock.monotonic() + self.seconds
        self.taken += 1
        if self.taken <= self.most:
            return None
        self.refused += 1
        return self.say


@pytest.mark.parametrize(
    ("to", "say"),
    [
        ("END", RATE),
        ("END", "451 4.7.1 Try again later"),
        ("END", "421 4.7.0 Try again later, closing connection"),
        ("END", "451 4.7.1 limit of 5 messages per 2 seconds reached"),
        ("DATA", "452 4.3.1 slow down"),
        ("RCPT", "450 4.7.1 Recipient address rejected: Message rate exceeded"),
        ("MAIL", "450 4.7.1 Error: too much mail from 192.0.2.1"),
        ("MAIL", "421 4.7.0 too many messages"),
    ],
)
@pytest.mark.parametrize("lmtp", [False, True])
async def test_so_many_in_a_while_is_a_pace_and_no_message_is_tried_in_vain(
    clock: ManualClock, lmtp: bool, to: str, say: str
) -> None:
    async with (
        smtp_server(lmtp=lmtp) as server,
        opened(server, clock, 10) as courier,
        passing(clock),
    ):
        server.rule = allowance = Allowance(clock, 5, 2.0, say, to)
        assert fates(await told(courier, posts(36))) == {"delivered"}
        assert subjects(server) == list(range(36))
        assert clock.monotonic() < 90
        assert allowance.refused < 36


async def test_a_long_pause_is_waited_out_elsewhere(clock: ManualClock) -> None:
    async with smtp_server() as server, opened(server, clock, 10) as courier, passing(clock):
        server.rule = Allowance(clock, 5, 3600.0)
        delivered = await told(courier, posts(36))
        assert fates(delivered) == {"delivered", "PutAside"}
        aside = [d for d in delivered if isinstance(d, PutAside)]
        assert len(aside) == 31
        assert all(d.after > 0 and "Ratelimit exceeded" in str(d) for d in aside)
        before = len(server.commands)
        assert fates(await told(courier, posts(36))) == {"PutAside"}
        assert len(server.commands) == before


async def test_a_server_that_has_taken_nothing_yet_and_wants_less_is_no_better_than_down(
    clock: ManualClock,
) -> None:
    async with smtp_server() as server, opened(server, clock, 1) as courier, passing(clock):
        server.rule = lambda key, _: RATE if key == "END" else None
        delivered = await told(courier, posts(1))
        assert {type(d) for d in delivered} == {Throttled}


async def test_one_that_goes_on_like_that_is_said_to_whoever_waits(clock: ManualClock) -> None:
    async with smtp_server() as server, opened(server, clock, 4) as courier, passing(clock):
        server.rule = lambda key, _: RATE if key == "MAIL" else None
        await told(courier, posts(4))
        await clock.advance(PAUSE)
        assert "Throttled" in fates(await told(courier, posts(4)))


async def test_one_message_that_is_always_too_much_is_put_off_and_keeps_none_back(
    clock: ManualClock,
) -> None:
    async with smtp_server() as server, opened(server, clock, 4) as courier, passing(clock):
        await told(courier, posts(1))
        server.rule = lambda key, _: RATE if key == f"RCPT {BERT}" else None
        given = [*posts(3, BERT), *posts(12)]
        delivered = await told(courier, given)
        assert fates(delivered[3:]) == {"delivered"}
        assert fates(delivered[:3]) <= {"temporary", "PutAside"}
        sent = [c for c in server.commands if c == f"RCPT TO:<{BERT}>"]
        assert len(sent) <= 3 * (LIMITS + 1)


@pytest.mark.parametrize("step", [f"RCPT {BERT}", "MAIL", "DATA", "END"])
async def test_a_limit_stated_of_a_message_with_a_5xx_counts_as_a_try_of_it(
    clock: ManualClock, step: str
) -> None:
    async with smtp_server() as server, opened(server, clock, 4) as courier, passing(clock):
        await told(courier, posts(1))
        no = "554 5.7.1 we think of it as too many connections"
        server.rule = lambda key, _: no if key == step else None
        for _ in range(4):  # as it comes back, be it into a pause
            delivered = await told(courier, posts(1, BERT))
            if fates(delivered) == {"PutAside"}:
                (aside,) = delivered
                assert isinstance(aside, PutAside)
                await clock.advance(aside.after)
                delivered = await told(courier, posts(1, BERT))
            assert fates(delivered) == {"temporary"}
