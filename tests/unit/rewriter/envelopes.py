"""Envelopes for the rewriter's tests, through the real parser."""

from services.parser.parse import parse
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed
from shared.outcome import Forward, Outcome

ID = "0123456789abcdef0123456789abcdef"
FIRST_SEEN = 1_700_000_000.0


def parsed(
    raw: bytes, account: str = "sales", uidl: str = "u1", server: str = "pop.example.net:995"
) -> Envelope[Parsed]:
    """Return the envelope that the rewriter is given for this message."""
    outcome = parse(Envelope(ID, account, Fetched(Inline(raw), uidl, server), FIRST_SEEN))
    assert isinstance(outcome, Forward), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, Parsed)
    return Envelope(ID, account, payload, FIRST_SEEN)


def addressed(outcome: Outcome) -> Addressed:
    """Return what a Forward of the rewriter's holds."""
    assert isinstance(outcome, Forward), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, Addressed)
    return payload


def arrives(outcome: Outcome) -> bytes:
    """Return the message as it arrives at a destination."""
    payload = addressed(outcome)
    assert isinstance(payload.raw, Inline)
    return payload.prefix + payload.raw.data[payload.skip :]
