"""What holds for every test."""

import os

import hypothesis
import pytest

from tests.clock import ManualClock

# No test asserts on time: not even Hypothesis, whose deadline is 200 ms unless set.
hypothesis.settings.register_profile("connector", deadline=None)
hypothesis.settings.load_profile("connector")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Share the tests out among several workers, where there are any."""
    from tests.workers import Sharing  # needs xdist, which one process alone can do without

    return Sharing(config, log)


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings away from the tests."""
    for name in [name for name in os.environ if name.startswith("POP3_CONNECTOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
