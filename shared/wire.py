"""Envelopes as bytes: msgpack with a schema version; types and sizes are checked on the way in.

The only module that knows msgpack. An envelope is an array::

    [schema, kind, id, account, first_seen, attempt, first_failure, trail, payload]

and a payload the array of its fields in the order of its dataclass, the raw message as ``bin``.
Fields are only ever added at the end, with a default, so that version n reads what n-1 wrote. The
first is ``requeue``, which is written only where there is one.

Encoded envelopes can be bundled: ``[2, [[id, envelope], ...]]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import msgpack

from shared.errors import NewerSchema, Undecodable
from shared.message import (
    Addressed,
    Envelope,
    Failure,
    Fetched,
    Hop,
    Inline,
    Parsed,
    Payload,
    Poll,
    Raw,
    Requeue,
    Spooled,
    Summary,
)

SCHEMA: Final = 1
BODY_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one encoded envelope; RabbitMQ 4.0 and later takes no more by default."""

ORDERED: Final = 3
"""The schema of a message that is not directed yet, and that an operator wants to go elsewhere than
its account's mail. Whoever does not know of that must not direct it; all else is as in schema 1."""

_BUNDLE: Final = 2
_MARK: Final = bytes((0x92, _BUNDLE))
"""How a bundle begins: an array of two, the first of which a program that knows no bundles takes
for a newer schema version. It leaves the bundle to others. (An envelope is an array of nine.)"""

_BUNDLES: Final = tuple(_MARK + bytes((first,)) for first in (*range(0x90, 0xA0), 0xDC, 0xDD))
"""The mark with the array of messages after it, as which msgpack has 18 first bytes."""

BUNDLED: Final = 16
"""Messages in a bundle, at the most."""

LONGEST_ID: Final = 255
"""Bytes of a message id that AMQP has room for; ours have 32, but for those of poll jobs."""

ADDED: Final[dict[type[Payload], tuple[object, ...]]] = {
    Fetched: (False,),
    Parsed: (0,),
    Addressed: (0,),
}
"""The fields that were added to payloads since the first version, by their defaults. They are
written only where one is anything else, so that an ordinary message is the same bytes for ever."""

_TIMES: Final = 250_000_000_000.0
"""Seconds since 1970 that a date can be made of, and a little less (the year 9892)."""

_T = TypeVar("_T", bound=Payload)
_BAD: Final = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)


def encode(envelope: Envelope[Payload]) -> bytes:
    """Return the envelope as bytes.

    Raises:
        ValueError: the result would be larger than a broker takes.
    """
    payload = envelope.payload
    kind, pack, _ = _FORMATS[type(payload)]
    parts: list[object] = [
        SCHEMA,
        kind,
        envelope.id,
        envelope.account,
        envelope.first_seen,
        envelope.attempt,
        envelope.first_failure,
        envelope.trail,
        pack(payload),
    ]
    if envelope.requeue is not None:
        parts.append(_pack_requeue(envelope.requeue))
        if _is_ordered(envelope.requeue, payload):
            parts[0] = ORDERED
    body: bytes = msgpack.packb(parts)
    if len(body) > BODY_LIMIT:
        raise ValueError(f"an envelope of {len(body)} bytes is over the limit of {BODY_LIMIT}")
    return body


class _Onward(bytes):
    """An envelope as bytes, and the envelope itself."""

    envelope: Envelope[Payload]


def onward(envelope: Envelope[Payload]) -> bytes:
    """Return the envelope as bytes of which ``decode`` need not make it anew.

    For what goes to the next stage: in one process it arrives as the very object that was sent. To
    decode it costs more than much that a stage does with it.

    Raises:
        ValueError: as ``encode`` does.
    """
    body = _Onward(encode(envelope))
    body.envelope = envelope
    return body


def made_here(body: bytes) -> bool:
    """Return whether these bytes are the very object that ``onward`` made, in this process."""
    return type(body) is _Onward


def decode(body: bytes, kind: type[_T]) -> Envelope[_T]:
    """Return the envelope in these bytes.

    Args:
        body: what a queue held.
        kind: the payload type that this queue carries.

    Raises:
        Undecodable: they are not an envelope of this kind, for a reason that the error states.
        NewerSchema: they were written by a newer version of this program.
    """
    if type(body) is _Onward and type(body.envelope.payload) is kind:
        return cast(Envelope[_T], body.envelope)
    if body.startswith(_BUNDLES) and unbundled(body) is None:
        raise Undecodable("a bundle of messages, and not one of ours: damaged, or of too many")
    if len(body) > BODY_LIMIT:
        raise Undecodable(f"{len(body)} bytes are more than an envelope may have")
    try:
        parts = msgpack.unpackb(
            body, max_bin_len=BODY_LIMIT, max_str_len=1 << 20, max_array_len=100_000, max_map_len=0
        )
    except (*_BAD, msgpack.exceptions.UnpackException) as error:
        raise Undecodable(f"not msgpack of ours: {error}") from error
    if not isinstance(parts, list) or not parts or type(parts[0]) is not int:
        raise Undecodable("not an envelope: no schema version in front")
    if parts[0] > SCHEMA and parts[0] != ORDERED:
        raise NewerSchema(parts[0], SCHEMA)
    try:
        return _envelope(parts, kind)
    except _BAD as error:
        raise Undecodable(f"a field of the envelope is wrong: {error}") from error


def bundle(messages: Sequence[tuple[str, bytes]]) -> bytes:
    """Return encoded envelopes, each with its message id, as one body."""
    return cast(bytes, msgpack.packb([_BUNDLE, messages]))


def unbundled(body: bytes) -> list[tuple[str, bytes]] | None:
    """Return the encoded envelopes in a bundle, each with its message id.

    Returns:
        None for what is no bundle, or one that none of ours is: damaged, of more messages, or with
        ids that no message has. It stays in one piece, for quarantine.
    """
    if not body.startswith(_MARK):
        return None
    try:
        # Told before anything is made of it: each message in there would be one in a queue.
        unpacked = msgpack.unpackb(
            body,
            max_bin_len=BODY_LIMIT,
            max_str_len=LONGEST_ID,
            max_array_len=BUNDLED,
            max_map_len=0,
        )
        _, messages = _list(unpacked)
        found = [(_str(id_), _bytes(envelope)) for id_, envelope in map(_list, _list(messages))]
    except (*_BAD, msgpack.exceptions.UnpackException):
        return None
    return found or None


def _envelope(parts: list[Any], kind: type[_T]) -> Envelope[_T]:
    _, found, id_, account, first_seen, attempt, first_failure, trail, payload = _first(9, parts)
    expected, _, unpack = _FORMATS[kind]
    if found != expected:
        raise ValueError(f"it holds {found!r}, this queue takes {expected!r}")
    return Envelope(
        _str(id_),
        _str(account),
        cast(_T, unpack(payload)),
        _float(first_seen),
        _int(attempt),
        None if first_failure is None else _float(first_failure),
        tuple([_hop(hop) for hop in _list(trail)]),
        _requeue(parts[9]) if len(parts) > 9 else None,
    )


def _is_ordered(requeue: Requeue, payload: Payload) -> bool:
    """Return whether an operator's word on where a message goes is still to be carried out."""
    return not isinstance(payload, Addressed) and bool(requeue.recipients or requeue.destination)


def _pack_requeue(r: Requeue) -> list[object]:
    return [r.recipients, r.destination, r.undelivered, r.failures]


def _requeue(value: object) -> Requeue | None:
    if value is None:
        return None
    recipients, destination, undelivered, failures = _first(4, value)
    return Requeue(
        _texts(recipients),
        _str(destination),
        _texts(undelivered),
        tuple([_failure(failure) for failure in _list(failures)]),
    )


def _failure(value: object) -> Failure:
    stage, reason, attempts, first, last = _first(5, value)
    return Failure(_str(stage), _str(reason), _int(attempts), _float(first), _float(last))


def _hop(value: object) -> Hop:
    stage, at = _first(2, value)
    return Hop(_str(stage), _float(at))


def _str(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{type(value).__name__} where text is expected")
    return value


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{type(value).__name__} where true or false is expected")
    return value


def _int(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{type(value).__name__} where an integer is expected")
    if value < 0:
        raise ValueError("a negative number where a count is expected")
    return value


def _float(value: object) -> float:
    if type(value) is not float and type(value) is not int:
        raise ValueError(f"{type(value).__name__} where a number is expected")
    if not -_TIMES < value < _TIMES:  # also true of NaN
        raise ValueError("a number that is no time")
    return float(value)


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise ValueError(f"{type(value).__name__} where bytes are expected")
    return value


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"{type(value).__name__} where a list is expected")
    return value


def _first(count: int, value: object) -> list[Any]:
    """Return so many fields; a newer version may have added others at the end."""
    if type(value) is not list:
        raise ValueError(f"{type(value).__name__} where a list is expected")
    return value if len(value) == count else value[:count]


def _added(fields: list[object], kind: type[Payload], *added: object) -> list[object]:
    """Return the fields of a payload with those that were added later, where they say anything."""
    return fields if added == ADDED[kind] else [*fields, *added]


def _with_defaults(least: int, kind: type[Payload], value: object) -> list[Any]:
    """Return the fields of a payload: those that were added later too, written or not."""
    defaults = ADDED[kind]
    if type(value) is list and len(value) == least:
        return [*value, *defaults]
    fields = _first(least + len(defaults), value)
    return [*fields, *defaults[len(fields) - least :]] if len(fields) > least else fields


def _texts(value: object) -> tuple[str, ...]:
    return tuple([_str(item) for item in _list(value)])


def _pack_raw(raw: Raw) -> bytes | list[object]:
    return raw.data if isinstance(raw, Inline) else [raw.key, raw.size, raw.head]


def _raw(value: Any) -> Raw:
    if type(value) is bytes:
        return Inline(value)
    key, size, head = _first(3, value)
    return Spooled(_str(key), _int(size), _bytes(head))


def _summary(value: Any) -> Summary:
    from_, subject, message_id, date = _first(4, value)
    return Summary(_str(from_), _str(subject), _str(message_id), _str(date))


def _pack_poll(p: Poll) -> list[object]:
    return [p.reason]


def _poll(value: Any) -> Poll:
    (reason,) = _first(1, value)
    return Poll(_str(reason))


def _pack_fetched(p: Fetched) -> list[object]:
    return _added([_pack_raw(p.raw), p.uidl, p.server, p.summary], Fetched, p.released)


def _fetched(value: Any) -> Fetched:
    raw, uidl, server, summary, released = _with_defaults(4, Fetched, value)
    return Fetched(_raw(raw), _str(uidl), _str(server), _summary(summary), _bool(released))


def _pack_parsed(p: Parsed) -> list[object]:
    fields: list[object] = [
        _pack_raw(p.raw),
        p.uidl,
        p.server,
        p.summary,
        p.return_path,
        p.delivered_to,
        p.received,
        p.passed,
    ]
    return _added(fields, Parsed, p.above)


def _parsed(value: Any) -> Parsed:
    raw, uidl, server, summary, return_path, delivered_to, received, passed, above = _with_defaults(
        8, Parsed, value
    )
    return Parsed(
        _raw(raw),
        _str(uidl),
        _str(server),
        _summary(summary),
        None if return_path is None else _str(return_path),
        _texts(delivered_to),
        _int(received),
        _texts(passed),
        None if above is None else _int(above),
    )


def _pack_addressed(p: Addressed) -> list[object]:
    fields: list[object] = [
        _pack_raw(p.raw),
        p.uidl,
        p.server,
        p.summary,
        p.sender,
        p.recipients,
        p.destination,
        p.prefix,
    ]
    return _added(fields, Addressed, p.skip)


def _addressed(value: Any) -> Addressed:
    raw, uidl, server, summary, sender, recipients, destination, prefix, skip = _with_defaults(
        8, Addressed, value
    )
    return Addressed(
        _raw(raw),
        _str(uidl),
        _str(server),
        _summary(summary),
        _str(sender),
        _texts(recipients),
        _str(destination),
        _bytes(prefix),
        _int(skip),
    )


_Format = tuple[str, Callable[[Any], object], Callable[[Any], Payload]]
_FORMATS: Final[dict[type, _Format]] = {
    Poll: ("poll", _pack_poll, _poll),
    Fetched: ("fetched", _pack_fetched, _fetched),
    Parsed: ("parsed", _pack_parsed, _parsed),
    Addressed: ("addressed", _pack_addressed, _addressed),
}
