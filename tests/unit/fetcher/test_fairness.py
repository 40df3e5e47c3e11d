"""Two hours of many accounts and some fetchers: nobody starves, and nobody is polled by two."""

import pytest

from tests.simulation.day import Findings, Size, live

SIZE = Size(
    accounts=160, every=300.0, first=2_000, bytes_each=16_000, pace=0.4, latency=1.0, connections=2
)
"""So few connections that more than half of them are in use, as with many more accounts."""


@pytest.fixture(scope="module")
def found() -> Findings:
    return live(SIZE)


def test_every_account_is_polled_in_time_whoever_hangs_or_has_much_to_fetch(
    found: Findings,
) -> None:
    """Though one fetcher is killed; also when all are to be fetched now."""
    assert found.never == 0
    for kind in ("large", "office", "soonest"):
        assert max(found.late[kind]) < 1.5 * SIZE.every, kind
    assert max(found.overdue, default=0.0) < 1.5 * SIZE.every
    assert found.all_took < 1.5 * SIZE.every


def test_nobody_is_polled_by_two_at_once(found: Findings) -> None:
    assert (found.doubles, found.unleased) == (0, 0)


def test_a_first_synchronisation_goes_on_beside_the_others(found: Findings) -> None:
    assert found.first_left == 0


def test_no_login_is_earlier_than_its_server_wants(found: Findings) -> None:
    assert found.early == 0


def test_office_hours_do_not_begin_with_everybody_at_once(found: Findings) -> None:
    parts = [sum(at // (SIZE.every / 10) == part for at in found.opening) for part in range(10)]
    assert sum(parts) > 40
    assert max(parts) < 3 * sum(parts) / len(parts)
