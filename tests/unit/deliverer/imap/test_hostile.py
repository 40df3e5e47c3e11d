"""Whatever a server answers, and wherever: each message has a result, or a reason, in time."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from services.deliverer.courier import CourierResult
from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.servers.imap import DROP, STORE, USUAL, imap_server
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, told
from tests.unit.deliverer.crowds import passing
from tests.unit.deliverer.imap.mailboxes import mail, mails, opened

ANSWERS = st.sampled_from(
    (
        *("OK", "OK [APPENDUID 1]", "OK [APPENDUID 1 99999999999:3] x", "NO", "BAD", "BAD ["),
        *("NO [TRYCREATE] x", "NO [LIMIT] x", "NO [UNAVAILABLE] x", "NO [OVERQUOTA] x", "MAYBE"),
        *("NO [TOOBIG] x", "NO [CANNOT] x", "NO [EXPIRED] x", "NO [ALREADYEXISTS] x", "+ go on"),
        *("* BYE", "* BYE [TOOBIG] x", "* OK [CAPABILITY IMAP4rev1]", "* CAPABILITY", "* SEARCH 7"),
        *("* SEARCH x -1 9999999999999", "* 1 FETCH (A {9})", "* NAMESPACE", "* LIST", "* LIST ("),
        *("* NAMESPACE ((NIL NIL)) x", '* LIST () NIL ""', '* NAMESPACE (("" "a")) NIL', "\0"),
        *(DROP, STORE),
    )
)
PLACES = st.sampled_from(
    (
        *("GREETING", "LOGIN", "ID", "ENABLE", "NAMESPACE", "LIST", "CREATE", "SUBSCRIBE"),
        *("EXAMINE", "SEARCH", "FETCH", "GO", "END", "SELECT", "STORE"),
    )
)
SCRIPTS = st.dictionaries(PLACES, st.lists(st.lists(ANSWERS, max_size=3).map(tuple), max_size=4))
OFFERS = st.sampled_from(
    (
        USUAL,
        USUAL + " UTF8=ACCEPT X-GM-EXT-1",
        "IMAP4rev1 LITERAL- NAMESPACE",
        "IMAP4rev1 AUTH=PLAIN",
    )
)


@given(SCRIPTS, OFFERS, st.sampled_from(("", "/Old/{local}", "/?labels=a&flags=seen")))
@settings(max_examples=50)
def test_a_hostile_server(script: dict[str, list[tuple[str, ...]]], offers: str, path: str) -> None:
    for result in asyncio.run(results_of(script, offers, path)):
        if isinstance(result, Exception):
            # PutAside is an exception of ours, too: it was not tried.
            assert isinstance(result, Unreachable) or type(result).__name__ == "PutAside", result
            assert str(result).isprintable()
        else:
            assert result
            assert all(each.reply.isprintable() for each in result.values())


async def results_of(
    script: dict[str, list[tuple[str, ...]]], offers: str, path: str
) -> list[CourierResult]:
    clock = ManualClock()
    async with imap_server(offers=offers) as server:
        for place, actions in script.items():
            server.answer(place, *[action or (STORE,) for action in actions])
        async with (
            asyncio.timeout(60),
            opened(server, path, clock, connections=2, patience=0.0005) as courier,
            passing(clock),
        ):
            posts = [*mails(3), mail(MESSAGE, ANNA, BERT, replay=True)]
            return await told(courier, posts)
