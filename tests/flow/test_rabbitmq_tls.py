"""TLS to RabbitMQ: who is trusted, also once an authority was replaced in its file."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from shared.broker import Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.errors import BrokerUnavailable
from tests.flow.rabbitmq_site import TIERS, Site, eventually
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitServer, rabbitmq

_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {made.ca}
ssl_options.certfile = {made.cert}
ssl_options.keyfile = {made.key}
"""


@pytest.fixture(autouse=True)
def _quiet_pika() -> None:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, tls_port: int
) -> Iterator[RabbitServer]:
    config = _TLS.format(port=tls_port, made=certificates)
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), config=config) as running:
        yield running


async def test_tls_trusts_the_given_authority_and_no_other(
    site: Site, certificates: Certificates, tls_port: int
) -> None:
    url = f"amqps://guest:guest@localhost:{tls_port}/{site.vhost}"
    steward = KombuSteward(url, TIERS, ca_file=str(certificates.ca))
    assert steward.depths()["parsed"] == 0
    steward.close()
    with pytest.raises(BrokerUnavailable):
        KombuSteward(url, TIERS).depths()

    broker = RabbitBroker(
        url,
        sender="parser",
        name="parser@test",
        tiers=TIERS,
        version="0",
        ca_file=str(certificates.ca),
    )
    await broker.open()
    await broker.publish(Send("parsed", b"y" * 300_000, "m1"))
    await broker.close()
    assert await site.held("parsed") == {"m1": 1}

    stranger = site.make(url=url)
    opening = asyncio.create_task(stranger.open())
    await eventually(lambda: site.reported("CERTIFICATE_VERIFY_FAILED"), "a report")
    opening.cancel()
    await asyncio.wait([opening])
    await stranger.close()


async def test_another_authority_is_trusted_once_it_stands_in_the_file(
    site: Site, certificates: Certificates, tls_port: int
) -> None:
    url = f"amqps://guest:guest@localhost:{tls_port}/{site.vhost}"
    broker = RabbitBroker(
        url,
        sender="parser",
        name="parser@test",
        tiers=TIERS,
        version="0",
        ca_file=str(certificates.ca),
        report=site.report,
    )
    await broker.open()
    made = await asyncio.to_thread(make_certificates, certificates.ca.parent)
    assert made == certificates  # new ones, in the same files
    await asyncio.to_thread(site.server.restart)
    await eventually(lambda: site.reported("reconnected"), "another connection")
    await eventually(lambda: broker.connected, "the broker to be back")
    await broker.publish(Send("parsed", b"y", "m1"))
    await broker.close()
    assert await site.held("parsed") == {"m1": 1}
