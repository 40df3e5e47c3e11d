"""A destination refuses connections for five days, which pass by a clock of ours in seconds.

Everything else is as it is for a user: the settings as they come, one process, a real provider, a
real mail server at an address where for so long nobody listens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from shared.queues import PICKUP, failed_queue, retry_queue
from shared.settings.model import RetrySettings
from tests.corpus.messages import sample_messages
from tests.flow.audit import Tally
from tests.flow.connector import below_prefix
from tests.flow.place import Place
from tests.flow.queues import steward
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.process import free_port

DAY = 86_400.0
MESSAGES = 12
WAITS = {retry_queue(PICKUP, tier): tier.seconds for tier in RetrySettings().tiers}
"""The retry queues of the deliverer, and how long messages stay in each."""


@pytest.fixture
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys(("sales", "fine"), "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


@dataclass(frozen=True)
class Round:
    """How the messages stood when none was in hand.

    Attributes:
        tries: how often each had been tried, by its id.
        waiting: the retry queues that had some.
    """

    tries: dict[str, int]
    waiting: frozenset[str]


def looked(place: Place) -> Round:
    tries, waiting = {}, set()
    with steward(place.product, None, RetrySettings().tiers) as looking:
        for queue in (*WAITS, failed_queue(PICKUP)):
            for kept in looking.browse(queue):
                tries[kept.message_id] = int(kept.headers["attempts"])
                waiting.add(queue)
    return Round(tries, frozenset(waiting & WAITS.keys()))


def rounds(place: Place) -> Iterator[Round]:
    """Yield how things stand after each try, and let pass what the longest retry queue waits."""
    now = Round({}, frozenset())
    while True:
        before = now

        def tried_again(before: Round = before) -> bool:
            nonlocal now
            now = looked(place)
            again = [id_ for id_ in now.tries if now.tries[id_] > before.tries.get(id_, 0)]
            return len(again) == MESSAGES

        place.product.wait(tried_again, "another try of every message")
        if not now.waiting:
            return
        yield now
        place.product.clock.advance(max(WAITS[queue] for queue in now.waiting))


def test_five_days_of_refused_connections(place: Place) -> None:
    product, port = place.product, free_port()
    place.configure(
        place.account("sales", destination="away"),
        place.account("fine"),
        url=None,
        **{"destinations.away": {"url": f"smtp://127.0.0.1:{port}?tls=none"}},
    )
    place.put("sales", sample_messages(MESSAGES, seed=1))
    product.start("run")
    passed, sound = 0.0, 0
    for stand in rounds(place):
        if passed >= sound * DAY:  # every day, mail for the sound destination is not held up
            sound += 1
            place.put("fine", sample_messages(1, seed=10 + sound, max_size=3_000))
            product.wait(lambda n=sound: len(place.stored()) == n, "mail to the sound destination")
        passed += max(WAITS[queue] for queue in stand.waiting)
        assert passed < 5.5 * DAY
    assert passed >= 5 * DAY
    in_failed_mail(place)
    count = len(place.audit.accepted)
    assert place.tally() == Tally(count, sound, lost=MESSAGES)

    product.clock.advance(DAY)
    with postfix(mailboxes=("sales",), port=port) as local:
        requeued_and_delivered(place, local)
        far = [("sales", below_prefix(path.read_bytes())) for path in local.maildir("sales")]
    tally = place.audit.tally([*place.stored(), *far])
    print(f"{passed / DAY:.2f} days", tally)
    assert tally == Tally(count, count)


def in_failed_mail(place: Place) -> None:
    """See that all of them are in Failed Mail, and why; most had not been tried at the last."""
    product = place.product
    kept = product.json("failed", "list")
    assert (product.count("run", "failed"), len(kept)) == (MESSAGES, MESSAGES)
    reasons = [message["reason"] for message in kept]
    assert [r for r in reasons if "no connection" not in r or "given up after 5" not in r] == []
    assert any(r.startswith("destination away is not tried for a while") for r in reasons)


def requeued_and_delivered(place: Place, local: Postfix) -> None:
    product = place.product
    assert product.json("failed", "requeue", "--all") == {"requeued": MESSAGES}
    product.wait(lambda: local.maildir("sales") != [], "the probe")
    product.wait(lambda: len(local.maildir("sales")) + len(looked(place).tries) >= MESSAGES, "all")
    product.clock.advance(max(WAITS.values()))  # for those that the probe has kept away
    product.wait(lambda: len(local.maildir("sales")) >= MESSAGES, "what was requeued")
    assert product.stop("run") == 0, product.tail()
    assert product.json("failed", "list") == []
