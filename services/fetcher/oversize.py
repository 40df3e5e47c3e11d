"""Notices of messages that stay at the server, as they are larger than the account takes.

A notice goes to the mailbox like a message: with the header block, as TOP shows it, and what can be
done. Its id comes from that header block, and whether there was one already is asked by the UIDL;
so it is delivered once, also when UIDLs are given anew. It is published and confirmed before it is
recorded. Known limits: where there is no TOP, it has no header block, and of a message without a
UIDL there is no notice then; nor is there one of a message that LIST says is smaller than it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from typing import Final

from services.fetcher.account import Account
from services.fetcher.identity import head_hash, header_end
from services.fetcher.interfaces import FetcherContext
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.worklist import ListedMessage
from shared.errors import NoAnswer, PromiseBroken, Unreachable
from shared.ledger import LedgerEntry
from shared.message import Envelope, Fetched, Hop, Inline

MOST: Final = 100
"""Messages of which notices are sent in one session."""

_HEAD_SHOWN: Final = 64 * 1024
"""Bytes of a header block that a notice has at the most."""

_DIGEST_SIZE: Final = 16
_FIELD: Final = re.compile(
    rb"^(?:From|Subject|Date):[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_TEXT: Final = """\
A message of {size} was left at {server}: the account {account} takes messages of
up to {most}.

{fields}
It is still there, and the connector does not delete it. You can read it at your provider, in a
browser or with another mail program. Or whoever runs the connector raises max_size of this account:
then it is fetched with the next poll. This is told once.
"""


async def send_notices(
    session: Pop3Session,
    context: FetcherContext,
    account: Account,
    messages: Sequence[ListedMessage],
) -> None:
    """Send a notice of each message of which none was sent yet.

    Args:
        session: in step, and with nothing underway.
        context: ledger, publisher and the rest.
        account: where they lie.
        messages: those that are too large.

    Raises:
        PromiseBroken: the server broke at TOP; another session does without.
        BrokerUnavailable: they could not be published; they are sent with another poll.
    """
    ledger, now = context.ledger, context.clock.now()
    marks = {one: _digest(account, one.uidl, str(one.size)) for one in messages if one.uidl}
    told = await ledger.seen(list(marks.values())) if marks else {}
    fresh = [one for one in messages if marks.get(one) not in told][:MOST]
    heads = await _heads(session, fresh)
    ids = {
        one: marks[one] if head is None else _digest(account, head_hash(head), str(one.size))
        for one in fresh
        if (head := heads.get(one.number)) is not None or one in marks
    }
    told_before = await ledger.seen(list(ids.values())) if ids else {}
    new = {id_: one for one, id_ in ids.items() if id_ not in told_before}
    envelopes = []
    for id_, one in new.items():
        raw = Inline(_notice(account, one, heads.get(one.number), id_, now))
        payload = Fetched(raw, one.uidl or "", account.server)
        envelopes.append(Envelope(id_, account.name, payload, now, trail=(Hop("fetcher", now),)))
    if envelopes:
        await context.publisher.put(*envelopes)
    # Those of earlier polls as well: they are remembered for as long as the message lies there.
    beyond = {marks.get(one) for one in messages if one not in fresh and marks.get(one) not in told}
    lasting = {*marks.values(), *ids.values()} - beyond
    if lasting:
        await ledger.record(account.name, [LedgerEntry(None, mark) for mark in lasting if mark])
    for envelope in envelopes:
        size, uidl = envelope.payload.raw.size, envelope.payload.uidl
        context.journal.fetched(envelope.id, account.name, uidl, size)
        context.journal.note(
            "a notice: a message is too large", id=envelope.id, account=account.name
        )


async def _heads(session: Pop3Session, messages: Sequence[ListedMessage]) -> Mapping[int, bytes]:
    """Return the header blocks of messages by number, as far as TOP shows them."""
    offered = session.capabilities
    if not messages or session.quirks.no_top or (offered and "TOP" not in offered):
        return {}
    try:
        async with aclosing(session.tops([one.number for one in messages])) as tops:
            return {number: top async for number, top in tops if top is not None}
    except (Unreachable, NoAnswer) as error:
        raise PromiseBroken(error.server, f"TOP: {error.said}", "no_top") from error


def _digest(account: Account, *parts: str | None) -> str:
    text = "\0".join(["notice", account.name, *(part or "" for part in parts)])
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_SIZE).hexdigest()


def _notice(
    account: Account, listed: ListedMessage, head: bytes | None, id_: str, at: float
) -> bytes:
    """Return a notice as a mail; the same for the same message."""
    to, begin = account.intake.notice_to or "", b"" if head is None else head[:_HEAD_SHOWN]
    begin = begin[: header_end(begin)]
    size, most = _size(listed.size or 0), _size(account.max_size)
    notice = EmailMessage((SMTP if to.isascii() else SMTPUTF8).clone(cte_type="7bit"))
    notice["Return-Path"] = "<>"
    notice["From"] = f"pop3-connector <{to}>"
    notice["To"] = f"<{to}>"
    notice["Subject"] = f"Too large to be fetched: a message of {size}"
    notice["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    notice["Message-ID"] = f"<{id_}@pop3-connector.invalid>"
    notice["Auto-Submitted"] = "auto-generated"
    fields = _text(b"".join(_FIELD.findall(begin))) or f"UIDL {listed.uidl}\n"
    notice.set_content(
        _TEXT.format(
            size=size, server=account.server, account=account.name, most=most, fields=fields
        )
    )
    if begin:
        # RFC 6522 section 4: the header block of a message that is not there.
        notice.add_attachment(_text(begin), subtype="rfc822-headers", disposition="inline")
    return notice.as_bytes()


def _text(raw: bytes) -> str:
    lines = raw.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}").splitlines()
    return "".join(f"{line}\n" for line in lines)


def _size(count: int) -> str:
    return f"{count / 2**20:.4g} MiB" if count >= 2**20 else f"{count} bytes"
