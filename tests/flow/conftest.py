"""What most flow tests need: a provider, the product, a local mail server, a broker.

A module that shares one of them among its tests, or needs other users, has its own of that name.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.forked import ForkedConnector
from tests.flow.place import Place
from tests.flow.rabbitmq_site import Site
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.rabbitmq import RabbitServer, shared_rabbitmq


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


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
