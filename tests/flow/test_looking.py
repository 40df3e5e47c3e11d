"""Looking into Failed Mail of a RabbitMQ: beside others who look, however much there is, killed."""

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shared.broker import Send, Stored
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward import look
from shared.broker.steward.steward import KombuSteward
from shared.errors import InUse
from shared.queues import Tier
from tests.contract.messages import failed
from tests.flow.office import Neighbour, put
from tests.servers.process import wait_until
from tests.stewards import back
from tests.unit.postmaster.conftest import TIERS, Office

QUEUE = "incoming.failed"
COUNT = 5 * look.WINDOW + 1
IDS = [f"id-{n}" for n in range(COUNT)]
LARGE = 50_000


@pytest.fixture
def url(neighbour: Neighbour) -> str:
    return neighbour.url


def ids(url: str) -> list[str]:
    """Return what an operator sees, with a connection of their own."""
    steward = KombuSteward(url, TIERS)
    try:
        return [stored.message_id for stored in steward.browse(QUEUE)]
    finally:
        steward.close()


def test_several_at_once_each_see_all_of_it(office: Office, url: str) -> None:
    put(office, *[failed(n) for n in range(COUNT)])
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(ids, [url] * 4))
    assert [sorted(each) for each in seen] == [sorted(IDS)] * 4


def test_who_comes_second_is_told_and_waits(office: Office, url: str) -> None:
    put(office, *[failed(n) for n in range(COUNT)])
    told: list[str] = []

    def report(what: str, /, **about: object) -> None:
        told.append(f"{about['queue']}: {what}")

    first, second = KombuSteward(url, TIERS), KombuSteward(url, TIERS, None, report)
    looking = first.browse(QUEUE)
    next(looking)
    with ThreadPoolExecutor(1) as threads:
        seen = threads.submit(lambda: [stored.message_id for stored in second.browse(QUEUE)])
        wait_until(lambda: bool(told), "the second to be told")
        assert [stored.message_id for stored in looking] == IDS[1:]
        assert seen.result() == IDS
    assert told == [f"{QUEUE}: another command is looking into this queue; waiting"]
    first.close()
    second.close()


def test_who_waits_in_vain_is_told_so_and_never_that_nothing_is_there(
    office: Office, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(office, *[failed(0)])
    steward = KombuSteward(url, TIERS)
    looking = steward.browse(QUEUE)
    next(looking)
    monkeypatch.setattr(look, "LOOKING", 0.0)
    for command in (("list",), ("list", "--json"), ("requeue", "--all"), ("show", "id-0")):
        printed = office("failed", *command)
        assert printed.status == 1
        assert "empty" not in printed.out
        assert f"{QUEUE}: others have had its messages in hand" in printed.err
    with pytest.raises(InUse):
        ids(url)
    assert list(looking) == []
    steward.close()
    assert ids(url) == ["id-0"]


@pytest.mark.parametrize(
    ("command", "done"),
    [(("requeue", "--all"), "requeued"), (("drop", "--all", "--yes"), "dropped")],
)
def test_what_was_done_before_others_hindered_it_is_told(
    office: Office,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    done: str,
) -> None:
    put(office, failed(0), failed(1)._replace(queue="pickup.failed"))
    steward = KombuSteward(url, TIERS)
    looking = steward.browse("pickup.failed")
    next(looking)
    monkeypatch.setattr(look, "LOOKING", 0.0)
    printed = office("failed", *command)
    assert (printed.status, printed.out) == (1, f"{done}: 1\n")
    assert "pickup.failed: others have had its messages in hand" in printed.err
    assert list(looking) == []
    steward.close()
    assert office("failed", *command).out == f"{done}: 1\n"


def test_the_topology_says_of_what_somebody_looks_into_that_it_is_not_counted(
    office: Office, url: str
) -> None:
    put(office, failed(0))
    steward = KombuSteward(url, TIERS)
    looking = steward.browse(QUEUE)
    next(looking)
    said = f"warning: {QUEUE}: another command has messages of it in hand, and they are not counted"
    assert said in office("topology", "show").err
    assert list(looking) == []
    steward.close()
    assert "in hand" not in office("topology", "show").err


def test_of_two_who_look_everywhere_at_once_each_sees_all(
    office: Office, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two sweeps of the spool do; what one does not see, it takes for gone."""
    monkeypatch.setattr("shared.broker.steward.steward.SETTLING", 0.0)
    tiers = (*TIERS, Tier("12h", 43_200))  # which the configuration has no more afterwards
    steward = KombuSteward(url, tiers)
    steward.declare()
    steward.close()
    queues = (QUEUE, "incoming", "incoming.retry.6h", "incoming.retry.12h")
    former = replace(
        office,
        broker=lambda: RabbitBroker(
            url, sender="postmaster", name="former", tiers=tiers, version="0"
        ),
    )
    for queue in queues:
        put(former, *[failed(n)._replace(queue=queue) for n in range(COUNT)])

    def everything() -> Counter[tuple[str, str]]:
        steward = KombuSteward(url, TIERS)
        try:
            return Counter((each.queue, each.message_id) for each in steward.everything())
        finally:
            steward.close()

    with ThreadPoolExecutor(3) as threads:
        found = [each.result() for each in [threads.submit(everything) for _ in range(3)]]
    wanted = {(queue, id_): 2 for queue in queues for id_ in IDS}
    assert found == [wanted] * 3


def test_a_look_that_is_killed_leaves_everything(office: Office, url: str) -> None:
    put(office, *[failed(n) for n in range(1000)])
    command = [sys.executable, "-m", "services", "--config", str(office.config), "failed", "list"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        assert listing.stdout.read(1) == b"["  # and no more: a pipe does not hold all of it
        listing.kill()
    assert sorted(ids(url)) == sorted(f"id-{n}" for n in range(1000))


def test_who_has_seen_enough_gives_back_the_rest(office: Office, url: str) -> None:
    put(office, *[failed(n) for n in range(COUNT)])
    command = [sys.executable, "-m", "services", "--config", str(office.config), "failed", "list"]
    done = subprocess.run([*command, "--limit", "2", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [m["id"] for m in json.loads(done.stdout)] == IDS[:2]
    assert ids(url) == IDS


def test_what_some_are_taken_of_stays_in_its_order(office: Office, url: str) -> None:
    put(office, *[failed(n) for n in range(COUNT)])
    steward = KombuSteward(url, TIERS)

    def some(stored: Stored) -> Send | None:
        return back(stored) if int(stored.message_id[3:]) % 3 else None

    assert steward.move(QUEUE, None, some) == COUNT - len(IDS[::3])
    assert ids(url) == IDS[::3]
    assert steward.move(QUEUE, None, back) == len(IDS[::3])
    assert ids(url) == []
    steward.close()


def test_it_takes_no_more_memory_for_more_messages(office: Office, url: str) -> None:
    count = 8 * look.AHEAD * look.WINDOW
    headers = failed(0).headers
    for start in range(0, count, 64):
        put(office, *[Send(QUEUE, bytes(LARGE), f"id-{start + n}", headers) for n in range(64)])
    steward = KombuSteward(url, TIERS)
    list(steward.depths())
    tracemalloc.start()
    try:
        assert sum(1 for _ in steward.browse(QUEUE)) == count
        assert len(steward.drop(QUEUE, None, lambda _: True)) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        steward.close()
    assert peak < count * LARGE / 4
