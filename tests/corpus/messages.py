"""Messages for tests, made and not stored: plain ones in numbers, odd ones by name, signed ones.

``sample_messages`` makes what every server and store takes unchanged: CRLF line ends, a last CRLF,
no NUL and no bare CR. ``sound_messages`` adds every oddity that has to pass unharmed all the same,
and ``corrupt_messages`` what has to land in quarantine. The same arguments give the same bytes.
"""

import base64
import functools
import math
import random
from collections.abc import Callable, Iterable

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.message import HEADER_LIMIT

Dns = Callable[..., bytes]

MEDIAN_SIZE = 5_000
"""Bytes of half the sample messages or less, as in real maildrops."""


def sample_messages(n: int, seed: int = 1, max_size: int = 200_000) -> list[bytes]:
    """Return ``n`` different messages of mixed sizes and shapes.

    Half are below ``MEDIAN_SIZE``, one in twenty has a tenth of ``max_size`` or more, and one in
    400 (of ten or more: at least one) has ``max_size`` but for a few bytes; none is larger.

    Args:
        n: how many.
        seed: other seeds give other messages.
        max_size: bytes of the largest; 3,000 at least.
    """
    rng = random.Random(seed)
    return [
        _sample(f"{seed}-{i}", i, _size(rng, i, n, max_size), rng.randbytes(48)) for i in range(n)
    ]


def _size(rng: random.Random, i: int, n: int, max_size: int) -> int:
    if i % 400 == min(399, n - 1) and n >= 10:
        return max_size
    if i % 20 == 10:
        return rng.randint(max_size // 10, max_size // 4)
    return min(max_size, int(MEDIAN_SIZE * math.exp(rng.gauss(0, 0.8))))


def _sample(mark: str, i: int, size: int, noise: bytes) -> bytes:
    """Return message ``i``: a body of a shape that follows from i, filled up to the size."""
    shape = _SHAPES[i % len(_SHAPES)]
    start, line, end = shape(mark, base64.b64encode(noise))
    room = size - len(start) - len(end)
    if room < 0:
        start, line, end = _text(mark, base64.b64encode(noise))
        room = size - len(start) - len(end)
    return start + line * max(1, room // len(line)) + end


def fields(mark: str, *more: bytes, subject: bytes = b"") -> bytes:
    """Return the header fields of an ordinary message, each ended by CRLF.

    Args:
        mark: makes this message different from the others.
        more: further fields, without line ends.
        subject: the Subject, or an ordinary one.
    """
    m = mark.encode()
    lines = [
        b"Return-Path: <bounce+%s@lists.example.org>" % m,
        b"Delivered-To: sales@provider.example",
        b"Received: from mx.example.org (mx.example.org [192.0.2.25])\r\n"
        b"\tby pop.provider.example (Postfix) with ESMTPS id 4F1%s\r\n"
        b"\tfor <sales@provider.example>; Mon, 6 Nov 2023 10:11:12 +0100 (CET)" % m,
        b'From: "A. Sender" <a.sender@example.org>',
        b"To: sales@provider.example",
        b"Subject: " + (subject or b"Offer " + m),
        b"Date: Mon, 6 Nov 2023 10:11:10 +0100",
        b"Message-ID: <%s@example.org>" % m,
        b"MIME-Version: 1.0",
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n"


Shape = tuple[bytes, bytes, bytes]
"""What a message begins with, the line that is repeated up to its size, and what it ends with."""


def _text(mark: str, noise: bytes) -> Shape:
    return fields(mark) + b"\r\n", noise + b" the quick brown fox\r\n", b"-- \r\nA. Sender\r\n"


def _dots(mark: str, noise: bytes) -> Shape:
    start = fields(mark) + b"\r\n.\r\n..\r\n.leading\r\n"
    return start, b".\r\n" + noise + b"\r\n..\r\n", b"...\r\n.\r\n"


def _eight_bit(mark: str, noise: bytes) -> Shape:
    more = (b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit")
    line = noise + " Grüße aus Köln – привет, 世界\r\n".encode()
    return fields(mark, *more) + b"\r\n", line, b""


def _encoded_subject(mark: str, noise: bytes) -> Shape:
    subject = b"=?utf-8?B?%s?=" % base64.b64encode(f"Größe {mark}".encode())
    return fields(mark, subject=subject) + b"\r\n", noise + b"\r\n", b""


def _many_fields(mark: str, noise: bytes) -> Shape:
    more = [b"X-Trace-%d: %s\r\n\t%s" % (k, noise, noise) for k in range(60)]
    return fields(mark, *more) + b"\r\n", noise + b"\r\n", b""


def _nested(mark: str, noise: bytes) -> Shape:
    m = mark.encode()
    outer, inner = b"outer=" + m, b"inner=" + m
    start = fields(mark, b'Content-Type: multipart/mixed; boundary="%s"' % outer) + (
        b"\r\nThis is MIME.\r\n--%s\r\nContent-Type: message/rfc822\r\n\r\n"
        b"From: inner@example.org\r\nReceived: from nowhere\r\nSubject: inner\r\n"
        b'Content-Type: multipart/alternative; boundary="%s"\r\n\r\n'
        b"--%s\r\nContent-Type: text/plain\r\n\r\nplain\r\n"
        b"--%s\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--%s--\r\n"
        b"--%s\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" % (outer, inner, inner, inner, inner, outer)
    )
    return start, noise[:64] + b"\r\n", b"\r\n--%s--\r\n" % outer


def _long_line(mark: str, noise: bytes) -> Shape:
    return fields(mark) + b"\r\n", (noise * 31)[:1990] + b"\r\n", b"end\r\n"


_SHAPES: tuple[Callable[[str, bytes], Shape], ...] = (
    _text, _text, _dots, _eight_bit, _encoded_subject, _many_fields, _nested, _long_line, _text,
)  # fmt: skip


def typical() -> bytes:
    """Return a message as providers deliver them: 25 header fields in 1.5 KB, and 5 KB in all."""
    more = (
        (
            b"Authentication-Results: pop.provider.example;\r\n"
            b"\tdkim=pass header.d=example.org; spf=pass smtp.mailfrom=bounce@lists.example.org"
        ),
        (
            b"Received: from app7.example.org (unknown [198.51.100.7])\r\n"
            b"\tby mx.example.org (Postfix) with ESMTPA id 77ABC; Mon, 6 Nov 2023 09:11:11 +0000"
        ),
        b"X-Spam-Status: No, score=-1.9 required=5.0 tests=BAYES_00,DKIM_SIGNED",
        b"X-Spam-Level: ",
        b"Reply-To: desk@example.org",
        b"References: <1@example.org> <2@example.org>\r\n <3@example.org>",
        b"In-Reply-To: <3@example.org>",
        b"List-Id: Offers <offers.example.org>",
        b"List-Unsubscribe: <https://example.org/u/0123456789abcdef0123456789abcdef>",
        b"Precedence: bulk",
        b"X-Mailer: Mailer 7.1",
        b"X-Priority: 3",
        b"Importance: normal",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Language: en-GB",
    )
    start = fields("typical", *more) + b"\r\n"
    line = b"The quick brown fox jumps over the lazy dog and is not seen again.\r\n"
    return start + line * ((5_000 - len(start)) // len(line))


def sound_messages() -> dict[str, bytes]:
    """Return messages that are odd, but that a destination takes: they pass unharmed."""
    plain = fields("odd")
    junk = b"this line is no field\r\n"
    first, rest = plain.split(b"\r\n", 1)
    return {
        "plain": plain + b"\r\nbody\r\n",
        "header only": plain,
        "header and blank line only": plain + b"\r\n",
        "no last line end": plain + b"\r\nbody",
        "one field": b"Subject: alone\r\n",
        "mbox line first": b"From a@example.org Mon Nov  6 10:11:12 2023\r\n"
        + plain
        + b"\r\nb\r\n",
        "quoted mbox line first": b">From a@example.org Mon Nov  6\r\n" + plain + b"\r\nb\r\n",
        "folded line first": b"\tfolded onto nothing\r\n" + plain + b"\r\nbody\r\n",
        "white line first": b" \r\n" + plain + b"\r\nbody\r\n",
        "junk line first": junk + plain + b"\r\nbody\r\n",
        "dot line first": b".\r\n" + plain + b"\r\nbody\r\n",
        "blank line first": b"\r\n" + plain + b"\r\nbody\r\n",
        "blank lines first": b"\r\n\n\r\n" + plain + b"\r\nbody\r\n",
        "second mbox line first": b"From a@b Mon Nov  6 10:11:12 2023\r\n>From c@d Mon Nov  6\r\n"
        + plain
        + b"\r\nbody\r\n",
        "mbox line and blank line first": b"From a@b Mon Nov  6 10:11:12 2023\r\n\r\n"
        + plain
        + b"\r\nbody\r\n",
        "blank, junk and blank line first": b"\r\n"
        + junk
        + junk
        + b"\r\n\r\n"
        + plain
        + b"\r\nbody\r\n",
        "BOM first": b"\xef\xbb\xbf" + plain + b"\r\nbody\r\n",
        "BOM and mbox line first": b"\xef\xbb\xbfFrom a@b\r\n" + plain + b"\r\nbody\r\n",
        "junk among fields": first + b"\r\n" + junk + rest + b"\r\nbody\r\n",
        "space before colon": b"Subject : odd\r\nFrom\t: a@example.org\r\n\r\nbody\r\n",
        "bare LF": (plain + b"\r\nbody\r\n.\r\n").replace(b"\r\n", b"\n"),
        "bare LF in body": plain + b"\r\none\n.\ntwo\r\n",
        "mixed line ends": plain.replace(b"\r\n", b"\n", 3) + b"\r\nbody\n",
        "bare CR in header": plain + b"X-Odd: one\rtwo\r\n\r\nbody\r\n",
        "bare CR in body": plain + b"\r\none\rtwo\r\r\n",
        "CR CR LF": (plain + b"X-Odd: one\r\n\r\nbody\r\n").replace(b"\r\n", b"\r\r\n"),
        "CR CR LF in header": plain + b"X-Odd: one\r\r\nX-Odd: two\r\n\r\nbody\r\n",
        "NUL in header": plain + b"X-Odd: one\0two\r\n\r\nbody\r\n",
        "NUL in body": plain + b"\r\none\0two\r\n",
        "8-bit header": plain + b"X-Odd: caf\xe9 \xff\r\n\r\nbody\r\n",
        "8-bit subject": fields("8-bit", subject=b"caf\xe9 cr\xe8me") + b"\r\nbody\r\n",
        "UTF-8 header": fields("utf-8", subject="Grüße, 世界".encode()) + b"\r\nbody\r\n",
        "dots": plain + b"\r\n.\r\n..\r\n.x\r\n.\r\n",
        "ends with a dot line": plain + b"\r\nbody\r\n.",
        "100 KB line": plain + b"\r\n" + b"x" * 100_000 + b"\r\n",
        "100 KB header line": plain + b"X-Odd: " + b"y" * 100_000 + b"\r\n\r\nbody\r\n",
        "huge header": plain + _filler(HEADER_LIMIT - len(plain) - 2) + b"\r\nbody\r\n",
        "every byte in body": plain + b"\r\n" + bytes(range(256)) + b"\r\n",
        "encoded garbage": fields("enc", subject=_GARBAGE_SUBJECT) + b"\r\nbody\r\n",
    }


_GARBAGE_SUBJECT = b"=?utf-8?B?!!!?= =?x-none?Q?=FF=?= =?utf-16?B?2AA=?= =?=?=?= =?utf-8?Q?=00=1B?="


def corrupt_messages() -> dict[str, bytes]:
    """Return messages that no destination could take: they land in quarantine."""
    plain = fields("corrupt")
    return {
        "empty": b"",
        "one line end": b"\r\n",
        "blank lines": b"\r\n\n \t\r\n\r\n",
        "no header": b"There is only text here,\r\nline after line,\r\n\r\nand more.\r\n",
        "NUL only": b"\0" * 100,
        "header over the limit": plain + _filler(HEADER_LIMIT - len(plain) - 1) + b"\r\nbody\r\n",
        "endless line": b"X-Odd: " + b"z" * (HEADER_LIMIT + 1),
        "binary": bytes(range(256)) * 40,
    }


def _filler(size: int) -> bytes:
    """Return header fields of exactly so many bytes, line ends included."""
    line = b"X-Filler: " + b"f" * 64 + b"\r\n"
    last = size % len(line)
    return line * (size // len(line) - 1) + b"X-Filler: " + b"f" * (64 + last) + b"\r\n"


def dkim_signed(
    body: bytes = b"Signed.\r\n\r\nNot one byte of this may change.  \r\n",
    *more: bytes,
    canonicalize: tuple[bytes, bytes] = (b"simple", b"simple"),
    also: Iterable[bytes] = (),
) -> tuple[bytes, Dns]:
    """Return a signed message, and the lookup with which ``dkim.verify`` finds the public key.

    Args:
        body: what comes below the blank line, with CRLF line ends.
        more: further header fields, without line ends; they are signed too.
        canonicalize: of header and body; ``simple`` forgives nothing.
        also: names, in lower case, of fields that are signed although servers on the way add them.
    """
    message = fields("signed", *more) + b"\r\n" + body
    private, record = _dkim_key()
    unsigned = {b"return-path", b"delivered-to", b"received"}.difference(also)
    signature = dkim.sign(
        message,
        b"test",
        b"example.org",
        private,
        canonicalize=canonicalize,
        include_headers=[name for name in _names(message) if name not in unsigned],
    )
    return signature + message, lambda name, timeout=5: record


def _names(message: bytes) -> Iterable[bytes]:
    header = message.split(b"\r\n\r\n", 1)[0]
    return (
        line.partition(b":")[0].lower()
        for line in header.split(b"\r\n")
        if not line.startswith((b" ", b"\t"))
    )


@functools.cache
def _dkim_key() -> tuple[bytes, bytes]:
    """Return a private key as PEM, and the TXT record of its public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
