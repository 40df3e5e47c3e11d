"""Reads the header block of a message: what later stages need of it, and whether it is corrupt.

Corrupt is what no destination could take: nothing at all, no header, a header without end, NUL in
the header. Everything else goes on, however odd: it is not for us to improve other people's mail.
The raw message is passed on untouched, and the body is not looked at. Nothing raises.
"""

from __future__ import annotations

from dataclasses import replace

from services.parser.header import (
    Fields,
    address,
    fields,
    has_field,
    header_block,
    reverse_path,
    text,
)
from services.parser.summary import summary
from shared.message import Envelope, Fetched, Parsed, Raw
from shared.outcome import Forward, Outcome, Quarantine


def parse(envelope: Envelope[Fetched]) -> Outcome:
    """Return Forward of the message as ``Parsed``, or Quarantine with the reason."""
    fetched = envelope.payload
    head = fetched.raw.head
    block = header_block(head)
    found = fields(head if block is None else block)
    fault = _fault(fetched.raw, head, block)
    if fault is not None and not fetched.released:
        return Quarantine(fault, replace(fetched, summary=summary(found)))
    return Forward.to(_parsed(fetched, found))


def _parsed(fetched: Fetched, found: Fields) -> Parsed:
    paths = found[b"return-path"]
    return Parsed(
        fetched.raw,
        fetched.uidl,
        fetched.server,
        summary(found),
        reverse_path(paths[0]) if paths else None,
        tuple(map(address, found[b"delivered-to"])),
        len(found[b"received"]),
        tuple(map(text, found[b"x-pop3-connector-account"])),
    )


def _fault(raw: Raw, head: bytes, block: bytes | None) -> str | None:
    """Return why the message is corrupt, as a sentence, or None if it is not."""
    if raw.size == len(head) and not head.strip():
        return f"The message is empty: its {raw.size} bytes hold nothing but blank lines."
    if block is None and raw.size > len(head):
        return (
            f"The header block is over the limit: no blank line in the first {len(head)} bytes"
            f" of {raw.size}."
        )
    lines = head if block is None else block
    if block == b"":
        return "There is no header block: the first line is blank."
    if not has_field(lines):
        count = lines.count(b"\n") + (not lines.endswith(b"\n"))
        return f"There is no header block: no header field in the first {count} line(s)."
    if b"\0" in lines:
        count, first = lines.count(b"\0"), lines.index(b"\0")
        return f"The header block holds {count} NUL byte(s), the first at offset {first}."
    return None
