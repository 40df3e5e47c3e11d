"""Whatever a mail server does at whatever step: each message is told of once, and as it was."""

import asyncio
import contextlib
from collections import Counter
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from services.deliverer.courier import CourierResult, DeliveryRequest, MailObject
from services.deliverer.destinations import courier_for
from tests.clock import ManualClock
from tests.servers.smtp import DROP, HANG, Action, SmtpServer, smtp_server
from tests.unit.deliverer.content import ANNA, SENDER, content

PATIENCE = 0.0003
"""So that a server that hangs for five minutes does so for a tenth of a second."""

ACTIONS = st.sampled_from(
    (
        DROP,
        HANG,
        ("421 4.3.2 going down", DROP),
        "451 4.3.0 not now",
        "451 4.7.1 Ratelimit exceeded",
        "550 5.7.1 never",
        "250 2.0.0 well",
        ("250 2.0.0 well", DROP),
        ("250 2.0.0 well", "421 4.4.2 enough", DROP),
    )
)
STEPS = st.sampled_from(("GREETING", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "END", "RSET"))
SCRIPTS = st.lists(st.tuples(STEPS, ACTIONS), max_size=8)


async def played(
    script: list[tuple[str, Action]], *, lmtp: bool, connections: int, most: int | None, cut: bool
) -> None:
    """Give a server two batches, one of which may be withdrawn; compare what was told with it."""
    clock, told = ManualClock(), [Counter[int](), Counter[int]()]
    results: list[dict[int, CourierResult]] = [{}, {}]
    async with smtp_server(lmtp=lmtp, most=most, beyond="421 4.7.0 too many") as server:
        for step, action in script:
            server.answer(step, action)
        courier = courier_for(
            "local",
            server.url + "?pipelining=full",
            clock=clock,
            connections=connections,
            patience=PATIENCE,
        )

        async def give(batch: int) -> None:
            def tell(place: int, delivered: CourierResult) -> None:
                told[batch][place] += 1
                results[batch][place] = delivered

            await courier.deliver(
                [DeliveryRequest(p, partial(tell, place)) for place, p in enumerate(posts(batch))]
            )

        giving = [asyncio.create_task(give(batch)) for batch in range(2)]
        async with asyncio.timeout(30):
            if cut:
                await asyncio.sleep(0.003)
                giving[0].cancel()
            while not all(task.done() for task in giving):
                await asyncio.sleep(0.002)
                await clock.advance(1.0)
        with contextlib.suppress(asyncio.CancelledError):
            await giving[0]
        await giving[1]
        await courier.close()
        assert told[1] == Counter(range(6))
        assert told[0] <= Counter(range(6))
        assert cut or told[0] == Counter(range(6))
        compared(server, results, cut=cut)


def posts(batch: int) -> list[MailObject]:
    texts = [b"Subject: %d-%d\r\n\r\nbody\r\n" % (batch, n) for n in range(6)]
    return [MailObject(content(text, id_=f"{n}"), SENDER, [ANNA]) for n, text in enumerate(texts)]


def compared(server: SmtpServer, results: list[dict[int, CourierResult]], *, cut: bool) -> None:
    """See that what was told delivered was, and that what was is told, but where that is open."""
    sent = [m for m in server.received if m.raw]  # DATA that was let through for nobody is empty
    taken = Counter(m.data.split(b"Subject: ")[1].split(b"\r\n")[0] for m in sent)
    for batch, found in enumerate(results):
        for place, delivered in found.items():
            times = taken[b"%d-%d" % (batch, place)]
            result = None if isinstance(delivered, Exception) else delivered[ANNA]
            if result is not None and result.verdict == "delivered":
                assert times >= 1
            elif result is None or not result.lost:
                accepted = [
                    m
                    for m in server.received
                    if m.accepted and b"Subject: %d-%d\r\n" % (batch, place) in m.data
                ]
                assert accepted == []


@settings(max_examples=120, deadline=None)
@given(
    script=SCRIPTS,
    lmtp=st.booleans(),
    connections=st.integers(1, 3),
    most=st.sampled_from((None, 1, 2)),
    cut=st.booleans(),
)
def test_each_message_is_told_of_once_whatever_a_server_does(
    script: list[tuple[str, Action]], lmtp: bool, connections: int, most: int | None, cut: bool
) -> None:
    asyncio.run(played(script, lmtp=lmtp, connections=connections, most=most, cut=cut))
