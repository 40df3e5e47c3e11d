"""A state database that is new, or an earlier one: nothing is delivered again before it is said so.

And the opposite: what was fetched and got lost with the queues comes again when that is asked for.
"""

import asyncio
import json
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.disk.replaced_file import beside
from tests.corpus.messages import sample_messages
from tests.flow.forked import ForkedConnector
from tests.flow.oracle import Tally
from tests.flow.place import ONCE, Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.pop3 import Pop3Server, Say
from tests.servers.process import free_port

USERS = (
    "lost",
    "lost-too",
    "earlier-too",
    "hour",
    "hour-too",
    "waiting",
    "behind",
    "mixed",
    "earlier",
    "moved",
    "queue",
    "running",
    "upgraded",
    "blobs",
    "left",
    "chosen",
    "undecided",
    "chosen-off",
    "undecided-off",
    "later",
    "latest",
    "known",
    "unknown",
    "unread",
)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(USERS, "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


def state_file(product: ForkedConnector) -> Path:
    return product.folder / "data" / "state.db"


def lose(file: Path) -> None:
    """Delete an SQLite file with all that lies beside it, as who means to begin anew."""
    for path in file.parent.glob(f"{file.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def standing(place: Place, name: str) -> dict[str, object]:
    done = place.product.cli("accounts", name, "--json")
    (found,) = json.loads(done.stdout)
    return dict(found)


def said(place: Place, what: str, process: str = ONCE) -> list[dict[str, object]]:
    return [e for e in place.product.events(process) if what in str(e.get("event"))]


def test_a_new_state_beside_queues_that_are_not_new_has_all_accounts_held(
    place: Place, broker: str | None
) -> None:
    user = "lost" if broker is None else "lost-too"
    messages = sample_messages(20, seed=1)
    place.put(user, messages)
    place.configure(place.account(user, keep="forever"), url=broker)
    assert place.once()[1]["delivered"] == 20
    assert not said(place, "held"), "a first installation is asked nothing"
    lose(state_file(place.product))

    for _ in range(2):  # however often it is begun
        status, summary = place.once()
        assert (status, summary["fetched"], summary["accounts_failed"]) == (1, 0, 1)
        assert len(said(place, "accounts are held")) == 1
        assert "account adopt" in str(said(place, "accounts are held")[0]["advice"])
    found = standing(place, user)
    assert found["status"] == "held"
    assert "the state database is new, and the queues are not" in str(found["held"])
    done = place.product.cli("accounts")
    assert (done.returncode, "1 held" in done.stderr) == (1, True)

    done = place.product.cli("account", "adopt", user)
    assert (done.returncode, done.stderr) == (0, "")
    assert standing(place, user)["status"] == "adopt"
    status, summary = place.once()
    assert (status, summary["fetched"], summary["suppressed"]) == (0, 0, 20)
    assert standing(place, user)["status"] == "ok"
    place.put(user, sample_messages(3, seed=2))
    assert place.once()[1]["fetched"] == 3, "what comes later is fetched"
    place.provider.renumber(user)
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 0), "what was adopted is known by its content"
    assert place.all_well()
    assert not said(place, "held")


def test_an_earlier_state_has_all_accounts_held(place: Place, broker: str | None) -> None:
    user = "earlier" if broker is None else "earlier-too"
    place.put(user, sample_messages(5, seed=3))
    place.configure(place.account(user, keep="forever"), url=broker)
    assert place.once()[1]["delivered"] == 5
    file = state_file(place.product)
    yesterday = shutil.copy(file, place.product.folder / "yesterday.db")
    place.put(user, sample_messages(4, seed=4))
    assert place.once()[1]["delivered"] == 4
    shutil.copy(yesterday, file)

    status, summary = place.once()
    assert (status, summary["fetched"]) == (1, 0)
    assert "an earlier one was put back" in str(standing(place, user)["held"])
    done = place.product.json("account", "fetch-again", "--all", "--undelivered")
    assert done == [{"account": user, "choice": "fetch the undelivered again"}]
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 4), "what the ledger does not know"
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 0)
    assert not said(place, "held"), "the marks follow the state that the operator took"


def test_a_copy_of_the_last_hour_is_told_from_the_state_that_ended_in_order(
    place: Place, broker: str | None
) -> None:
    user = "hour" if broker is None else "hour-too"
    place.put(user, sample_messages(3, seed=30))
    place.configure(place.account(user, keep="forever"), url=broker)
    place.product.start("run")
    place.product.wait(lambda: place.product.count("run", "delivered") == 3, "the first mail")
    file = state_file(place.product)
    copy = place.product.folder / "copy.db"
    with closing(sqlite3.connect(file)) as db, closing(sqlite3.connect(copy)) as to:
        db.backup(to)
    place.put(user, sample_messages(2, seed=31))
    place.product.wait(lambda: place.product.count("run", "delivered") == 5, "all mail")
    assert place.product.stop("run") == 0
    shutil.copy(copy, file)
    status, summary = place.once()
    assert (status, summary["fetched"]) == (1, 0)
    assert "an earlier one was put back" in str(standing(place, user)["held"])


@pytest.mark.parametrize("enabled", [True, False])
def test_an_earlier_state_is_noticed_while_an_account_is_held(place: Place, enabled: bool) -> None:
    """It was left held when the state had been lost before, be it disabled or not."""
    chosen, undecided = (f"{user}{'' if enabled else '-off'}" for user in ("chosen", "undecided"))
    for user in (chosen, undecided):
        place.put(user, sample_messages(3, seed=30))
    account = place.account(chosen, keep="forever")
    place.configure(account, place.account(undecided, keep="forever"))
    assert place.once()[1]["delivered"] == 6
    place.configure(account, place.account(undecided, keep="forever", enabled=enabled))
    file = state_file(place.product)
    lose(file)
    assert place.once()[0] == 1
    assert place.product.cli("account", "adopt", chosen).returncode == 0
    for _ in range(2):
        status, summary = place.once()
        assert (status, summary["fetched"]) == (1 if enabled else 0, 0)
        assert said(place, "accounts are held"), "also where it is disabled"
    assert standing(place, undecided)["status"] == ("held" if enabled else "disabled, held")
    yesterday = shutil.copy(file, place.product.folder / "yesterday.db")
    place.put(chosen, sample_messages(4, seed=31))
    assert place.once()[1]["delivered"] == 4
    shutil.copy(yesterday, file)

    status, summary = place.once()
    assert (status, summary["fetched"]) == (1, 0)
    assert "an earlier one was put back" in str(standing(place, chosen)["held"])
    assert place.all_well()


def test_a_data_dir_that_is_new_is_told_by_the_maildirs(place: Place) -> None:
    place.put("moved", sample_messages(5, seed=5))
    place.configure(place.account("moved", keep="forever"))
    assert place.once()[1]["delivered"] == 5
    (place.product.folder / "data").rename(place.product.folder / "elsewhere")
    status, summary = place.once()
    assert (status, summary["fetched"]) == (1, 0)
    assert f"there is {place.mail}/moved" in str(standing(place, "moved")["held"])
    assert place.product.cli("account", "adopt", "--all").returncode == 0
    status, summary = place.once()
    assert (status, summary["fetched"], summary["suppressed"]) == (0, 0, 5)
    assert place.all_well()


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


def test_mail_of_other_accounts_in_a_maildir_is_none_of_ours(place: Place) -> None:
    place.put("mixed", sample_messages(2, seed=6))
    place.configure(place.account("mixed", keep="forever"))
    assert place.once()[1]["delivered"] == 2
    shutil.rmtree(place.product.folder / "data")
    place.configure(place.account("mixed", keep="forever", name="another"))
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


def test_queues_whose_mark_cannot_be_read_are_not_called_new(place: Place) -> None:
    place.put("unread", sample_messages(2, seed=31))
    place.configure(place.account("unread", keep="forever"))
    assert place.once()[1]["delivered"] == 2
    mark = beside(place.product.queue_file)
    mark.unlink()
    mark.mkdir()
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 0)
    assert not said(place, "the queues are new")
    assert said(place, "no mark can be kept")


def test_all_comes_again_when_that_is_asked_for(place: Place) -> None:
    place.put("blobs", sample_messages(5, seed=9))
    place.configure(place.account("blobs", keep="forever"))
    assert place.once()[1]["delivered"] == 5
    for file in place.mail.glob("*/new/*"):
        file.unlink()
    done = place.product.cli("account", "fetch-again", "blobs")
    assert done.returncode == 130, "nobody has said yes"
    assert place.once()[1]["fetched"] == 0
    assert place.product.cli("account", "fetch-again", "blobs", "--yes").returncode == 0
    assert place.once()[1]["delivered"] == 5
    assert place.all_well()


def test_it_is_asked_and_chosen_while_processes_run(place: Place) -> None:
    place.put("running", sample_messages(5, seed=10))
    port = free_port()
    account = place.account("running", keep="forever")
    place.configure(account, monitor={"listen": f"127.0.0.1:{port}"})
    assert place.once()[1]["delivered"] == 5
    lose(state_file(place.product))
    place.product.start("run")
    place.product.wait(lambda: place.product.count("run", "accounts are held") == 1, "it is said")
    red = "nothing is taken from the queues: they were filled with another state database until "
    place.product.wait(lambda: ready(port).startswith(red), "it is said")
    place.put("running", sample_messages(1, seed=11))
    assert place.product.cli("account", "fetch-again", "running", "--undelivered").returncode == 0
    place.product.wait(lambda: place.product.count("run", "delivered") == 6, "all mail")
    place.product.wait(lambda: ready(port) == "ok\n", "it is ready")
    assert place.product.stop("run") == 0
    assert place.tally() == Tally(6, 6)
    assert place.once()[0] == 0


def ready(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return bytes(answer.read()).decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def test_an_installation_of_an_older_version_gets_marks_and_is_asked_nothing(place: Place) -> None:
    place.put("upgraded", sample_messages(2, seed=12))
    place.configure(place.account("upgraded", keep="forever"))
    assert place.once()[1]["delivered"] == 2
    with sqlite3.connect(state_file(place.product)) as db:
        db.execute("DELETE FROM installation")
    mark = place.product.queue_file.with_name("queue.db.mark")
    mark.unlink()
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 0)
    assert not said(place, "held")
    assert mark.exists()


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


def test_what_waits_is_delivered_beside_an_earlier_copy_of_its_own_state(place: Place) -> None:
    place.put("behind", sample_messages(1, seed=40))
    place.configure(place.account("behind"))
    assert place.once()[1]["delivered"] == 1
    file = state_file(place.product)
    yesterday = shutil.copy(file, place.product.folder / "yesterday.db")
    place.put("behind", sample_messages(3, seed=41))
    place.product.start("fetcher")
    place.product.wait(lambda: place.product.count("fetcher", "fetched") == 3, "all fetched")
    assert place.product.stop("fetcher") == 0
    shutil.copy(yesterday, file)
    status, summary = place.once()
    assert (status, summary["fetched"], summary["delivered"]) == (1, 0, 3)
    assert place.all_well()


async def ended(product: ForkedConnector, *words: str) -> int:
    """Run a command to its end beside this loop; return its exit status."""
    return (await asyncio.to_thread(product.cli, *words)).returncode


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
    assert done.returncode == 130, "its mail would be deleted: nobody has said yes"
    assert "deleted at the server" in done.stderr
    done = place.product.cli("account", "adopt", "lost", "--yes")
    assert done.returncode == 0
