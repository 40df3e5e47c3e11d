"""What holds for every test."""

import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.clock import ManualClock
from tests.servers.rabbitmq import RabbitServer, shared_rabbitmq

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


@pytest.fixture
def server() -> RabbitServer:
    """RabbitMQ, and nothing from pika about the losses that tests bring about.

    A module whose tests are about another server has its own of that name.
    """
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    return shared_rabbitmq()


@pytest.fixture
def vhost(server: RabbitServer) -> Iterator[str]:
    """The name of a virtual host of the test's own."""
    name = server.vhost()
    yield name
    server.drop_vhost(name)
