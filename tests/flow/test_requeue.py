"""Failed Mail sent round again: to where the configuration says now, and to nobody twice."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.ledger import DeliveryKey, Finished
from shared.state import State, new_owner
from tests.flow.connector import below_prefix, lf
from tests.flow.forked import ForkedConnector
from tests.ids import id_of
from tests.servers.rabbitmq import shared_rabbitmq
from tests.unit.postmaster.conftest import RAW, TIERS, Office, addressed, fetched

ACCOUNT = {
    "name": "sales",
    "host": "127.0.0.1",
    "username": "sales",
    "password": "secret",
    "enabled": False,
    "mailbox": "sales@corp.example",
}
ONCE = "run --once --json"


class Site:
    """A connector without maildrops, its Failed Mail, and the Maildirs that it delivers to."""

    def __init__(self, folder: Path, url: str | None, office: Office) -> None:
        self.product = ForkedConnector(folder)
        self.mail = folder / "mail"
        self.office = office
        self._url = url

    def configure(self, delivery: str = "mail", **account: object) -> None:
        tables = {"destinations.archive": {"url": f"maildir://{self.mail}/archive/{{mailbox}}"}}
        url = f"maildir://{self.mail.parent}/{delivery}/{{mailbox}}"
        self.product.configure([ACCOUNT | account], url, self._url, **tables)

    def once(self) -> dict[str, int]:
        """Deliver what there is."""
        (self.product.folder / f"{ONCE}.log").unlink(missing_ok=True)
        self.product.start(ONCE)
        assert self.product.processes.pop(ONCE).wait(60) is not None
        (summary,) = [e for e in self.product.events(ONCE) if "accounts" in e]
        return summary

    def delivered(self) -> dict[str, list[bytes]]:
        """Return what lies in the Maildirs, by the path of each."""
        found: dict[str, list[bytes]] = {}
        for file in self.mail.parent.rglob("new/*"):
            where = str(file.parent.parent.relative_to(self.mail.parent))
            found.setdefault(where, []).append(file.read_bytes())
        return found


@pytest.fixture(params=["embedded", "rabbitmq"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Site]:
    from shared.broker.embedded.steward import EmbeddedSteward
    from shared.broker.steward.steward import KombuSteward

    config, data = tmp_path / "connector.toml", tmp_path / "data"
    if request.param == "embedded":
        file = data / "queue.db"
        office = Office(
            config,
            data,
            capfd,
            lambda: EmbeddedBroker(file, tiers=TIERS, name="test"),
            lambda: EmbeddedSteward(file, TIERS),
        )
        yield Site(tmp_path, None, office)
        return
    server = shared_rabbitmq()
    vhost = server.vhost()
    url = server.url(vhost)
    office = Office(
        config,
        data,
        capfd,
        lambda: RabbitBroker(url, sender="postmaster", name="t@t", tiers=TIERS, version="0"),
        lambda: KombuSteward(url, TIERS),
    )
    yield Site(tmp_path, url, office)
    server.drop_vhost(vhost)


def test_a_mailbox_that_was_wrong_and_is_right_now(site: Site) -> None:
    site.configure(mailbox="right@corp.example")
    site.office("topology", "declare")
    site.office.put("a1")
    site.office.put("b2", payload=addressed(site.office.spooled(id_of("b2"), RAW * 3)))
    assert site.once()["delivered"] == 0
    assert site.office("failed", "requeue", "--reason", "no such user").out == "requeued: 2\n"

    assert site.once()["delivered"] == 2

    (where, messages) = site.delivered().popitem()
    assert where == "mail/right@corp.example"
    assert sorted(map(below_prefix, messages), key=len) == [lf(RAW), lf(RAW * 3)]
    assert not any(b"info@corp.example" in m.partition(b"From: ")[0] for m in messages)
    assert site.office("failed", "list", "--json").json == []


def test_a_destination_that_was_wrong_and_is_right_now(site: Site) -> None:
    site.configure(destination="archive")
    site.office("topology", "declare")
    site.office.put("a1")
    site.office("failed", "requeue", "a1")

    site.once()

    assert list(site.delivered()) == ["mail/archive/sales@corp.example"]


def test_to_a_mailbox_and_a_destination_that_the_operator_names(site: Site) -> None:
    site.configure()
    site.office("topology", "declare")
    for id_, queue in (("a1", "pickup.failed"), ("b2", "quarantine"), ("c3", "parsed.failed")):
        site.office.put(id_, queue=queue, payload=fetched() if queue == "quarantine" else None)
    to = ("--recipient", "eve@corp.example")
    assert site.office("failed", "requeue", "a1", *to).status == 0
    assert site.office("failed", "requeue", "c3", *to, "--destination", "archive").status == 0
    assert site.office("quarantine", "release", "b2", *to).status == 0

    site.once()

    assert {where: len(found) for where, found in site.delivered().items()} == {
        "mail/eve@corp.example": 2,
        "mail/archive/eve@corp.example": 1,
    }


def test_who_has_it_already_does_not_get_it_twice(site: Site) -> None:
    site.configure()
    site.office("topology", "declare")
    site.once()  # makes the database
    asyncio.run(
        _record(site.product.folder / "data" / "state.db", id_of("a1"), "sales@corp.example")
    )
    site.office.put("a1")
    site.office("failed", "requeue", "a1")

    summary = site.once()

    assert (summary["delivered"], summary["suppressed"]) == (0, 1)
    assert site.delivered() == {}


async def _record(file: Path, id_: str, recipient: str) -> None:
    state = await State.open(f"sqlite:///{file}", owner=new_owner())
    delivery = DeliveryKey(id_, "default")
    assert await state.claim([delivery])
    await state.finish([Finished(delivery, {recipient: "250 ok"})])
    await state.close()


def test_what_the_parser_takes_for_corrupt_is_delivered_when_it_is_released(site: Site) -> None:
    site.configure()
    site.office("topology", "declare")
    site.office.put("a1", queue="incoming", payload=fetched(b"a scanner sent this\r\n"))
    assert site.once()["quarantined"] == 1
    assert site.office("quarantine", "release", "--all").out == "released: 1\n"

    assert site.once()["delivered"] == 1

    ((message,),) = site.delivered().values()
    assert b"a scanner sent this\n" in message


def test_a_loop_that_was_mended_is_one_no_longer(site: Site) -> None:
    site.configure()
    site.office("topology", "declare")
    ours = b"X-POP3-Connector-For: sales@corp.example\r\nX-POP3-Connector-Account: sales\r\n"
    site.office.put("a1", queue="incoming", payload=fetched(ours + RAW))
    assert site.once()["failed"] == 1
    assert site.office("failed", "requeue", "--reason", "loop").out == "requeued: 1\n"

    assert site.once()["delivered"] == 1

    assert list(site.delivered()) == ["mail/sales@corp.example"]


def test_what_fails_again_shows_its_whole_past(site: Site) -> None:
    site.configure()
    site.office("topology", "declare")
    looping = b"Received: from a by b; date\r\n" * 60 + RAW
    site.office.put("a1", payload=fetched(looping), queue="incoming.failed")
    site.office("failed", "requeue", "a1")

    site.once()

    (kept,) = site.office("failed", "list", "--json").json
    assert (kept["queue"], kept["attempts"]) == ("parsed.failed", 4)
    assert kept["first-failure"] == "2023-11-14T22:13:30+00:00"
    shown = site.office("failed", "show", id_of("a1")).out
    assert "550 5.1.1 no such user" in shown
    assert "passed:         requeue at " in shown
