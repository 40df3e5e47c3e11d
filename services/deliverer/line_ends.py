r"""Line ends and dots as each destination wants them.

SMTP and LMTP want CRLF alone and leading dots doubled (RFC 5321 sections 2.3.8 and 4.5.2), a PickUp
folder CRLF, a Maildir LF. On the way to the first three

- any number of CR before a LF, CR CR LF say, are one line end: to most servers the second CR is a
  line of its own, and the header ends there;
- a CR alone is a space in the header, where a line end would make fields of its own, behind the
  back of whatever filtered the message; in the body it is a line end, as is a LF alone.

All this happens *before* dots are doubled, so no line of a message can be taken for the end of
DATA, whatever a server holds to be a line end (SMTP smuggling: ``\n.\n``, ``\n.\r\n``, ``\r.\r``).
Messages come in chunks cut anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

from shared.message import HEADER_LIMIT

END_OF_DATA: Final = b".\r\n"

Edit: TypeAlias = Callable[[bytes], bytes]
"""Returns a header block, of lines that end in CRLF, as it is to be sent."""

_CRS_LF: Final = re.compile(rb"(?<!\r)\r++\n")
_HELD: Final = 64 * 1024
"""CR in a row that are waited for the LF of; more are a line end each, or a space."""


class InChunks(Protocol):
    """Converts one message, fed in chunks."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the next part of the converted message."""

    def end(self) -> bytes:
        """Return what is left."""


class Form(NamedTuple):
    """How messages lie in a store.

    Attributes:
        whole: converts a whole message.
        chunked: makes a converter of one message that comes in chunks.
    """

    whole: Callable[[bytes], bytes]
    chunked: Callable[[], InChunks]


def lf(data: bytes) -> bytes:
    """Return these bytes with every CRLF as LF; a CR without an LF stays what it is."""
    # One character is found much faster than two.
    unix = data.replace(b"\r", b"")
    return unix if unix.replace(b"\n", b"\r\n") == data else data.replace(b"\r\n", b"\n")


class Lf:
    """Makes every CRLF an LF."""

    def __init__(self) -> None:
        self._held = b""  # a CR at the end of a chunk: the next may begin with its LF

    def feed(self, chunk: bytes) -> bytes:
        """Return the next part of the converted message."""
        data = self._held + chunk
        self._held = b""
        if data.endswith(b"\r"):
            self._held, data = b"\r", data[:-1]
        return lf(data)

    def end(self) -> bytes:
        """Return what is left."""
        held, self._held = self._held, b""
        return held


def unchanged(header: bytes) -> bytes:
    """Return a header block as it is."""
    return header


def crlf(message: bytes, edit: Edit = unchanged) -> bytes:
    """Return a whole message with CRLF line ends alone: what ``Crlf`` does, in much less time."""
    data = message.replace(b"\r", b"").replace(b"\n", b"\r\n")
    if data != message:
        odd = Crlf(edit)
        return odd.feed(message) + odd.end()
    if edit is unchanged:
        return data
    blank = data.find(b"\r\n\r\n")
    header = data if blank < 0 else data[: blank + 2]
    edited = edit(header)
    return data if edited is header else edited + data[len(header) :]


class Crlf:
    """Makes every line end a CRLF; see this module's docstring.

    Args:
        edit: what is done to the header block, once that has come whole. A header without end is
            cut at twice ``HEADER_LIMIT``: there may be as much of ours above one that is that long.
    """

    def __init__(self, edit: Edit = unchanged) -> None:
        self._edit = edit
        self._header: bytearray | None = bytearray()  # with LF line ends; None below it
        self._held = b""  # CR at the end of a chunk: the next may begin with their LF

    def feed(self, chunk: bytes) -> bytes:
        """Return the next part of the converted message."""
        data = self._held + chunk
        rest = data.rstrip(b"\r")
        self._held = data[len(rest) :]
        if len(self._held) > _HELD:
            rest, self._held = data, b""
        return self._convert(rest)

    def end(self) -> bytes:
        """Return what is left."""
        held, self._held = self._held, b""
        data = self._convert(held)
        return data if self._header is None else data + self._end_header(len(self._header))

    def _convert(self, data: bytes) -> bytes:
        if self._header is None:
            return _body(data)
        searched = max(0, len(self._header) - 1)
        self._header += _CRS_LF.sub(b"\n", data)
        blank = self._header.find(b"\n\n", searched)
        if self._header.startswith(b"\n"):
            return self._end_header(0)
        if blank >= 0:
            return self._end_header(blank + 1)
        if len(self._header) > 2 * HEADER_LIMIT:
            return self._end_header(len(self._header))
        return b""

    def _end_header(self, end: int) -> bytes:
        text, self._header = bytes(self._header or b""), None
        header = text[:end].replace(b"\r", b" ").replace(b"\n", b"\r\n")
        return self._edit(header) + _body(text[end:])


def _body(data: bytes) -> bytes:
    """Return a part of a body that does not end within a line end."""
    crlf = data.replace(b"\r", b"").replace(b"\n", b"\r\n")
    if crlf == data:
        return data
    return _CRS_LF.sub(b"\n", data).replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def encode_data(message: bytes, edit: Edit = unchanged) -> bytes:
    """Return a whole message as DATA takes it, with the line that ends it.

    The same as ``Transparency``, for what is at hand as a whole.
    """
    data = crlf(message, edit)
    if b"\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    if data and not data.endswith(b"\n"):
        data += b"\r\n"
    return (b"." if data.startswith(b".") else b"") + data + END_OF_DATA


class Transparency:
    """Encodes one message for DATA, fed in chunks.

    Args:
        edit: as of ``Crlf``.
    """

    def __init__(self, edit: Edit = unchanged) -> None:
        self._lines = Crlf(edit)
        self._at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """Return the next part of the encoded message."""
        return self._stuff_dots(self._lines.feed(chunk))

    def end(self) -> bytes:
        """Return what is left: a missing last CRLF, and the line that ends DATA."""
        rest = self._stuff_dots(self._lines.end())
        return rest + (b"" if self._at_line_start else b"\r\n") + END_OF_DATA

    def _stuff_dots(self, data: bytes) -> bytes:
        if not data:
            return data
        dotted = data.replace(b"\r\n.", b"\r\n..")
        if self._at_line_start and data[:1] == b".":
            dotted = b"." + dotted
        self._at_line_start = data.endswith(b"\r\n")
        return dotted
