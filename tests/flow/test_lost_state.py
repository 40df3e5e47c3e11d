"""A state database that is new, or an earlier one: nothing comes again before it is said so."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.disk.replaced_file import beside
from tests.corpus.messages import sample_messages
from tests.flow.audit import Tally
from tests.flow.lost_state import lose, ready, said, standing, state_file
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import free_port

USERS = (
    "lost",
    "lost-too",
    "earlier-too",
    "hour",
    "hour-too",
    "behind",
    "mixed",
    "earlier",
    "moved",
    "running",
    "upgraded",
    "chosen",
    "undecided",
    "chosen-off",
    "undecided-off",
    "unread",
)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(USERS, "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


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
    assert "the state database is new, and the queues were filled" in str(found["held"])
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


def test_mail_of_other_accounts_in_a_maildir_is_none_of_ours(place: Place) -> None:
    place.put("mixed", sample_messages(2, seed=6))
    place.configure(place.account("mixed", keep="forever"))
    assert place.once()[1]["delivered"] == 2
    shutil.rmtree(place.product.folder / "data")
    place.configure(place.account("mixed", keep="forever", name="another"))
    status, summary = place.once()
    assert (status, summary["fetched"]) == (0, 2)


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
    assert said(place, "no mark of the state database can be read")


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
