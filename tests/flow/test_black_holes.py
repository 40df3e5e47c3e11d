"""Servers that take a connection and say nothing, more than there are places: beside a good one."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.connector import STAGES
from tests.flow.place import ONCE, Place

HOLES = 80
"""More than a fetcher has places, and than a broker hands out at a time."""


@pytest.fixture
def holes() -> Iterator[list[int]]:
    """Return ports at which connections are taken, and nothing follows."""
    with ExitStack() as stack:
        found = []
        for _ in range(HOLES):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            found.append(listening.getsockname()[1])
        yield found


def configure(place: Place, holes: list[int], broker: str | None) -> None:
    hanging = [
        place.account(f"hole{n:02}", host="127.0.0.1", port=port, username="x", timeout="1h")
        for n, port in enumerate(holes)
    ]
    # Accounts are queued in the order of their names.
    good = place.account("sales", name="zzz")
    place.configure(*hanging, good, url=broker)


def test_a_good_account_is_polled_all_the_while(
    place: Place, holes: list[int], broker: str | None
) -> None:
    configure(place, holes, broker)
    stages = ("run",) if broker is None else STAGES
    if broker is not None:
        assert place.product.cli("topology", "declare").returncode == 0
    place.product.start(*stages)
    for seed in (1, 2):
        place.put("sales", sample_messages(3, seed=seed))
        place.product.wait(place.all_well, "the mail of the good account", 60)
    assert [place.product.stop(stage) for stage in stages] == [0] * len(stages)


def test_run_once_polls_a_good_account_before_the_others_are_given_up(
    place: Place, holes: list[int]
) -> None:
    configure(place, holes, None)
    place.put("sales", sample_messages(3, seed=1))
    place.product.start(ONCE)
    place.product.wait(place.all_well, "the mail of the good account", 60)
    assert place.product.stop(ONCE) == 130
