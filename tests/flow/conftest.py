"""What most flow tests need: a provider, the product, a local mail server, a broker.

A module that shares one of them among its tests, or needs other users, has its own of that name.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.forked import ForkedConnector
from tests.flow.office import Neighbour, rabbitmq_office
from tests.flow.place import Place
from tests.flow.rabbitmq_site import Site
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.rabbitmq import RabbitServer, shared_rabbitmq
from tests.unit.postmaster.conftest import Office


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Dovecot]:
    with dovecot(_folder(tmp_path, "provider"), {"sales": "secret"}) as server:
        yield server


@pytest.fixture
def site(server: RabbitServer) -> Site:
    site = Site(server, server.vhost())
    site.declare()
    return site


@pytest.fixture
def product(tmp_path: Path) -> Iterator[ForkedConnector]:
    with contextlib.closing(ForkedConnector(_folder(tmp_path, "product"))) as installation:
        yield installation


@pytest.fixture
def place(tmp_path: Path, product: ForkedConnector, provider: Dovecot) -> Place:
    return Place(product, provider, tmp_path / "mail")


@pytest.fixture
def local() -> Iterator[Postfix]:
    with postfix(mailboxes=("sales",)) as server:
        yield server


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str | None:
    """The URL of a RabbitMQ, on a virtual host of its own; None for the embedded broker."""
    if request.param == "embedded":
        return None
    server = shared_rabbitmq()
    return server.url(server.vhost())


@pytest.fixture
def empty_vhost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[tuple[Office, Neighbour]]:
    """The operator's commands, and somebody else, at a virtual host without queues."""
    with rabbitmq_office(tmp_path, capfd) as pair:
        yield pair


@pytest.fixture
def office(empty_vhost: tuple[Office, Neighbour]) -> Office:
    """The operator's commands, where the queues have been declared."""
    office, _ = empty_vhost
    assert office("topology", "declare").status == 0
    return office


@pytest.fixture
def neighbour(empty_vhost: tuple[Office, Neighbour], office: Office) -> Neighbour:
    """Somebody else at the virtual host of ``office``."""
    return empty_vhost[1]


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
