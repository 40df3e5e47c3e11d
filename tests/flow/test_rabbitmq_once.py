"""``run --once`` over RabbitMQ, where it is the broker that brings back what waits for a retry."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from amqp import Connection

from services.drain import drain
from services.wiring import Assembly
from shared import wire
from shared.broker import Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.log import MailLog
from shared.message import Envelope
from shared.queues import PARSED
from shared.unfinished import Unfinished
from tests.flow.rabbitmq_site import PATIENCE
from tests.ids import id_of
from tests.servers.rabbitmq import RabbitServer
from tests.unit.test_drain import PARSED_MAIL, Plant, refusing


async def test_what_is_refused_is_not_tried_again_in_the_same_run(
    server: RabbitServer, tmp_path: Path
) -> None:
    """A try of all takes ten times as long as the retry tier."""
    plant = Plant(tmp_path)
    tiers, url = plant.settings.retry.tiers, server.url(server.vhost())
    steward = KombuSteward(url, tiers)
    await asyncio.to_thread(steward.declare)
    broker = RabbitBroker(url, sender="postmaster", name="test", tiers=tiers, version="0")
    tries: Counter[str] = Counter()
    resources = replace(plant.resources, broker=broker)
    async with asyncio.timeout(PATIENCE):
        await broker.open()
        for number in range(100):
            envelope = Envelope(id_of(f"m{number}"), "sales", PARSED_MAIL, 1.0)
            await broker.publish(Send(PARSED, wire.encode(envelope), envelope.id))
        refuse = refusing(tries, takes=0.04)
        assemblies = [Assembly(stage) for stage in plant.stages(deliver=refuse)]
        drained = await drain(resources, assemblies, plant.interrupted, grace=5)
        await broker.close()
    steward.close()
    assert set(tries.values()) == {1}
    assert (len(tries), drained.broken) == (100, False)
    assert (drained.waiting or 0) >= 100  # what is on its way from its tier is in both for a moment


async def test_what_another_connector_has_in_hand_waits(
    server: RabbitServer, tmp_path: Path
) -> None:
    plant, vhost = Plant(tmp_path), server.vhost()
    tiers, url = plant.settings.retry.tiers, server.url(vhost)
    steward = KombuSteward(url, tiers)
    await asyncio.to_thread(steward.declare)
    broker = RabbitBroker(url, sender="postmaster", name="test", tiers=tiers, version="0")
    log = MailLog("run", unfinished=Unfinished())
    resources = replace(plant.resources, broker=broker, log=log)
    envelope = Envelope(id_of("m"), "sales", PARSED_MAIL, 1.0)
    async with asyncio.timeout(PATIENCE):
        await broker.open()
        await broker.publish(Send(PARSED, wire.encode(envelope), envelope.id))
        log.fetched(envelope.id, "sales", "u1", 1)
        with Connection(f"127.0.0.1:{server.port}", virtual_host=vhost) as other:
            assert other.channel().basic_get(PARSED) is not None
            assemblies = [Assembly(stage) for stage in plant.stages()]
            drained = await drain(resources, assemblies, plant.interrupted, grace=5)
        await broker.close()
    steward.close()
    assert (drained.waiting, drained.broken) == (1, False)
