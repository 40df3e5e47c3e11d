"""RabbitMQ fails while mail is on its way through the whole product, in every way that it can.

The processes recover by themselves: none is started again. Nothing is lost, nothing comes twice,
and nothing is deleted at the provider that is not safe.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from shared.broker.rabbitmq import broker as rabbitmq_broker
from shared.queues import DELIVERY_LIMIT, INCOMING, PARSED, PICKUP, QUARANTINE
from tests.corpus.messages import sample_messages
from tests.flow.connector import STAGES
from tests.flow.forked import ForkedConnector
from tests.flow.works import ALL, CONNECTIONS, LOST, PASSWORD, QUICK, SLOW, USER, Works
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.proxy import proxy
from tests.servers.rabbitmq import RabbitServer, rabbitmq

NONE = {"configure": "", "write": "", "read": ""}
SHORT_HEARTBEAT = "heartbeat = 2\n"

FULL = 10
"""Entries that wait in a queue which is full then; those handed out do not count."""

MANY = 500
"""Messages, more than a full queue takes, also where 16 of them share an entry; what comes in one
burst still gets in."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), config=SHORT_HEARTBEAT) as running:
        yield running


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = {QUICK: "secret", SLOW: "secret"}
    with dovecot(tmp_path_factory.mktemp("provider"), users) as running:
        yield running


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, provider: Dovecot, server: RabbitServer
) -> Iterator[Works]:
    """Prepare one plant for all faults."""
    folder = tmp_path_factory.mktemp("works")
    with (
        proxy(provider.pop3) as line,
        proxy(server.port) as cable,
        contextlib.closing(ForkedConnector(folder)) as product,
    ):
        vhost = server.vhost()
        url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{cable.port}/{vhost}"
        works = Works(
            product,
            provider,
            folder / "mail",
            url,
            server=server,
            vhost=vhost,
            line=line,
            cable=cable,
        )
        works.prepare()
        yield works


@pytest.fixture
def works(site: Works) -> Iterator[Works]:
    """Run the plant; all that was handed in so far counts, and what comes late as well.

    New processes for each fault: who loses several connections in a row waits longer each time.
    """
    site.first.clear()
    site.run(*STAGES)
    site.product.wait(site.consuming, "every stage to consume")
    yield site
    for name in STAGES:
        assert site.product.stop(name) == 0, site.product.tail()
    # Only now nobody has anything in hand, and nothing can come any more.
    assert site.queued() == set()
    assert site.tally() == site.right()


def restart(works: Works) -> None:
    with works.heard(LOST, *STAGES):
        works.server.restart()


def kill(works: Works) -> None:
    with works.heard(LOST, *STAGES):
        works.server.kill()
    works.server.start()


def cut(works: Works) -> None:
    with works.heard(LOST, *STAGES):
        works.cable.cut_after = 0
    works.cable.cut_after = None


def close(works: Works) -> None:
    """Close the connections, as an operator does."""
    with works.heard(LOST, *STAGES):
        works.server.close_connections(works.vhost, CONNECTIONS)


def freeze(works: Works) -> None:
    """Stand still for so long that every process takes the broker for dead, and tries again."""
    try:
        with works.heard(LOST, *STAGES):
            works.server.freeze()
    finally:
        works.server.thaw()


def close_channels(works: Works) -> None:
    """Publish to what is not there: the broker closes the channel (404)."""
    undeclared = "cannot publish: the topology is not declared yet"
    with works.heard(undeclared, "fetcher"), works.heard("account failed", "fetcher"):
        for stage in STAGES:
            works.server.api("DELETE", f"exchanges/{works.vhost}/{stage}")
    works.declare()


def withdraw_permissions(works: Works) -> None:
    with works.heard("cannot consume yet", *STAGES):
        works.allow(NONE)
        works.server.close_connections(works.vhost, CONNECTIONS)
    works.allow(ALL)


def lock_out(works: Works) -> None:
    with works.heard("broker refused the connection", *STAGES):
        works.server.api("DELETE", f"permissions/{works.vhost}/{USER}")
        works.server.close_connections(works.vhost, CONNECTIONS)
    works.allow(ALL)


FAULTS = (
    restart,
    kill,
    cut,
    close,
    freeze,
    close_channels,
    withdraw_permissions,
    lock_out,
)


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(works: Works, fault: Callable[[Works], None]) -> None:
    seed = FAULTS.index(fault)
    works.line.rate = 100_000  # eight seconds: on a busy machine, too, it is in the middle then
    before = works.files()
    works.hand_in(SLOW, sample_messages(200, 1_000 + seed, max_size=100_000))
    works.hand_in(QUICK, sample_messages(300, 2_000 + seed, max_size=100_000))
    works.product.wait(lambda: not works.provider.files(QUICK), "an empty maildrop")
    works.product.wait(lambda: works.files() > before, "a delivery")
    fault(works)
    assert works.provider.files(SLOW), "the fetcher was not in the middle any more"
    works.line.rate = 0
    works.drain()


@dataclass(frozen=True)
class Between:
    """A queue between two stages.

    Attributes:
        event: what the sender says when the queue does not take a message.
        fetched: whether messages have left the provider all the same.
    """

    queue: str
    sender: str
    consumer: str
    event: str
    fetched: bool


QUEUES = (
    Between(INCOMING, "fetcher", "parser", "account failed", fetched=False),
    Between(PARSED, "parser", "rewriter", "settling failed; it is retried", fetched=True),
    Between(PICKUP, "rewriter", "deliverer", "settling failed; it is retried", fetched=True),
)


@pytest.mark.parametrize("between", QUEUES, ids=lambda between: between.queue)
def test_a_full_queue_holds_up_what_comes_before_it(works: Works, between: Between) -> None:
    messages = sample_messages(MANY, 3_000 + QUEUES.index(between), max_size=100_000)
    works.limit(between.queue, FULL)
    with works.away(between.consumer):
        with works.heard(between.event, between.sender), works.halted("fetcher"):
            works.hand_in(QUICK, messages)  # all at once: the first few would fit
        if between.fetched:
            works.product.wait(lambda: not works.provider.files(QUICK), "an empty maildrop")
        else:
            assert works.provider.messages(QUICK) == messages
    works.drain()
    works.unlimit(between.queue)


@pytest.mark.parametrize("between", QUEUES, ids=lambda between: between.queue)
def test_a_queue_that_is_deleted_ends_its_consumer_and_is_missed_by_its_sender(
    works: Works, between: Between
) -> None:
    messages = sample_messages(150, 4_000 + QUEUES.index(between), max_size=100_000)
    with works.heard("consumer lost", between.consumer):
        works.server.api("DELETE", f"queues/{works.vhost}/{between.queue}")
    with works.heard(between.event, between.sender):
        works.hand_in(QUICK, messages)
    if not between.fetched:
        assert works.provider.messages(QUICK) == messages
    works.declare()
    works.drain()


ALARMS = {
    "memory": (
        ("set_vm_memory_high_watermark", "0.0000001"),
        ("set_vm_memory_high_watermark", "absolute", "2GB"),
    ),
    "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB")),
}


@pytest.mark.parametrize("alarm", ALARMS)
def test_under_an_alarm_fetching_stops_and_delivering_goes_on(works: Works, alarm: str) -> None:
    on, off = ALARMS[alarm]
    seed = 5_000 + 2 * list(ALARMS).index(alarm)
    early = sample_messages(7, seed, max_size=100_000)  # so few that each has an entry of its own
    late = sample_messages(60, seed + 1, max_size=100_000)
    before = works.files()
    with works.halted("deliverer"):
        works.hand_in(QUICK, early)
        # All of it waits there once the broker has noticed that the deliverer stands still.
        works.product.wait(lambda: works.waiting(PICKUP) == len(early), "mail in pickup")
        works.server.ctl(*on)
    try:
        with works.heard("broker blocked: it accepts no messages", "fetcher"):
            works.hand_in(QUICK, late)
        works.product.wait(lambda: works.files() == before + len(early), "what was in pickup")
        works.product.wait(works.overdue, "the fetcher to stand still")
        assert works.provider.messages(QUICK) == late
        assert works.files() == before + len(early)
    finally:
        works.server.ctl(*off)
    works.drain()


def test_a_consumer_that_holds_messages_too_long_loses_its_channel_and_nothing_else(
    works: Works,
) -> None:
    """The broker gives a consumer half an hour by default; a full queue can last longer."""
    times = "consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {}"
    works.server.ctl("eval", f"application:set_env(rabbit, {times.format(1_000, 500)}).")
    try:
        close(works)
        works.limit(PARSED, FULL)
        with works.away("rewriter"), works.heard("consumer lost", "parser"):
            works.hand_in(QUICK, sample_messages(MANY, 6_000, max_size=100_000))
    finally:
        works.server.ctl("eval", f"application:set_env(rabbit, {times.format(1_800_000, 60_000)}).")
        close(works)
    works.drain()
    works.unlimit(PARSED)


def impatient() -> None:
    """Consume again soon after a channel was lost, in a process that loses many in a row."""
    vars(rabbitmq_broker).update(LONGEST_PAUSE=0.2)


def test_what_is_held_for_longer_than_twenty_time_outs_is_not_taken_for_what_crashes(
    works: Works,
) -> None:
    """The queue after the parser is full: RabbitMQ hands out again and again."""
    times = "consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {}"
    works.server.ctl("eval", f"application:set_env(rabbit, {times.format(600, 200)}).")
    assert isinstance(works.product, ForkedConnector)
    works.product.first = impatient
    lost = works.product.count("parser", "consumer lost") + DELIVERY_LIMIT + 5
    try:
        with works.away("parser"):
            pass
        close(works)
        works.limit(PARSED, FULL)
        with works.away("rewriter"):
            works.hand_in(QUICK, sample_messages(MANY, 7_000, max_size=20_000))
            works.product.wait(lambda: (works.waiting(PARSED) or 0) >= FULL, "a full queue")
            works.product.wait(
                lambda: works.product.count("parser", "consumer lost") >= lost, "time-outs", 90
            )
            assert not works.waiting(QUARANTINE)
    finally:
        works.product.first = None
        works.server.ctl("eval", f"application:set_env(rabbit, {times.format(1_800_000, 60_000)}).")
        close(works)
    works.drain()
    works.unlimit(PARSED)
    for stage in STAGES[1:]:  # copies, whose acknowledgement was too late, may be in hand
        with works.away(stage):
            pass
    works.drain()
