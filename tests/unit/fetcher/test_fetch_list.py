"""Messages to be fetched, and what is kept of each of them while there are very many."""

import io
import tracemalloc
from collections.abc import Callable

import pytest

from services.fetcher.compare import Comparison
from services.fetcher.refused_messages import RefusedMessages
from services.fetcher.troubles import Troubles
from services.fetcher.worklist import FetchList, ListedMessage, PendingMessages, Worklist
from shared.ledger import Known, MessageTrouble
from shared.log import MailLog
from shared.log_lines import LogLines

COUNT = 50_000
SOME = [
    ListedMessage(7, "sieben"),
    ListedMessage(2, None, 20),
    ListedMessage(1, "ÿ", 0),
    ListedMessage(9, None),
]


def taken(work: Callable[[], object]) -> float:
    """Return how many bytes of memory the work takes at its peak, for each of COUNT messages."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / COUNT
    finally:
        tracemalloc.stop()


def test_messages_come_out_as_they_went_in() -> None:
    messages = FetchList.of(SOME)
    assert list(messages) == SOME
    assert len(messages) == 4
    assert messages.at(2) == SOME[2]
    assert list(messages.numbers) == [7, 2, 1, 9]
    sized = messages.with_sizes({7: 5, 1: 6})
    assert list(sized) == [
        ListedMessage(7, "sieben", 5),
        ListedMessage(2, None),
        ListedMessage(1, "ÿ", 6),
        SOME[3],
    ]


def test_messages_are_found_by_their_keys() -> None:
    messages = FetchList.of(SOME)
    assert messages.indexes([m.key for m in SOME]) == {m.key: n for n, m in enumerate(SOME)}
    assert messages.indexes(["sieben", " 2 21", "other", " 3 None"]) == {"sieben": 0}
    assert FetchList().indexes(["a", " 1 2"]) == {}


def test_what_waits_is_taken_in_the_order_in_which_it_came() -> None:
    waiting = PendingMessages()
    with pytest.raises(IndexError):
        waiting.take()
    waiting.extend(SOME[:2])
    waiting.extend(SOME[2:3])
    assert (waiting.first, waiting.take()) == (SOME[0], SOME[0])
    waiting.extend(SOME[3:])
    assert [waiting.take() for _ in range(3)] == SOME[1:]
    assert not waiting


@pytest.mark.parametrize("known", [False, True])
def test_of_a_message_to_be_fetched_little_is_kept(*, known: bool) -> None:
    """A million of which the ledger knows other sizes took 350 MB, without UIDLs 600 MB."""
    uidls = {f"{n:016x}": n for n in range(1, COUNT + 1)} if known else {}
    known_ones = [(uidl, Known(f"{n:032x}", 0.0, 10)) for uidl, n in uidls.items()]
    pages = [dict(known_ones[n : n + 1_000]) for n in range(0, len(known_ones), 1_000)]
    sizes = dict.fromkeys(range(1, COUNT + 1), 11)
    work: list[Worklist] = []

    def compare() -> None:
        comparison = Comparison(uidls, COUNT, 0.0, 1.0, sizes)
        for page in pages:
            comparison.take(page)
        work.extend(filter(None, comparison.worklist()))

    # A slice of 20,000 is looked at at a time.
    assert taken(compare) < (120 if known else 50)
    assert len(work[0].fetch) == COUNT
    assert work[0].changed.was(5, f"{5:032x}") is known
    assert work[0].unnamed == (0 if known else COUNT)


@pytest.mark.parametrize("named", [True, False])
def test_of_a_message_that_is_refused_little_is_kept(*, named: bool) -> None:
    """A million of them took 350 bytes each, and an entry in the table of troubles."""
    known = {" 7 None": MessageTrouble(" 7 None", 7, 1, 0.0, "")}
    troubles = Troubles(known, 1.0)
    log = MailLog("fetcher", lines=LogLines(io.StringIO()))
    uidls = [f"{n:016x}" if named else None for n in range(COUNT)]

    def refuse() -> None:
        refusals = RefusedMessages("sales", "pop.example:110", troubles, log)
        refusals.all = False
        for number, uidl in enumerate(uidls):
            refusals.add(ListedMessage(number, uidl), "not this one")
        assert refusals.judge(None) is None

    assert taken(refuse) < (130 if named else 20)
    assert troubles.sentences()[0].startswith(f"{COUNT + named} messages cannot be fetched")
    assert len(troubles.to_record()) == 200
    last = ListedMessage(COUNT - 1, uidls[-1])
    assert (last not in troubles.in_order(FetchList.of([last]))) is named
