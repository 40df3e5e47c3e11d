"""Looks in a folder for a message that an earlier try may have left there, by our own id.

A search is a hint. Some servers find nothing by a header line that they do not index, and some find
everything: what a search finds is looked at before a message counts as delivered, and where none of
it has our id, the newest messages of the folder are looked at, unless this server's search was seen
to find such a line before. Taken for there when it is not, a message would be lost; taken for
missing, it comes twice: so whatever cannot be read is not there.
"""

from __future__ import annotations

import re
from typing import Final

from services.deliverer.imap.commands import folder_name, quoted
from services.deliverer.imap.reply_meaning import meaning
from services.deliverer.imap.response import ImapResponse, ImapStatus
from services.deliverer.imap.session import ImapReply, ImapSession
from services.deliverer.imap.steps import ImapStep
from shared.errors import Unreachable

ID_FIELD: Final = b"X-POP3-Connector-Id"
"""The header line of ours that a message is found by."""

MOST: Final = 20
"""Of what a search finds, so many are looked at; there are one or two."""

NEWEST: Final = 50
"""Of the newest messages of a folder, so many are looked at."""

_LATER: Final = frozenset({"UNAVAILABLE", "INUSE", "SERVERBUG"})
_FIELD: Final = re.compile(rb"%s[ \t]*:\s*(\S+)" % ID_FIELD, re.IGNORECASE)
_ASKED: Final = b"(UID BODY.PEEK[HEADER.FIELDS (%s)])" % ID_FIELD


async def find(session: ImapSession, folder: str, id_: str) -> bytes:
    """Return the UIDs under which a message lies in a folder, as a set; b"" where there is none.

    Raises:
        Unreachable: the connection broke, or the server cannot look just now.
        Throttled: a limit of the server.
    """
    examined = await _ask(session, b"EXAMINE " + _named(session, folder), ImapStep.EXAMINE)
    if examined is None:
        return b""
    words = b"UID SEARCH HEADER %s %s" % (ID_FIELD, quoted(id_.encode()))
    searched = await _ask(session, words, ImapStep.SEARCH)
    found = [] if searched is None else _numbers(searched)[-MOST:]
    if found:
        uids = await _having(session, b"UID FETCH " + b",".join(found), id_)
        if uids:
            session.target.finds.note_kept()
            return uids
    count = _count(examined)
    if session.target.finds.kept or not count:
        return b""
    return await _having(session, b"FETCH %d:%d" % (max(1, count - NEWEST + 1), count), id_)


async def _having(session: ImapSession, words: bytes, id_: str) -> bytes:
    """Return the UIDs of those messages that have our id, of some."""
    fetched = await _ask(session, words + b" " + _ASKED, ImapStep.SEARCH)
    if fetched is None:
        return b""
    uids = (_uid_if(response, id_.encode()) for response in fetched.data)
    return b",".join(uid for uid in uids if uid is not None)


async def _ask(session: ImapSession, words: bytes, step: ImapStep) -> ImapReply | None:
    """Return the reply to a question, None where the server has no answer to it."""
    reply = await session.command(words, step)
    if reply.status.kind == "OK":
        return reply
    error = session.failure(reply.status, step)
    if error is not None:
        raise error
    if _is_later(reply.status, step):
        why = f"{session.said(reply.status, step)}; an earlier try may have left the message"
        raise Unreachable(session.server, why)
    return None


def _is_later(status: ImapStatus, step: ImapStep) -> bool:
    return status.code in _LATER and meaning(status, step) != "folder"


def _named(session: ImapSession, folder: str) -> bytes:
    return folder_name(folder, utf8=session.naming.utf8)


def _numbers(reply: ImapReply) -> list[bytes]:
    for response in reply.data:
        word, *numbers = response.text.split()
        if word.upper() == b"SEARCH":
            return [number for number in numbers if number.isdigit()]
    return []


def _count(reply: ImapReply) -> int:
    """Return how many messages a folder has."""
    for response in reply.data:
        match response.text.upper().split():
            case [number, b"EXISTS"] if re.fullmatch(rb"\d{1,10}", number):
                return int(number)
    return 0


def _uid_if(response: ImapResponse, id_: bytes) -> bytes | None:
    """Return the UID of a message that was fetched, None unless it has this id."""
    match response.values():
        case [bytes(), bytes() as kind, list() as items] if kind.upper() == b"FETCH":
            texts = [item for item in items if isinstance(item, bytes)]
            fields = (found[1] for text in texts if (found := _FIELD.search(text)) is not None)
            if id_ in fields and b"UID" in texts[:-1]:
                uid = texts[texts.index(b"UID") + 1]
                return uid if uid.isdigit() else None
    return None
