"""Envelopes of each kind, as they travel through the queues."""

from dataclasses import replace

from shared.message import (
    Addressed,
    Envelope,
    Fetched,
    Hop,
    Inline,
    Parsed,
    Payload,
    Poll,
    Spooled,
    Summary,
)

BEGAN = 1_795_377_600.0
ID = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
UIDL = "UID-1"
SERVER = "pop.provider.example:995"
HEAD = b"Subject: =?utf-8?q?R=C3=A9clamation?=\r\nFrom: evelyne@customer.example\r\n\r\n"
RAW = Inline(HEAD + b"8-bit: \xe9\x00\xff\r\n")
SUMMARY = Summary(
    "Évelyne <evelyne@customer.example>",
    "Réclamation nº 12",
    "<12@customer.example>",
    "Sun, 22 Nov 2026 20:00:00 +0000",
)
TRAIL = (
    Hop("fetcher", BEGAN + 0.5),
    Hop("parser", BEGAN + 1.0),
    Hop("rewriter", BEGAN + 1.25),
)

SPOOLED = Spooled("0f1e2d3c4b5a6978-1", 262_144, HEAD)

ENVELOPES: dict[str, Envelope[Payload]] = {
    "poll": Envelope("poll-sales", "sales", Poll("due"), BEGAN),
    "fetched": Envelope(
        ID, "sales", Fetched(RAW, UIDL, SERVER, SUMMARY), BEGAN + 0.5, trail=TRAIL[:1]
    ),
    "fetched, spooled": Envelope(
        ID,
        "sales",
        Fetched(SPOOLED, UIDL, SERVER, SUMMARY),
        BEGAN + 0.5,
        trail=TRAIL[:1],
    ),
    "parsed": Envelope(
        ID,
        "sales",
        Parsed(
            RAW,
            UIDL,
            SERVER,
            SUMMARY,
            "evelyne@customer.example",
            ("sales@example.net",),
            3,
            ("info",),
        ),
        BEGAN + 0.5,
        2,
        BEGAN + 5.0,
        TRAIL[:2],
    ),
    "parsed, little known": Envelope(
        ID,
        "sales",
        Parsed(RAW, UIDL, SERVER, Summary(), None, (), 0, ()),
        BEGAN + 0.5,
        trail=TRAIL[:2],
    ),
    "addressed": Envelope(
        ID,
        "sales",
        Addressed(
            RAW,
            UIDL,
            SERVER,
            SUMMARY,
            "evelyne@customer.example",
            ("sales@corp.example", "archive@corp.example"),
            "default",
            b"Received: by connector\r\n",
        ),
        BEGAN + 0.5,
        1,
        BEGAN + 2.0,
        TRAIL,
    ),
}
"""By name. The tests of upgrades keep what version 0.1.0 wrote for these: they must not change."""


def spooled(envelope: Envelope[Payload]) -> Envelope[Payload]:
    """Return an envelope with its message in the spool; a poll job has none."""
    payload = envelope.payload
    if isinstance(payload, Poll):
        return envelope
    return replace(envelope, payload=replace(payload, raw=SPOOLED))
