"""Defects in the tasks that keep RabbitMQ connected: nobody awaits them, and mail goes on."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from shared.broker import Send
from shared.broker.rabbitmq.confirms import ConfirmChannel
from shared.broker.rabbitmq.kept_connection import KeptConnection
from shared.broker.rabbitmq.publisher import Publisher
from shared.supervision import DEFECT, report_failures
from tests.flow.rabbitmq_site import PATIENCE, Site, eventually
from tests.flow.test_bundles import lose, mail, taken


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], None]:
    """Return what makes a method raise what it must not, the next time that it is called."""

    def broken(owner: type, method: str) -> None:
        works = getattr(owner, method)

        def fails(*_: object, **__: object) -> object:
            monkeypatch.setattr(owner, method, works)
            raise KeyError("a defect")

        monkeypatch.setattr(owner, method, fails)

    return broken


@pytest.mark.parametrize(
    ("owner", "method"),
    [(KeptConnection, "_connect"), (ConfirmChannel, "open")],
    ids=["connect", "channel"],
)
async def test_a_defect_while_it_is_connected_again_is_said_and_mail_goes_on(
    site: Site, broken: Callable[[type, str], None], owner: type, method: str
) -> None:
    with report_failures(site.report):
        async with site.broker("fetcher") as broker:
            broken(owner, method)
            broker._publishing.now().close()
            await eventually(lambda: site.reported(DEFECT), "the defect to be said")
            await eventually(lambda: broker.connected, "the connection")
            async with asyncio.timeout(PATIENCE):
                await broker.publish(Send("incoming", b"x", "m1"))
    assert await site.held("incoming") == Counter(["m1"])


async def test_a_bundle_is_handed_on_where_taking_it_apart_meets_a_defect(
    site: Site, broken: Callable[[type, str], None]
) -> None:
    async with site.broker() as broker:
        await broker.publish(*mail(16))
        first, *_ = await taken(broker, 16)
        broken(Publisher, "publish")
        await lose(first)
        again = await taken(broker, 16)
        assert {delivery.message_id for delivery in again} == {f"m{n}" for n in range(16)}
        assert site.reported("cannot be split")
        assert await broker.settle_all([(d, []) for d in again]) == [None] * 16
    assert not await site.held("incoming")
