"""What becomes of accounts that were held, and of what waits, once the operator has chosen.

What lies at the server counts as delivered, or comes again; what was lost with the queues comes
when that is asked for.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.forked import ForkedConnector
from tests.flow.lost_state import ended, lose, said, standing, state_file
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.pop3 import Pop3Server, Say

USERS = (
    "lost",
    "waiting",
    "queue",
    "blobs",
    "left",
    "later",
    "latest",
    "known",
    "unknown",
)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(USERS, "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


def test_an_account_that_was_not_configured_when_the_state_was_lost_is_held_later(
    place: Place,
) -> None:
    """Beside one that is held, and after all those were chosen for; until it is for all."""
    for user in ("left", "later", "latest"):
        place.put(user, sample_messages(3, seed=20))
    left, later, latest = (
        place.account(user, keep="forever") for user in ("left", "later", "latest")
    )
    place.configure(left, later)
    assert place.once()[1]["delivered"] == 6
    lose(state_file(place.product))
    place.configure(left)
    assert place.once()[1]["accounts_failed"] == 1
    place.configure(left, later)
    status, summary = place.once()
    assert (status, summary["fetched"], summary["accounts_failed"]) == (1, 0, 2)
    assert place.product.cli("account", "adopt", "left").returncode == 0
    status, summary = place.once()
    assert (status, summary["fetched"], summary["accounts_failed"]) == (1, 0, 1)
    assert place.product.cli("account", "adopt", "later").returncode == 0
    assert place.once()[0] == 0

    place.configure(left, later, latest)
    status, summary = place.once()
    assert (status, summary["fetched"]) == (1, 0), "nobody knows that it is new"
    assert standing(place, "latest")["status"] == "held"
    assert len(said(place, "accounts are held")) == 1
    assert place.product.cli("account", "fetch-again", "--all", "--undelivered").returncode == 0
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 3)
    assert place.all_well()


def test_after_a_choice_for_all_an_account_that_is_new_is_polled(place: Place) -> None:
    place.put("known", sample_messages(1, seed=22))
    place.configure(place.account("known", keep="forever"))
    assert place.once()[1]["fetched"] == 1
    lose(state_file(place.product))
    assert place.once()[1]["accounts_failed"] == 1
    assert place.product.cli("account", "adopt", "--all").returncode == 0
    assert place.once()[0] == 0
    place.put("unknown", sample_messages(2, seed=23))
    place.configure(
        place.account("known", keep="forever"), place.account("unknown", keep="forever")
    )
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 2)


def test_what_was_lost_with_the_queues_is_fetched_again(place: Place) -> None:
    """Not what was delivered; and not before it is asked for."""
    first, lost = sample_messages(3, seed=7), sample_messages(10, seed=8)
    place.put("queue", first)
    account = place.account("queue", keep="forever")
    place.configure(account)
    assert place.once()[1]["delivered"] == 3
    place.put("queue", lost)
    place.product.start("fetcher")
    place.product.wait(lambda: place.product.count("fetcher", "fetched") == 10, "all fetched")
    assert place.product.stop("fetcher") == 0
    lose(place.product.queue_file)
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 0)
    assert said(place, "the queues are new, and the state database is not")
    assert place.product.cli("account", "fetch-again", "queue", "--undelivered").returncode == 0
    status, summary = place.once()
    assert (status, summary["fetched"], summary["delivered"]) == (0, 10, 10)
    assert place.all_well()
    assert not said(place, "the queues are new")


def test_all_comes_again_when_that_is_asked_for(place: Place) -> None:
    place.put("blobs", sample_messages(5, seed=9))
    place.configure(place.account("blobs", keep="forever"))
    assert place.once()[1]["delivered"] == 5
    for file in place.mail.glob("*/new/*"):
        file.unlink()
    done = place.product.cli("account", "fetch-again", "blobs")
    assert done.returncode == 1, "nobody has said yes"
    assert place.once()[1]["fetched"] == 0
    assert place.product.cli("account", "fetch-again", "blobs", "--yes").returncode == 0
    assert place.once()[1]["delivered"] == 5
    assert place.all_well()


@pytest.mark.parametrize("choice", [["adopt", "--yes"], ["fetch-again", "--undelivered"]])
def test_what_waits_in_the_queues_is_delivered_once_the_operator_has_chosen(
    place: Place, broker: str | None, choice: list[str]
) -> None:
    place.put("waiting", sample_messages(4, seed=sum(map(ord, f"{broker}{choice}"))))
    place.configure(place.account("waiting"), url=broker)
    place.product.cli("topology", "declare")
    place.product.start("fetcher")
    place.product.wait(lambda: place.product.count("fetcher", "fetched") == 4, "all fetched")
    assert place.product.stop("fetcher") == 0
    lose(state_file(place.product))
    status, summary = place.once()
    assert (status, summary["fetched"], summary["delivered"]) == (1, 0, 0)
    assert len(said(place, "nothing is taken from the queues: they were filled with another")) == 1
    place.product.start("run")
    place.product.wait(lambda: len(said(place, "nothing is taken", "run")) == 1, "it is said")
    assert place.stored() == []
    assert place.product.cli("account", *choice, "--all").returncode == 0
    place.product.wait(lambda: place.product.count("run", "delivered") == 4, "all mail")
    assert place.product.stop("run") == 0
    assert len(said(place, "the queues are ours", "run")) == 1
    assert place.all_well()
    assert place.once()[0] == 0


@pytest.mark.parametrize("uidls", [None, ("a", "b", "c")])
async def test_what_lies_at_a_server_is_adopted_with_uidls_and_without(
    product: ForkedConnector, tmp_path: Path, uidls: tuple[str, ...] | None
) -> None:
    """Also before anything was ever fetched, and through a session that breaks."""
    messages = [b"Subject: %d\r\n\r\nbody\r\n" % n for n in range(3)]
    server = Pop3Server(messages, uidls)
    account = {
        "name": "one",
        "host": server.host,
        "tls": "none",
        "username": "x",
        "password": "secret",
        "mailbox": "x@corp.example",
    }
    async with server.serving():
        product.configure(
            [{**account, "port": server.port}], f"maildir://{tmp_path}/mail/{{local}}"
        )
        assert await ended(product, "account", "adopt", "one") == 0
        assert await ended(product, "run", "--once") == 0
        assert list(tmp_path.glob("mail/*/new/*")) == []
        server.messages = [*messages, b"Subject: new\r\n\r\nbody\r\n"]
        server.uidls = None if uidls is None else [*uidls, "d"]
        assert await ended(product, "run", "--once") == 0
        (file,) = tmp_path.glob("mail/*/new/*")
        assert b"Subject: new" in file.read_bytes()


REFUSED = Say(b"-ERR busy\r\n")
CUT = Say(b"+OK\r\nSubj", "drop")


@pytest.mark.parametrize("keep", ["forever", "delete"])
@pytest.mark.parametrize("says", [REFUSED, CUT], ids=["refused", "cut"])
async def test_what_could_not_be_read_while_it_was_adopted_is_not_delivered_later(
    product: ForkedConnector, tmp_path: Path, keep: str, says: Say
) -> None:
    """Also when those before it were deleted, so that it has another number."""
    messages = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in range(4)]
    server = Pop3Server(messages, None, says={"RETR 3": says})
    account = {
        "name": "one",
        "host": server.host,
        "tls": "none",
        "username": "x",
        "password": "secret",
        "mailbox": "x@corp.example",
        "keep": keep,
    }
    async with server.serving():
        product.configure(
            [{**account, "port": server.port}], f"maildir://{tmp_path}/mail/{{local}}"
        )
        assert await ended(product, "account", "adopt", "one", "--yes") == 0
        assert await ended(product, "run", "--once") == 0
        said = await asyncio.to_thread(product.json, "accounts", "one")
        assert "counts as delivered" in str(said[0]["left_undone"])
        server.says = {}
        left = [messages[2]] if keep == "delete" else messages
        server.messages = [*left, b"Subject: new\r\n\r\nbody\r\n"]
        assert await ended(product, "run", "--once") == 0
        (file,) = tmp_path.glob("mail/*/new/*")
        assert b"Subject: new" in file.read_bytes()
        said = await asyncio.to_thread(product.json, "accounts", "one")
        assert said[0]["status"] == "ok"
        assert "cannot be fetched" not in str(said[0]["left_undone"])


def test_accounts_are_named_as_they_are_configured(place: Place) -> None:
    place.configure(place.account("lost", keep="delete"))
    for words in (("adopt",), ("fetch-again", "--undelivered")):
        done = place.product.cli("account", *words, "nobody")
        assert (done.returncode, "there is no account nobody" in done.stderr) == (1, True)
        assert place.product.cli("account", *words).returncode == 2
        assert place.product.cli("account", *words, "lost", "--all").returncode == 2
    done = place.product.cli("account", "adopt", "lost")
    assert done.returncode == 1, "its mail would be deleted: nobody has said yes"
    assert "deleted at the server" in done.stderr
    done = place.product.cli("account", "adopt", "lost", "--yes")
    assert done.returncode == 0
