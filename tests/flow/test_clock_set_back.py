"""The clock of the machine is set back by an hour, and put right again: nothing waits for an hour.
Nor does anything where it is an hour apart from that of the database, whichever is ahead.

The processes are real, and so are the servers; only what the processes take for the wall clock is
ours. What waits longer than any of these tests has patience would be said to stall.
"""

import signal
from collections.abc import Iterator, Sequence

import pytest

from shared.failpoint import VARIABLE
from tests.corpus.messages import sample_messages
from tests.flow.audit import Tally
from tests.flow.connector import STAGES, below_prefix
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.postgresql import PostgresqlServer, postgresql

HOUR = 3600.0
USERS = ("sales", "later")
LATER = "later@corp.example"
"""Its mail is refused until somebody says otherwise."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(USERS, "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    with postfix(mailboxes=("later",)) as server:
        yield server


@pytest.fixture
def local(server: Postfix) -> Postfix:
    for path in server.maildir("later"):
        path.unlink()
    server.answers[LATER] = "451 4.7.1 not now"
    return server


@pytest.fixture
def place(place: Place, local: Postfix, broker: str | None) -> Place:
    """Two accounts that are polled every second, one for Maildirs and one for Postfix."""
    configure(place, local, broker)
    assert place.product.cli("topology", "declare").returncode == 0
    return place


def configure(
    place: Place, local: Postfix, broker: str | None, **tables: dict[str, object]
) -> None:
    place.configure(
        place.account("sales", poll_every="1s"),
        place.account("later", poll_every="1s", destination="postfix"),
        url=broker,
        retry={"tiers": ["2s"]},
        **{"destinations.postfix": {"url": local.url}},
        **tables,
    )


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresqlServer]:
    with postgresql() as server:
        yield server


def put(place: Place, seed: int, count: int = 20, users: Sequence[str] = USERS) -> None:
    for user in users:
        index = USERS.index(user)
        place.put(user, sample_messages(count, 10 * seed + index, max_size=20_000))


def tally(place: Place, local: Postfix) -> Tally:
    later = [("later", below_prefix(path.read_bytes())) for path in local.maildir("later")]
    return place.audit.tally([*place.stored(), *later])


def all_delivered(place: Place, local: Postfix) -> None:
    product = place.product

    def whole() -> bool:
        return tally(place, local).delivered == len(place.audit.accepted)

    product.wait(whole, "all mail")
    product.wait(
        lambda: not place.provider.files("sales") + place.provider.files("later"), "empty maildrops"
    )


def ended_well(place: Place, local: Postfix) -> None:
    """Stop everything: nothing can come any more, and nothing has come twice."""
    for name in STAGES:
        assert place.product.stop(name) == 0, place.product.tail()
    count = len(place.audit.accepted)
    assert tally(place, local) == Tally(count, count)


def test_what_is_underway_goes_on(place: Place, local: Postfix) -> None:
    """Polls, messages in hand, messages that wait out a retry tier."""
    product = place.product
    put(place, seed=1)
    product.start(*STAGES)
    product.wait(lambda: place.tally().delivered == 20, "mail")
    product.wait(lambda: product.count("deliverer", "retrying") >= 20, "refusals")
    put(place, seed=2, count=100)
    product.clock.set(-HOUR)
    put(place, seed=3)
    product.wait(lambda: place.tally().delivered == 140, "mail in spite of the clock")
    del local.answers[LATER]
    all_delivered(place, local)
    product.clock.set(0)
    put(place, seed=4)
    all_delivered(place, local)
    ended_well(place, local)


def test_who_died_before_it_holds_nothing_up(place: Place, local: Postfix) -> None:
    """A fetcher with an account, its mail not yet deleted, and a deliverer with messages claimed.

    All of that is written down for the hour to come. The deliverer dies of what goes to Maildirs:
    what SMTP has taken and nobody has recorded may come twice, as ``test_kill_points`` counts.
    """
    product = place.product
    del local.answers[LATER]
    put(place, seed=5, users=["sales"])
    product.start("parser", "rewriter")
    for name, at in (("fetcher", "after-ledger"), ("deliverer", "before-ledger#2")):
        product.start(name, **{VARIABLE: f"{name}.{at}"})
        victim = product.processes[name]
        product.wait(lambda v=victim: v.poll() is not None, f"the {name} to be killed")
        assert victim.returncode == -signal.SIGKILL
    product.clock.set(-HOUR)
    product.start("fetcher", "deliverer")
    put(place, seed=6)
    all_delivered(place, local)
    ended_well(place, local)


@pytest.mark.parametrize("broker", [None])
def test_the_clock_of_the_database_matters_to_nothing(
    place: Place, local: Postfix, broker: str | None, database: PostgresqlServer
) -> None:
    """It is an hour behind, then right, then ahead, with polls, retries and claims underway."""
    product = place.product
    configure(place, local, broker, state={"url": database.empty()})
    product.start(*STAGES)
    for step, now in enumerate((HOUR, 0.0, -HOUR)):
        put(place, seed=30 + step, count=50)
        product.clock.set(now)
        for round_ in range(2):  # what comes after a poll at this time is polled, too
            put(place, seed=40 + 2 * step + round_, count=10)
            product.wait(lambda: 2 * place.tally().delivered == len(place.audit.accepted), "mail")
    product.wait(lambda: product.count("deliverer", "retrying") >= 20, "refusals")
    del local.answers[LATER]
    all_delivered(place, local)
    ended_well(place, local)
