"""The mail of the demo: two maildrops of a small company, made and not stored.

Ordinary mail of many kinds, and three messages with a fate of their own: a second copy, one that
goes round in a loop, and one that a failing disk has damaged. Made anew, every byte is the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import EmailMessage
from typing import Final, Literal, TypeAlias

OFFICE: Final = "office@lantern.example"
SALES: Final = "sales@lantern.example"
MAILBOXES: Final[Mapping[str, str]] = {"office": OFFICE, "sales": SALES}
"""The local mailbox of each account of the demo; its POP3 user name is the same."""

_FIRST: Final = datetime(2026, 1, 5, 7, 30, tzinfo=UTC)

Fate: TypeAlias = Literal["delivered", "suppressed", "failed", "quarantined"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A message in a maildrop of the demo, lines ended by CRLF, and what has to become of it."""

    raw: bytes = field(repr=False)
    fate: Fate = "delivered"


def maildrops() -> dict[str, list[Sample]]:
    """Return the messages of each POP3 user, in the order in which they arrived."""
    office = [*_samples(OFFICE, _OFFICE_MAIL), *(Sample(make(OFFICE)) for make in _KINDS)]
    office.insert(7, Sample(office[2].raw, "suppressed"))
    office.insert(11, Sample(_looping(OFFICE), "failed"))
    sales = [*_samples(SALES, _SALES_MAIL), *(Sample(make(SALES)) for make in _SALES_KINDS)]
    sales.insert(4, Sample(_damaged(SALES), "quarantined"))
    return {OFFICE: office, SALES: sales}


_OFFICE_MAIL: Final = (
    ("Ada Bright <ada@bright.example>", "Lunch on Thursday?", "Noon, at the usual place?"),
    ("Baker & Sons <desk@baker.example>", "Your order 4711", "It leaves us on Monday."),
    ("City Library <desk@library.example>", "Reminder: 2 books", "They are due next week."),
    ("Dora Klein <dora@klein.example>", "Re: Keys", "With the neighbours.\r\n> Where are they?"),
    ("Zoë Müller <zoe@mueller.example>", "Grüße aus Köln", "Schöne Grüße, und bis bald!"),
    ("Владимир <v@pochta.example>", "Привет", "Как дела? Всё хорошо."),
    ("山田太郎 <taro@yamada.example>", "会議のお知らせ", "会議は月曜日の十時からです。"),
    ("Phone Company <bill@phone.example>", "Bill for December", "18.40, due on 20 January."),
    ("Eve Long <eve@long.example>", "Minutes of the meeting", "1. Welcome\r\n2. Roof\r\n3. Tea"),
)
_SALES_MAIL: Final = (
    ("Fay Ruiz <fay@ruiz.example>", "Two lanterns, please", "Brass, the small ones."),
    ("Gus Hahn <gus@hahn.example>", "Where is my parcel?", "Ordered on 12 December. Thank you."),
    ("Hue Tran <hue@tran.example>", "Quotation for 200 pieces", "Delivery to Rotterdam."),
    ("Web shop <shop@lantern.example>", "New order 10023", "3 × lantern, brass\r\n1 × wick"),
    ("Web shop <shop@lantern.example>", "New order 10024", "12 × candle, white"),
    ("Ida Olsen <ida@olsen.example>", "Blåbær og lykter", "Har dere røde lykter på lager?"),
)


def _samples(mailbox: str, texts: Sequence[tuple[str, str, str]]) -> list[Sample]:
    return [
        Sample(_bytes(_text(mailbox, sender, subject, f"{body}\r\n"), number))
        for number, (sender, subject, body) in enumerate(texts)
    ]


def _head(mailbox: str, sender: str, subject: str) -> EmailMessage:
    """Return a message without a body, with the fields that a provider's mailbox has."""
    address = sender.rpartition("<")[2].rstrip(">")
    domain = address.rpartition("@")[2]
    mark = f"{sum(map(ord, subject)) % 0x10000:04X}"
    message = EmailMessage(policy.SMTP)
    message["Return-Path"] = f"<{address}>"
    message["Delivered-To"] = mailbox
    message["Received"] = f"from mx.{domain} by pop.provider.example with ESMTPS id 4F{mark}"
    message["From"] = sender
    message["To"] = mailbox
    message["Subject"] = subject
    message["Message-ID"] = f"<{mark}.{len(subject)}@{domain}>"
    return message


def _text(mailbox: str, sender: str, subject: str, body: str, cte: str = "8bit") -> EmailMessage:
    message = _head(mailbox, sender, subject)
    message.set_content(body, cte=cte)
    return message


def _bytes(message: EmailMessage, number: int) -> bytes:
    """Return a message as bytes: dated by its number, and with boundaries that are no surprise."""
    message["Date"] = _FIRST + number * timedelta(minutes=47)
    parts = [part for part in message.walk() if part.is_multipart()]
    for place, part in enumerate(parts):
        if part.get_content_maintype() == "multipart":
            part.set_boundary(f"=_{number}.{place}")
    return message.as_bytes()


def _html(mailbox: str) -> bytes:
    message = _head(mailbox, "Garden News <news@garden.example>", "January in the garden")
    message["List-Unsubscribe"] = "<https://garden.example/bye>"
    message.set_content("Prune the roses.\r\n")
    message.add_alternative("<h1>January</h1><p>Prune the <b>roses</b>.</p>\r\n", subtype="html")
    return _bytes(message, 20)


def _html_alone(mailbox: str) -> bytes:
    message = _head(mailbox, "Rail <tickets@rail.example>", "Your ticket")
    message.set_content("<p>Berlin → Praha, 14:16</p>\r\n", subtype="html", cte="quoted-printable")
    return _bytes(message, 21)


def _invoice(mailbox: str) -> bytes:
    message = _text(mailbox, "Oil & Wax <billing@oil.example>", "Invoice 2026-118", "Attached.\r\n")
    pdf = b"%PDF-1.4\n" + random.Random(118).randbytes(40_000)
    message.add_attachment(pdf, "application", "pdf", filename="Rechnung Nº 118.pdf")
    return _bytes(message, 22)


def _photograph(mailbox: str) -> bytes:
    """Return a message above the inline limit: it travels through the spool."""
    message = _text(mailbox, "Ada Bright <ada@bright.example>", "The new shop", "Look!\r\n")
    jpeg = b"\xff\xd8\xff\xe0" + random.Random(23).randbytes(1_500_000)
    message.add_attachment(jpeg, "image", "jpeg", filename="shop.jpg")
    return _bytes(message, 23)


def _forwarded(mailbox: str) -> bytes:
    message = _text(mailbox, "Dora Klein <dora@klein.example>", "Fwd: Offer", "See below.\r\n")
    inner = _text(mailbox, "Roofer <max@roof.example>", "Offer", "4,200 with tiles.\r\n")
    message.add_attachment(inner)
    return _bytes(message, 24)


def _invitation(mailbox: str) -> bytes:
    message = _text(mailbox, "Eve Long <eve@long.example>", "Invitation: stocktaking", "8 am.\r\n")
    message.add_alternative(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VEVENT\r\nUID:1@long.example\r\n"
        "SUMMARY:Stocktaking\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
        subtype="calendar",
    )
    return _bytes(message, 25)


def _bounce(mailbox: str) -> bytes:
    message = _head(mailbox, "Mail Delivery System <mailer@mx.provider.example>", "Undelivered")
    message.replace_header("Return-Path", "<>")
    message.set_content("550 5.1.1 No such user here: feye@ruiz.example\r\n")
    return _bytes(message, 26)


def _long_line(mailbox: str) -> bytes:
    """Return a message with a line of 20,000 characters, where many a POP3 client gives up."""
    body = "x" * 20_000 + "\r\n"
    return _bytes(_text(mailbox, "Export <job@erp.example>", "One long line", body), 27)


def _dots(mailbox: str) -> bytes:
    r"""Return a message with dots alone on lines, one of them between bare line feeds.

    ``\n.\n`` does not end a message (RFC 1939 section 3), and some clients take it for the end.
    """
    message = _bytes(_text(mailbox, "Morse Club <cq@morse.example>", "... --- ...", "SOS\r\n"), 28)
    return message + b".\r\n..\r\n.hidden\r\nbare\n.\nline feeds\r\n...\r\n"


def _raw_utf8(mailbox: str) -> bytes:
    """Return a message with UTF-8 in its header as it is (RFC 6532), and 8-bit text below."""
    return (
        f"Return-Path: <chloé@été.example>\r\nFrom: Chloé <chloé@été.example>\r\nTo: {mailbox}\r\n"
        "Subject: Déjà vu – naïve façade\r\nDate: Tue, 06 Jan 2026 06:18:00 +0000\r\n"
        "Message-ID: <29@xn--t-9fab.example>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        "Ça va ?\r\n"
    ).encode()


def _latin(mailbox: str) -> bytes:
    """Return a message with bytes in its header that are not even UTF-8."""
    return _bytes(_text(mailbox, "Old <old@fax.example>", "Fax", "Seite 1\r\n"), 30).replace(
        b"Subject: Fax", b"Subject: Fax f\xfcr B\xfcro"
    )


def _old_mail(mailbox: str) -> bytes:
    """Return a message as no MIME mailer writes it: few fields, no MIME, no Return-Path."""
    return b"From: cron@backup\r\nSubject: backup ok\r\n\r\n14 files, 2 GB\r\n"


def _many_hops(mailbox: str) -> bytes:
    """Return a message that came a long way: many Received lines, and yet no loop."""
    hops = b"".join(b"Received: from h%d.list.example by h%d\r\n" % (n, n + 1) for n in range(24))
    return hops + _bytes(_text(mailbox, "List <all@list.example>", "[all] Test", "Hi\r\n"), 32)


def _base64_text(mailbox: str) -> bytes:
    body = "Ευχαριστώ πολύ για την προσφορά σας.\r\n"
    return _bytes(_text(mailbox, "Νίκος <nikos@fanari.example>", "Προσφορά", body, "base64"), 33)


def _spreadsheet(mailbox: str) -> bytes:
    """Return a second message above the inline limit."""
    message = _text(mailbox, "Hue Tran <hue@tran.example>", "Re: Quotation", "Our list.\r\n")
    sheet = b"PK\x03\x04" + random.Random(34).randbytes(180_000)
    message.add_attachment(sheet, "application", "vnd.ms-excel", filename="list.xls")
    return _bytes(message, 34)


def _no_body(mailbox: str) -> bytes:
    return _bytes(_head(mailbox, "Gus Hahn <gus@hahn.example>", "Parcel is here, thanks"), 35)


_KINDS: Final[Sequence[Callable[[str], bytes]]] = (
    _html, _html_alone, _invoice, _photograph, _forwarded, _invitation, _bounce, _long_line, _dots,
    _raw_utf8, _latin, _old_mail, _many_hops,
)  # fmt: skip
_SALES_KINDS: Final[Sequence[Callable[[str], bytes]]] = (_base64_text, _spreadsheet, _no_body)


def _looping(mailbox: str) -> bytes:
    """Return a message that has been here before: somebody forwards the local mailbox back."""
    came_back = _text(mailbox, "Ada Bright <ada@bright.example>", "Round and round", "Again.\r\n")
    ours = f"X-POP3-Connector-For: {mailbox}\r\nX-POP3-Connector-Account: office\r\n"
    return ours.encode() + _bytes(came_back, 36)


def _damaged(mailbox: str) -> bytes:
    """Return a message of which a block was overwritten with NUL bytes, as after a disk failure."""
    whole = _bytes(_text(mailbox, "Gus Hahn <gus@hahn.example>", "Order 10022", "6 lamps\r\n"), 37)
    return bytes(512) + whole[whole.index(b"\r\n\r\n") :]
