"""Reads the header block of a message: what later stages need of it, and whether it is corrupt.

Corrupt is what no destination takes: nothing at all, no header field anywhere, a header without
end. Everything else goes on, however odd: it is not for us to improve other people's mail. So does
what an operator has released, corrupt or not. The raw message is passed on untouched, and the body
is not looked at. Nothing raises.
"""

from __future__ import annotations

from dataclasses import replace

from services.parser.header import (
    Fields,
    address,
    fields,
    first_line,
    has_field,
    header_block,
    header_start,
    marked_before,
    text,
)
from services.parser.sender import reverse_path
from services.parser.summary import summary
from shared.message import Envelope, Fetched, Parsed, Raw
from shared.outcome import Forward, Outcome, Quarantine


def parse(envelope: Envelope[Fetched]) -> Outcome:
    """Return Forward of the message as ``Parsed``, or Quarantine with the reason."""
    fetched = envelope.payload
    head = fetched.raw.head
    above = header_start(head)
    start = first_line(head) if above is None else above
    block = header_block(head, start)
    lines = head[start:] if block is None else block
    found = fields(lines)
    fault = None if fetched.released else _fault(fetched.raw, lines, above, ended=block is not None)
    if fault is not None:
        return Quarantine(fault, replace(fetched, summary=summary(found)))
    return Forward.to(_parsed(fetched, above, lines, found))


def _parsed(fetched: Fetched, above: int | None, block: bytes, found: Fields) -> Parsed:
    shown = summary(found)
    if above is None:
        found = fields(b"")
    paths = found[b"return-path"]
    passed = tuple(map(text, found[b"x-pop3-connector-account"]))
    ours = found[b"x-pop3-connector-for"]
    return Parsed(
        fetched.raw,
        fetched.uidl,
        fetched.server,
        shown,
        reverse_path(paths[0]) if paths else None,
        tuple(map(address, [*ours, *marked_before(block)] if passed else ours)),
        len(found[b"received"]),
        passed,
        above,
    )


def _fault(raw: Raw, lines: bytes, above: int | None, *, ended: bool) -> str | None:
    """Return why the message is corrupt, as a sentence, or None if it is not.

    Args:
        raw: the message.
        lines: its header block, or what it has in the place of one.
        above: bytes above that; None where that is no header.
        ended: there is a blank line below it.
    """
    seen = len(raw.head)
    if raw.size == seen and not lines.strip():
        return f"The message is empty: its {raw.size} bytes hold nothing but blank lines."
    if not ended and raw.size > seen:
        return (
            f"The header block is over the limit: no blank line in the first {seen} bytes"
            f" of {raw.size}."
        )
    if above is None and not has_field(lines):
        count = lines.count(b"\n") + (not lines.endswith(b"\n"))
        return f"There is no header block: no header field in the first {count} line(s)."
    return None
