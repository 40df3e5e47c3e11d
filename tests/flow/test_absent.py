"""Queues that are not at this RabbitMQ or virtual host: never "empty", and nothing is "done"."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pika

from shared.queues import plan
from tests.flow.office import Neighbour
from tests.unit.postmaster.conftest import TIERS, Office, fetched

FAILED = ("incoming.failed", "parsed.failed", "pickup.failed")


def commands(folder: Path) -> Iterator[tuple[str, ...]]:
    for name, again in (("failed", "requeue"), ("quarantine", "release")):
        yield name, "list"
        yield name, "list", "--json"
        yield name, again, "--all"
        yield name, "export", "--all", "-o", str(folder)
        yield name, "drop", "--all", "--yes"
        yield name, again, "a1"
    yield "spool", "sweep"


def test_where_nothing_is_declared_it_is_asked_whether_the_place_is_right(
    empty_vhost: tuple[Office, Neighbour], tmp_path: Path
) -> None:
    office, neighbour = empty_vhost
    place = neighbour.url.replace(":guest@", "@")
    for command in commands(tmp_path):
        printed = office(*command)
        assert (printed.status, printed.out) == (1, ""), command
        assert f" at {place}. Are the broker and its virtual host the right ones?" in printed.err
        assert "If so: pop3-connector topology declare" in printed.err
        missing = ("quarantine",) if command[0] == "quarantine" else FAILED
        assert ", ".join(missing) in printed.err or command[0] == "spool"
    shown = office("topology", "show")
    assert shown.status == 1
    assert shown.out.count("absent") == len(plan(TIERS))
    assert "absent: there are no queues poll, incoming, parsed, pickup, " in shown.err
    assert f" at {place}. Are the" in shown.err


def test_what_is_in_the_queues_that_are_there_is_shown_and_moved(
    empty_vhost: tuple[Office, Neighbour], tmp_path: Path
) -> None:
    office, neighbour = empty_vhost
    assert office("topology", "declare").status == 0
    with closing(pika.BlockingConnection(pika.URLParameters(neighbour.url))) as connection:
        connection.channel().queue_delete("pickup.failed")
    said = "not looked into: there is no queue pickup.failed at amqp://"

    empty = office("failed", "list")
    assert (empty.status, empty.out) == (1, "What there is of Failed Mail is empty.\n")
    nothing = office("failed", "requeue", "--all")
    assert (nothing.status, nothing.out) == (1, "requeued: 0\n")
    for printed in (empty, nothing):
        assert said in printed.err

    for id_ in ("a1", "b2", "c3"):
        office.put(id_, queue="incoming.failed", payload=fetched())
    listed = office("failed", "list", "--json")
    assert (listed.status, [m["id"] for m in listed.json]) == (1, ["a1", "b2", "c3"])
    into = tmp_path / "out"
    into.mkdir()
    exported = office("failed", "export", "--all", "-o", str(into), "--json")
    assert (exported.status, exported.json["exported"]) == (1, 3)
    dropped = office("failed", "drop", "c3", "--yes")
    assert (dropped.status, dropped.out) == (1, "dropped: 1\n")
    unknown = office("failed", "show", "d4")
    assert (unknown.status, unknown.out) == (1, "")
    requeued = office("failed", "requeue", "--all")
    assert (requeued.status, requeued.out) == (1, "requeued: 2\n")
    for printed in (listed, exported, dropped, unknown, requeued):
        assert said in printed.err
    assert sorted(office.ids("incoming")) == ["a1", "b2"]

    assert office("quarantine", "list").status == 0
    assert office("topology", "declare").status == 0
    assert office("failed", "list").out == "Failed Mail is empty.\n"


def test_a_management_api_that_hangs_is_not_waited_for(office: Office) -> None:
    office.put("a1", queue="incoming.failed", payload=fetched())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with office.config.open("a") as config:
            config.write(f'\nmanagement_url = "{place}"\n')
        said = "policies cannot be read: broker.management_url:"
        said = f"{said} {place}: no answer for 3 seconds\n"
        listed = office("failed", "list", "--json")
        assert (listed.status, [m["id"] for m in listed.json]) == (0, ["a1"])
        assert listed.err == said
        shown = office("topology", "show")
        assert (shown.status, shown.err) == (0, f"warning: {said}")
