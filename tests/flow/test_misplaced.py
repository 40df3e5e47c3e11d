"""Mail that somebody moves into a queue of RabbitMQ which carries none is found, and kept."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from amqp import Connection

from shared import wire
from shared.broker.steward.declared_queues import remember, remembered
from shared.broker.steward.steward import KombuSteward
from shared.failpoint import VARIABLE
from shared.message import Fetched
from shared.queues import DECLARED, INCOMING, MARK, QUARANTINE, plan
from tests.flow.forked import ForkedConnector
from tests.flow.office import Neighbour, put
from tests.flow.test_moved_by_others import bundle, has, one
from tests.servers.process import wait_until
from tests.unit.postmaster.conftest import TIERS, Office

MARKS = json.dumps({"us": "a mark"})
SAID = "mail was in a queue that carries none; now in quarantine"


def waiting(neighbour: Neighbour, queue: str) -> list[bytes]:
    """Return the bodies in a queue; they stay."""
    with Connection(host(neighbour), virtual_host=vhost(neighbour)) as connection:
        channel = connection.channel()
        channel.auto_decode = False
        return [bytes(m.body) for m in iter(lambda: channel.basic_get(queue), None)]


def host(neighbour: Neighbour) -> str:
    return neighbour.url.rpartition("@")[2].partition("/")[0]


def vhost(neighbour: Neighbour) -> str:
    return neighbour.url.rpartition("/")[2]


def moved_to_topology(office: Office, neighbour: Neighbour) -> set[str]:
    """Move a message, a bundle and bytes of no envelope there; return the ids of the messages."""
    sends = [one("incoming"), *bundle()]
    put(office, *sends[:1])
    put(office, *sends[1:])
    has(office, INCOMING, 2)
    for kept in (True, False):
        neighbour.move(INCOMING, DECLARED, kept=kept)
    neighbour.publish(DECLARED, b"\xc1junk", headers={"CC": ["incoming.failed"]})
    neighbour.publish(DECLARED, b'[{"json": "of somebody else"}]')
    return {send.message_id for send in sends}


def test_mail_among_the_names_of_queues_goes_to_quarantine(
    office: Office, neighbour: Neighbour
) -> None:
    ids = moved_to_topology(office, neighbour)
    declared = office("topology", "declare")
    assert (declared.status, declared.err) == (0, f"topology: {SAID} (mail 4)\n")
    listed = office("quarantine", "list", "--json").json
    assert ids < {m["id"] for m in listed}
    assert len(listed) == len(ids) + 2
    (names,) = waiting(neighbour, DECLARED)
    assert set(json.loads(names)) > {spec.name for spec in plan(TIERS)}
    assert office("topology", "declare").err == ""

    assert f"released: {len(ids)}\n" in office("quarantine", "release", "--all").out
    found = {wire.decode(m.body, Fetched).id for m in office.queue(INCOMING)}
    assert found == ids
    assert {m.body for m in office.queue(QUARANTINE)} == {
        b"\xc1junk",
        b'[{"json": "of somebody else"}]',
    }


def test_a_start_finds_it_too(
    office: Office, neighbour: Neighbour, product: ForkedConnector, tmp_path: Path
) -> None:
    moved_to_topology(office, neighbour)
    product.configure([], f"maildir://{tmp_path}/mail", neighbour.url)
    product.start("run")
    product.wait(lambda: product.count("run", SAID) == 1, "the line in the log")
    assert product.stop("run") == 0
    has(office, QUARANTINE, 4)


def by_declare(office: Office, _: Neighbour) -> None:
    office("topology", "declare")


def by_a_fetcher(_: Office, neighbour: Neighbour) -> None:
    with closing(KombuSteward(neighbour.url, TIERS)) as steward:
        assert steward.mark() is None
        steward.set_mark("fetcher", lambda _: MARKS)


@pytest.mark.parametrize("way", [by_declare, by_a_fetcher])
def test_mail_in_the_place_of_the_mark_goes_to_quarantine(
    office: Office, neighbour: Neighbour, way: Callable[[Office, Neighbour], None]
) -> None:
    put(office, one("incoming"))
    neighbour.move(INCOMING, MARK, kept=True)
    way(office, neighbour)
    assert office.ids(QUARANTINE) == [one("incoming").message_id]
    by_a_fetcher_again = waiting(neighbour, MARK)
    assert by_a_fetcher_again == ([] if way is by_declare else [MARKS.encode()])
    with closing(KombuSteward(neighbour.url, TIERS)) as steward:
        steward.set_mark("postmaster", lambda _: '{"us": "another"}')
        wait_until(lambda: steward.mark() == b'{"us": "another"}', "another mark")
    assert len(office.ids(QUARANTINE)) == 1


def test_what_quarantine_does_not_take_stays_and_is_said(
    office: Office, neighbour: Neighbour
) -> None:
    moved_to_topology(office, neighbour)
    before = sorted(waiting(neighbour, DECLARED))
    reports: list[tuple[str, object]] = []
    with Connection(
        host(neighbour), virtual_host=vhost(neighbour), confirm_publish=True
    ) as connection:
        connection.channel().queue_delete(QUARANTINE)
        remember(connection, ["new"], lambda what, /, **about: reports.append((what, about)))
        assert "new" in remembered(connection)
    said = "mail is in a queue that carries none, and cannot go to quarantine"
    assert reports == [(said, {"queue": DECLARED, "mail": 4, "why": "NO_ROUTE"})]
    after = waiting(neighbour, DECLARED)
    assert len(after) == len(before)
    assert len(set(before) & set(after)) == 4
    assert office("topology", "declare").status == 0
    has(office, QUARANTINE, 4)


def test_killed_in_between_it_is_in_both_places(office: Office, neighbour: Neighbour) -> None:
    moved_to_topology(office, neighbour)
    command = [sys.executable, "-m", "services", "--config", str(office.config)]
    killed = subprocess.run(
        [*command, "topology", "declare"],
        env={**os.environ, VARIABLE: "misplaced.copied#2"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: len(waiting(neighbour, DECLARED)) == 4, "three of mail, and one of names")
    assert office("topology", "declare").status == 0
    has(office, QUARANTINE, 5)
    assert len(waiting(neighbour, DECLARED)) == 1
