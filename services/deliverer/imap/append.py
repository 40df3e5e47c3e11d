"""Puts messages into folders: APPEND (RFC 3501 section 6.3.11), and what belongs to it.

Theory of operation. Each folder that a message goes to gets one APPEND; recipients who share a
folder share it. Small ones for the same folder go in one command where the server offers it
(MULTIAPPEND, RFC 3502), which is all or nothing: refused, they are sent one by one. A small message
goes without asking first (LITERAL+, LITERAL-: RFC 7888); a larger one is announced, and sent once
the server says so. A folder that is missing is made, and subscribed to.

The point of no return is the CRLF that ends the command, in ``_write``. The last thing before it is
the look at the claim; up to there, to cut the connection takes back all of it. From there on the
message may be there: it is looked for by our own id before it is sent again (``finding``), and each
time that there was a try before, of this process or of another.

So a message comes once, as far as the server allows. Open stays: a server that is still at work on
the first try when it is asked, or shows what it has taken later only (replicas); one that does not
find header lines, where more than 50 messages came in between; a message that somebody has moved to
another folder or deleted between the two tries; and a second connector with another state database,
whose message has the same id only where its account has the same name. Gmail in turn takes a
message for one that it has, if that has the same Message-ID and content: it then has one where two
accounts got a copy each, and that is its doing.

Where this raises, nobody is known to have the message; what is known to be in a folder is a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from services.deliverer.courier import (
    ClaimLost,
    CourierResult,
    MailContent,
    MailObject,
    Result,
    Throttled,
)
from services.deliverer.imap.commands import count_of, date_time, folder_name
from services.deliverer.imap.finding import find
from services.deliverer.imap.folders import folder_of
from services.deliverer.imap.literal import Literal, measured
from services.deliverer.imap.reply_meaning import meaning
from services.deliverer.imap.response import ImapStatus
from services.deliverer.imap.session import ImapReply, ImapSession, SaidBye
from services.deliverer.imap.steps import ImapStep
from services.deliverer.servers.protocol import SendSingly
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.failpoint import reach, reach_all
from shared.log import printable

_SYSTEM_LABEL: Final = re.compile(r"\\[A-Za-z]+")
"""One of Gmail's own, such as ``\\Important``, which stands without quotation marks."""

_APPENDLIMIT: Final = re.compile(r"APPENDLIMIT=([1-9][0-9]{0,17})")
_RANGE: Final = rb"\d{1,10}(?::\d{1,10})?"
_UIDS: Final = re.compile(rb"\d{1,10} (%s(?:,%s)*)" % (_RANGE, _RANGE))


async def put_together(
    session: ImapSession, mail_objects: Sequence[MailObject]
) -> Sequence[CourierResult]:
    """Put messages, each for the same one folder, there in one command.

    Raises:
        SendSingly: the server refuses that, or has not as many as it was given.
        Throttled: a limit of the server; nobody has any of them.
        Unreachable: the connection broke, or the server does not let us in.
    """
    results: list[CourierResult] = [_still_ours(each.content) or {} for each in mail_objects]
    going = [at for at, result in enumerate(results) if not isinstance(result, Exception)]
    if not going:
        return results
    folder = next(iter(_folders(session, mail_objects[going[0]].recipients)[0]))
    literals = [await measured(mail_objects[at].content) for at in going]
    status, _ = await _append_or_make(session, folder, literals)
    if status.kind != "OK":
        raise session.failure(status, ImapStep.APPEND) or SendSingly
    told = _told(status)
    if told and count_of(told) != len(going):  # which of them are there, a look tells
        raise SendSingly
    session.carried += len(going)
    reach_all(["deliverer"] * len(going), "appended")
    said = session.said(status, ImapStep.APPEND) + await _label(session, folder, told)
    for at in going:
        results[at] = dict.fromkeys(mail_objects[at].recipients, Result("delivered", said))
    return results


def _still_ours(content: MailContent) -> ClaimLost | None:
    try:
        content.check()
    except ClaimLost as error:
        return error
    return None


async def put(session: ImapSession, mail_object: MailObject) -> dict[str, Result]:
    """Put a message into the folder of each recipient; return what became of it for each.

    Raises:
        Throttled: a limit of the server; nobody is known to have it.
        Unreachable: the connection broke, or the server does not let us in.
        SpoolMissing: as ``MailContent.chunks`` does.
        SpoolUnavailable: likewise.
        ClaimLost: as ``MailContent.check`` does.
    """
    folders, results = _folders(session, mail_object.recipients)
    literal = await measured(mail_object.content)
    limit = _limit(session)
    if limit is not None and literal.size > limit:
        why = f"{literal.size} bytes are more than {session.server} takes ({limit}, by APPENDLIMIT)"
        return dict.fromkeys(mail_object.recipients, Result("permanent", why))
    for folder, recipients in folders.items():
        try:
            result = await _put_once(session, folder, literal)
        except (Unreachable, ClaimLost, SpoolMissing, SpoolUnavailable) as error:
            if not any(each.verdict == "delivered" for each in results.values()):
                raise
            session.connection.abort()  # what others have is not undone by that
            left = [r for r in mail_object.recipients if r not in results]
            lost = isinstance(error, Unreachable) and not isinstance(error, Throttled)
            later = Result("temporary", str(error), lost)
            return results | dict.fromkeys(left, later)
        results |= dict.fromkeys(recipients, result)
    return results


def _folders(
    session: ImapSession, recipients: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, Result]]:
    """Return the recipients of each folder; and the results for those who can have none."""
    folders: dict[str, list[str]] = {}
    results: dict[str, Result] = {}
    for recipient in recipients:
        folder = folder_of(session.target.folder, recipient, session.naming)
        if isinstance(folder, Result):
            results[recipient] = folder
        else:
            folders.setdefault(folder, []).append(recipient)
    return folders, results


def same_folder(session: ImapSession, one: MailObject, other: MailObject) -> bool:
    """Return whether both go to one folder, and to no other."""
    folders, refused = _folders(session, [*one.recipients, *other.recipients])
    return len(folders) == 1 and not refused


def _limit(session: ImapSession) -> int | None:
    """Return how large a message may be (RFC 7889); None if the server does not say."""
    for word in session.capabilities:
        found = _APPENDLIMIT.fullmatch(word)
        if found is not None:
            return int(found[1])
    return None


async def _put_once(session: ImapSession, folder: str, literal: Literal) -> Result:
    """Put a message into a folder, unless an earlier try has left it there."""
    if literal.content.replay:
        uids = await find(session, folder, literal.content.id)
        if uids:
            note = await _label(session, folder, uids)
            return Result("delivered", f"was there: found in {printable(folder)} by its id{note}")
    status, step = await _append_or_make(session, folder, [literal])
    error = session.failure(status, step)
    if error is not None:
        raise error
    means, said = meaning(status, step), session.said(status, step)
    if means != "delivered":
        return Result("permanent" if means == "permanent" else "temporary", said)
    session.carried += 1
    reach("deliverer", "appended")
    return Result("delivered", said + await _label(session, folder, _uid(status)))


async def _append_or_make(
    session: ImapSession, folder: str, literals: Sequence[Literal]
) -> tuple[ImapStatus, ImapStep]:
    """Append messages, to a folder that is made where it is missing.

    Returns:
        What the server said at last, and to what.
    """
    status = (await _append(session, folder, literals)).status
    if meaning(status, ImapStep.APPEND) != "folder":
        return status, ImapStep.APPEND
    name = _named(session, folder)
    made = (await session.command(b"CREATE " + name, ImapStep.CREATE)).status
    if made.kind == "OK":
        await session.command(b"SUBSCRIBE " + name, ImapStep.CREATE)  # who does not see it, looks
    status = (await _append(session, folder, literals)).status
    # Another connection may have made it meanwhile; if there is none still, CREATE says why.
    if meaning(status, ImapStep.APPEND) == "folder" and made.kind != "OK":
        return made, ImapStep.CREATE
    return status, ImapStep.APPEND


def _named(session: ImapSession, folder: str) -> bytes:
    return folder_name(folder, utf8=session.naming.utf8)


async def _append(session: ImapSession, folder: str, literals: Sequence[Literal]) -> ImapReply:
    """Send an APPEND of one message, or of several, and return the reply to it.

    Raises:
        Unreachable: the connection broke; whether it was done, nobody knows.
    """
    session.served += 1
    ended = False
    reach("deliverer", "before-append")
    session.begin(b"APPEND " + _named(session, folder))
    try:
        for literal in literals:
            refused = await _write(session, literal)
            if refused is not None:
                return refused
        for literal in literals:
            literal.content.check()
        reach_all(["deliverer"] * len(literals), "before-end")
        session.write(b"\r\n")
        ended = True
        reach_all(["deliverer"] * len(literals), "literal-sent")
        return await session.finish(ImapStep.APPEND)
    except SaidBye as error:  # RFC 7888 section 4 lets it leave where a literal is too large
        if meaning(error.status, ImapStep.APPEND) == "permanent":
            return ImapReply(error.status)
        if ended:  # a limit that ends the session says nothing of the message before it
            raise
        raise session.failure(error.status, ImapStep.APPEND) or error from error


async def _write(session: ImapSession, literal: Literal) -> ImapReply | None:
    """Send one message of an APPEND; return the reply where the server has given one already."""
    at_once = literal.size <= session.non_sync
    utf8 = session.naming.utf8 and literal.utf8
    binary = utf8 or (literal.nul and "BINARY" in session.capabilities)
    words = [*_flags(session), *([] if literal.taken is None else [date_time(literal.taken)])]
    words.append(b"%s{%d%s}" % (b"~" * binary, literal.size, b"+" * at_once))
    if utf8:  # RFC 6855 section 4
        words[-1] = b"UTF8 (" + words[-1]
    line = b" " + b" ".join(words)
    session.write(line + b"\r\n")
    session.note_sent(line)
    if not at_once:
        refused = await session.await_leave(ImapStep.APPEND)
        if refused is not None:
            if refused.status.kind == "OK":
                raise session.give_up("it says that it has a message before it was sent")
            return refused
    refused = await _write_bytes(session, literal)
    if utf8:
        session.write(b")")
    return refused


def _flags(session: ImapSession) -> list[bytes]:
    flags = session.target.flags
    return [b"(" + b" ".join(flags) + b")"] if flags else []


async def _write_bytes(session: ImapSession, literal: Literal) -> ImapReply | None:
    """Send the bytes; where it refuses them on the way, return its reply, and cut it off."""
    sent = 0
    async for chunk in literal.chunks():
        sent += len(chunk)
        if sent > literal.size:
            break
        session.write(chunk)
        await session.drain()
        if session.connection.replied and literal.data is None:
            refused = await session.refusal_so_far()
            if refused is not None:
                session.connection.abort()  # what follows would be commands to it
                return refused
    session.note_sent_bytes(sent)
    if sent != literal.size:
        why = f"message {literal.content.id} had {literal.size} bytes when it was measured"
        raise SpoolUnavailable(f"{why}, and not when it was sent")
    return None


def _uid(status: ImapStatus) -> bytes:
    """Return the UID that a message was given (RFC 4315); b"" if none is told.

    A set of several is none: what is done with it would be done to others' messages.
    """
    told = _told(status)
    return told if told and count_of(told) == 1 else b""


def _told(status: ImapStatus) -> bytes:
    """Return the UIDs that messages were given, as a set; b"" if none are told."""
    found = _UIDS.fullmatch(status.arguments.strip()) if status.code == "APPENDUID" else None
    return b"" if found is None else found[1]


async def _label(session: ImapSession, folder: str, uids: bytes) -> str:
    """Give messages their labels; return a note where that failed: they have arrived."""
    if not session.target.labels:
        return ""
    if not uids:
        return "; without its labels: the server does not say which message it is"
    labels = b" ".join(_label_name(session, label) for label in session.target.labels)
    try:
        selected = await session.command(b"SELECT " + _named(session, folder), ImapStep.EXAMINE)
        status = selected.status
        if status.kind == "OK":
            words = b"UID STORE %s +X-GM-LABELS.SILENT (%s)" % (uids, labels)
            status = (await session.command(words, ImapStep.STORE)).status
    except Unreachable as error:
        return f"; perhaps without its labels: {error.said}"
    return "" if status.kind == "OK" else f"; without its labels: {status.text}"


def _label_name(session: ImapSession, label: str) -> bytes:
    if _SYSTEM_LABEL.fullmatch(label):
        return label.encode()
    return folder_name(label, utf8=session.naming.utf8)
