"""A message that kills its process each time it is taken ends in quarantine, whole and alone."""

import signal

from shared.failpoint import VARIABLE
from shared.queues import QUARANTINE, Tier
from shared.trial.suspects import SUSPECT
from tests.corpus.messages import sample_messages
from tests.flow.audit import Tally
from tests.flow.connector import STAGES
from tests.flow.forked import ForkedConnector
from tests.flow.place import Place
from tests.flow.queues import steward
from tests.ids import identify

TIERS = (Tier("1s", 1.0),)
MESSAGES = 12
POISON = 4
"""The index of the message that kills."""


def test_what_kills_its_parser_ends_in_quarantine(place: Place, broker: str | None) -> None:
    product, messages = place.product, sample_messages(MESSAGES, seed=77)
    place.put("sales", messages)
    place.configure(place.account("sales"), url=broker, retry={"tiers": ["1s"]})
    assert product.cli("topology", "declare").returncode == 0
    poison = identify("sales", messages[POISON])
    victim = "run" if broker is None else "parser"
    if broker is not None:
        product.start(*(stage for stage in STAGES if stage != victim))
    deaths = lives(product, broker, victim, poison)

    product.wait(lambda: len(place.stored()) >= MESSAGES - 1, "the neighbours")
    quarantined = product.json("quarantine", "list")
    out = product.folder / "out.eml"
    exported = product.cli("quarantine", "export", poison, "-o", str(out))
    assert exported.returncode == 0, exported.stderr

    # The first life may be one without it, if the fetcher was slow.
    assert deaths >= SUSPECT
    # In one process with the parser, the fetcher dies before it knows that its message is queued,
    # and queues another copy: the broker makes one of them.
    assert [kept["id"] for kept in quarantined] == [poison]
    assert quarantined[0]["reason"] == (
        "it crashed its process 3 times, alone in it: signal 9 (SIGKILL)"
    )
    assert out.read_bytes() == messages[POISON]
    tally = place.audit.tally(place.stored(), quarantined=[("sales", out.read_bytes())])
    assert tally == Tally(MESSAGES, MESSAGES - 1, quarantined=1)


def lives(product: ForkedConnector, url: str | None, victim: str, poison: str) -> int:
    """Start the process again each time it is killed, until it lives on; return how often."""
    deaths = 0
    with steward(product, url, TIERS) as looking:
        while not looking.depths()[QUARANTINE]:
            product.start(victim, **{VARIABLE: f"{poison}.handled"})
            process = product.processes[victim]
            product.wait(
                lambda p=process: p.poll() is not None or bool(looking.depths()[QUARANTINE]),
                "another death",
            )
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL
                deaths += 1
    return deaths
