"""A disk fills up: with mail that cannot be delivered, or with somebody else's files.

Queues, ledger and spool lie on it. Nobody makes room: what was fetched is delivered all the same,
and then the rest is fetched.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.forked import ForkedConnector
from tests.flow.plant import Plant
from tests.servers.disk import Disk, memory_disk
from tests.servers.dovecot import Dovecot

NAME = "sales"


@pytest.fixture
def plant(tmp_path: Path, product: ForkedConnector, provider: Dovecot) -> Plant:
    return Plant(product, provider, tmp_path / "mail", None)


@pytest.fixture
def disk(plant: Plant) -> Iterator[Disk]:
    with memory_disk(plant.data, "24m") as mounted:
        yield mounted


def configure(plant: Plant, inline_limit: str) -> None:
    """Write the configuration; the destination is away: there is a file in place of its folder."""
    plant.product.configure(
        [plant.account(NAME)],
        f"maildir://{plant.mail}/{{local}}",
        None,
        retry={"tiers": ["1s"]},
        spool={"inline_limit": inline_limit},
    )
    plant.mail.touch()


def said(plant: Plant, text: str) -> bool:
    """Return whether the log has this text."""
    return text in (plant.product.folder / "run.log").read_text()


def delivered(plant: Plant) -> int:
    """Return how many messages have arrived."""
    return len(list(plant.stored()))


def finish(plant: Plant) -> None:
    """Let all come to its end; it must have come once."""
    expected = len(plant.audit.accepted)
    plant.product.wait(lambda: delivered(plant) >= expected and not plant.queued(), "all mail")
    assert plant.undisturbed(), plant.product.tail()
    assert plant.product.stop("run") == 0
    assert plant.tally() == plant.right()


@pytest.mark.parametrize("inline_limit", ["64KiB", "4KiB"], ids=["queue", "spool"])
def test_mail_that_cannot_be_delivered_stays_at_the_provider_where_room_ends(
    plant: Plant, disk: Disk, inline_limit: str
) -> None:
    configure(plant, inline_limit)
    messages = [m.ljust(60_000, b"x") + b"\r\n" for m in sample_messages(600, 7, max_size=10_000)]
    plant.hand_in(NAME, messages)
    plant.run("run")
    plant.product.wait(
        lambda: said(plant, "disk space is low: fetching is paused"), "a word about it"
    )
    plant.product.wait(lambda: said(plant, "account failed"), "the end of the poll")
    assert plant.provider.files(NAME)
    plant.mail.unlink()
    finish(plant)


def test_what_is_queued_is_delivered_on_a_disk_that_somebody_else_has_filled(
    plant: Plant, disk: Disk
) -> None:
    configure(plant, "64KiB")
    plant.hand_in(NAME, sample_messages(200, 8, max_size=60_000))
    plant.run("run")
    plant.product.wait(lambda: not plant.provider.files(NAME), "an empty maildrop")
    plant.product.wait((plant.data / "reserve").exists, "a reserve")
    disk.fill()
    plant.product.wait(lambda: said(plant, "the reserve was released"), "a word about it")
    plant.mail.unlink()
    plant.product.wait(lambda: delivered(plant) == 200 and not plant.queued(), "all mail")
    late = sample_messages(20, 9, max_size=60_000)
    plant.hand_in(NAME, late)
    disk.free()
    finish(plant)


def test_a_disk_without_inodes_is_no_failure_of_an_account(plant: Plant) -> None:
    """There is room for bytes, and for no more files: mail stays at the provider."""
    with memory_disk(plant.data, "64m", files=1_000):
        configure(plant, "1KiB")
        plant.hand_in(NAME, [m.ljust(1_500, b"x") + b"\r\n" for m in sample_messages(900, 10)])
        plant.run("run")
        plant.product.wait(
            lambda: said(plant, "disk space is low: fetching is paused"), "a word about it"
        )
        plant.product.wait(lambda: said(plant, "account failed"), "the end of the poll")
        (account,) = plant.product.json("accounts")
        assert (account["status"] in ("ok", "polling"), account["failures"]) == (True, 0)
        assert f"{plant.data} has room for" in account["left_undone"][0]
        assert "inodes" in account["left_undone"][0]
        assert plant.provider.files(NAME)
        plant.mail.unlink()
        finish(plant)
