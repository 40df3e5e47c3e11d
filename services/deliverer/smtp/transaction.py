"""One mail transaction, of SMTP or of LMTP: the envelope, the message, the replies.

Theory of operation. ``transact`` sends one mail object over an open session and returns a result
for each recipient. It holds to one rule: where it raises, nobody is known to have the message; what
is known to have been delivered to anybody is always a result. A limit, or a server that goes away,
is raised where all recipients were told so, and a result where only some were.

Between two calls a session is in one of three states:

    free        the last transaction has ended, or there was none: MAIL may come
    unfinished  an envelope was sent, and no message after it: RSET comes before the next MAIL
    announced   the envelope of the next mail object went out with the end of the last message:
                only that one may come now, and begins with reading the replies

Within a call it goes through three more: the envelope (``envelope_commands.ask``), which ends with
the reply to DATA, or before where no recipient is left; the message, once that reply was 354; and
the wait for the final reply, of which LMTP has one for each recipient that was accepted (RFC 2033
section 4.2).

What may be sent together (RFC 2920): MAIL, all RCPT and DATA go out in one write where PIPELINING
is offered, not turned off, and was not seen to be broken. The message never goes out before 354
has come. Where the server is also known, or configured, to read on behind the final dot, the
envelope of the next mail object goes out in that same write: half the packets. It has to be at
hand, so that no spool can fail between its envelope and its message, and be such that this server
can take it. RSET is answered before anything follows it.

What is known when: before MAIL, who cannot be served (SIZE, SMTPUTF8); with the reply to MAIL,
whether the connection, the sender or a limit is in the way; with each reply to RCPT, who is
refused. A sender that the server does not take for its form or its domain keeps no message from a
mailbox: it is sent again, before anything else goes over this session, with the null sender, which
every server has to take (RFC 5321 section 4.5.5). Where DATA, sent along, was let through for
nobody, the final dot follows alone. A reply that is there before the final dot was sent is no
success, whatever its code; the dot is never sent then.

The point of no return is ``_write_end``. The last thing before it is the look at the claim
(``MailContent.check``). Up to there this transaction has delivered nothing, and to cut the
connection takes back all of it. From there on the message may have been delivered: a connection
that breaks before the final reply is a result, ``lost``, and no exception (the window of RFC 1047).
A delivery is certain once a final reply of 2xx has been read, in LMTP that of the recipient; to
record it is the caller's.

An exception or a cancellation may leave the session in the middle of a message: the caller has to
cut the connection. Cancelled before the final dot, nothing was delivered; after it, nobody knows,
no result is told, and the message may come twice. A mail object that was announced has not been
sent then: its envelope ends with the connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from services.deliverer.addresses import unsendable
from services.deliverer.courier import (
    ClaimLost,
    Crowded,
    MailContent,
    MailObject,
    Result,
    ResultKind,
    Spent,
    Throttled,
    same_for_all,
)
from services.deliverer.line_ends import END_OF_DATA, Transparency, encode_data
from services.deliverer.servers.protocol import Following, nothing_follows
from services.deliverer.smtp.delivered_to import edit_for, without_delivered_to
from services.deliverer.smtp.envelope_commands import Answers, ask, group
from services.deliverer.smtp.reply import SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import Meaning, crowds, meaning
from services.deliverer.smtp.session import SmtpSession
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.failpoint import reach
from shared.log import printable


class _RecipientResult(NamedTuple):
    """What became of it for a recipient, and what the reply meant that says so."""

    result: Result
    meaning: Meaning


_RecipientResults: TypeAlias = dict[str, _RecipientResult]


async def transact(
    session: SmtpSession, mail_object: MailObject, following: Following
) -> dict[str, Result]:
    """Send a mail object and return what became of it for each recipient.

    Args:
        session: an open session; unless this raises, it can be used again: where it has announced
            a mail object, for that one alone.
        mail_object: what is to be sent; to recipients that are safe to send.
        following: is asked for the next mail object with the last write of this one.

    Raises:
        Throttled: a limit of the server; nothing was delivered to anybody.
        Unreachable: the connection broke before the final dot, or the server does not let us in, or
            takes no more over a connection that has carried mail. PipelineBroken: as ``ask`` does.
        SpoolMissing: as ``MailContent.chunks`` does.
        SpoolUnavailable: as ``MailContent.chunks`` does.
        ClaimLost: as ``MailContent.check`` does.
    """
    announced = session.announced is mail_object
    unfit = {} if announced else _unfit(session, mail_object)
    recipients = mail_object.recipients
    if unfit:
        recipients = [recipient for recipient in recipients if recipient not in unfit]
    if not recipients:
        return unfit
    session.served += 1
    why = session.announced_why if announced else _why_not_sender(session, mail_object.sender)
    sent = MailObject(mail_object.content, mail_object.sender if why is None else "", recipients)
    found = await _send(session, sent, following, announced=announced)
    if why is not None:
        found = _with_note(found, mail_object.sender, why)
    if any(each.meaning != "delivered" for each in found.values()):
        others = [r for r in recipients if found[r].meaning == "sender"]
        if others and sent.sender:
            again = sent._replace(recipients=others)
            found |= await _send_with_null_sender(session, again, found, following)
        _raise_for_limits(session, found)
    results = {recipient: each.result for recipient, each in found.items()}
    session.carried += any(result.verdict == "delivered" for result in results.values())
    return unfit | results if unfit else results


def _unfit(session: SmtpSession, mail_object: MailObject) -> dict[str, Result]:
    """Return the results for recipients whom this server cannot serve, without asking it."""
    content, _, recipients = mail_object
    limit = session.extensions.get("SIZE", "").strip()
    if limit.isdecimal() and 0 < int(limit) < content.size:
        why = f"{content.size} bytes are more than {session.server} takes ({limit}, by SIZE)"
        return same_for_all(recipients, Result("permanent", why))
    if "SMTPUTF8" in session.extensions:
        return {}
    why = f"{session.server} does not offer SMTPUTF8, which this address needs: "
    return {r: Result("permanent", why + printable(r)) for r in recipients if not r.isascii()}


def _can_be_announced(session: SmtpSession, mail_object: MailObject) -> bool:
    """Return whether it can follow another one: it is at hand, and this server can take it."""
    return mail_object.content.data is not None and not _unfit(session, mail_object)


def _why_not_sender(session: SmtpSession, sender: str) -> str | None:
    """Return why this server cannot be told this sender, or None if it can."""
    if not sender:
        return None
    if not sender.isascii() and "SMTPUTF8" not in session.extensions:
        return f"{session.server} does not offer SMTPUTF8"
    return session.quirks.refused.get(sender) or unsendable(sender)


def _with_note(found: Mapping[str, _RecipientResult], sender: str, why: str) -> _RecipientResults:
    """Return results that say that another sender was given, and why."""
    note = f"; with the null sender in place of {printable(sender, 100)}: {why}"
    return {
        recipient: _RecipientResult(result._replace(reply=result.reply + note), means)
        for recipient, (result, means) in found.items()
    }


async def _send_with_null_sender(
    session: SmtpSession,
    mail_object: MailObject,
    before: Mapping[str, _RecipientResult],
    following: Following,
) -> _RecipientResults:
    """Send it again to those recipients that were refused for the sender."""
    why = before[mail_object.recipients[0]].result.reply
    try:
        found = await _send(session, mail_object._replace(sender=""), following, announced=False)
        return _with_note(found, mail_object.sender, why)
    except (Unreachable, ClaimLost, SpoolMissing, SpoolUnavailable) as error:
        if not any(
            each.result.verdict == "delivered" or each.result.lost for each in before.values()
        ):
            if isinstance(error, Unreachable):
                session.quirks.note_refused(mail_object.sender, why)
            raise
        session.connection.abort()  # what others have, or may have, is not undone by that
        later = _RecipientResult(Result("temporary", str(error)), "temporary")
        return dict.fromkeys(mail_object.recipients, later)


def _raise_for_limits(session: SmtpSession, found: Mapping[str, _RecipientResult]) -> None:
    """Raise where nobody has the message for a limit of the server, or as it goes away."""
    meanings, first = {each.meaning for each in found.values()}, next(iter(found.values()))
    if meanings == {"rate"}:  # the gravest is told of: a 5xx may never end
        replies = (each.result.reply for each in found.values())
        raise Throttled(session.server, max(replies, key=lambda reply: reply[:1]))
    if meanings == {"session"}:  # 421 at the end of DATA: over another connection it may do
        raise Unreachable(session.server, first.result.reply)


async def _send(
    session: SmtpSession, mail_object: MailObject, following: Following, *, announced: bool
) -> _RecipientResults:
    """Send a mail object with the sender that it has."""
    session.announced = None
    answers = await ask(session, mail_object, announced=announced)
    _raise_if_exhausted(session, answers.mail)
    refused = _refused_recipients(session, answers, mail_object.recipients)
    accepted = mail_object.recipients
    if refused:
        accepted = [recipient for recipient in accepted if recipient not in refused]
    if answers.data is not None and answers.data.code == 354:
        if accepted:
            # What is refused for its sender is sent again over this connection before any other.
            again = mail_object.sender and any(x.meaning == "sender" for x in refused.values())
            then = nothing_follows if again else following
            refused |= await _send_message(session, mail_object.content, accepted, then)
        else:  # RFC 2920 section 3.1: DATA was let through, and there is nobody to send to
            await session.command(END_OF_DATA.removesuffix(b"\r\n"), SmtpStep.END)
        session.unfinished = False
    elif answers.data is not None and answers.data.code < 400:
        session.connection.abort()  # does it wait for the message now? Nobody knows
    return refused


def _raise_if_exhausted(session: SmtpSession, mail: SmtpReply) -> None:
    """Raise where a connection that has carried mail takes no more: a fresh one may do."""
    means = meaning(mail, SmtpStep.MAIL)
    if means == "rate" and not session.carried and crowds(mail):
        raise Crowded(session.server, f"{mail.code} {mail.text} (said to MAIL)")
    if session.carried and 400 <= mail.code < 500 and means != "sender":
        error = Spent if means == "rate" else Unreachable
        raise error(session.server, f"{mail.code} {mail.text} (said to MAIL)")


def _refused_recipients(
    session: SmtpSession, answers: Answers, recipients: Sequence[str]
) -> _RecipientResults:
    """Return the results for those to whom the message cannot be sent now."""
    if answers.accepted:
        return {}
    if meaning(answers.mail, SmtpStep.MAIL) != "delivered":
        return dict.fromkeys(recipients, _result_of(session, answers.mail, SmtpStep.MAIL))
    refused = {
        recipient: found
        for recipient, reply in zip(recipients, answers.rcpt, strict=True)
        if (found := _result_of(session, reply, SmtpStep.RCPT)).meaning != "delivered"
    }
    if answers.data is not None and answers.data.code != 354:
        rest = [r for r in recipients if r not in refused]
        refused |= dict.fromkeys(
            rest, _without_success(_result_of(session, answers.data, SmtpStep.DATA))
        )
    return refused


def _without_success(found: _RecipientResult) -> _RecipientResult:
    """Return a result that is no success: before the final dot nothing can have been delivered."""
    if found.meaning != "delivered":
        return found
    return _RecipientResult(Result("temporary", found.result.reply), "temporary")


_VERDICTS: dict[Meaning, ResultKind] = {
    "delivered": "delivered",
    "temporary": "temporary",
    "permanent": "permanent",
    "session": "temporary",
    "rate": "temporary",
    "sender": "permanent",
}


def _result_of(session: SmtpSession, reply: SmtpReply, step: SmtpStep) -> _RecipientResult:
    means = meaning(reply, step)
    verdict = "temporary" if 400 <= reply.code < 500 else _VERDICTS[means]
    return _RecipientResult(Result(verdict, reply.sentence(session.server, step)), means)


async def _send_message(
    session: SmtpSession, content: MailContent, recipients: Sequence[str], following: Following
) -> _RecipientResults:
    """Send the message; return what became of it for the recipients that were accepted."""
    try:
        await _write_message(session, content, recipients, following)
    except Unreachable:
        if not session.connection.replied:
            raise
        return dict.fromkeys(recipients, await _read_early_reply(session))
    if not session.lmtp:
        return dict.fromkeys(recipients, await _read_final_reply(session))
    return {
        recipient: await _read_final_reply(session) for recipient in recipients
    }  # RFC 2033 section 4.2


async def _write_message(
    session: SmtpSession, content: MailContent, recipients: Sequence[str], following: Following
) -> None:
    edit = edit_for(recipients, keep=session.keep_delivered_to)
    prefix = without_delivered_to(content.prefix)
    if content.data is not None:
        _write_end(session, content, encode_data(prefix + content.data, edit), following)
        return
    encode = Transparency(edit)
    session.connection.write(encode.feed(prefix))
    async for chunk in content.chunks():
        session.connection.write(encode.feed(chunk))
        await session.drain()
        if session.connection.replied:
            break
    _write_end(session, content, encode.end(), following)


def _write_end(
    session: SmtpSession, content: MailContent, data: bytes, following: Following
) -> None:
    if session.connection.replied:
        raise Unreachable(session.server, "it replied in the middle of the message")
    content.check()
    reach("deliverer", "before-dot")
    commands = _announce_next(session, following)
    session.connection.write(data + commands)
    reach("deliverer", "dot-sent")


def _announce_next(session: SmtpSession, following: Following) -> bytes:
    """Bind the next mail object, if it may follow at once; return the commands that announce it."""
    if not session.follows:
        return b""
    mail_object = following(lambda mail_object: _can_be_announced(session, mail_object))
    session.announced = mail_object
    if mail_object is None:
        return b""
    session.announced_why = _why_not_sender(session, mail_object.sender)
    if session.announced_why is not None:
        mail_object = mail_object._replace(sender="")
    return group(session, mail_object)


async def _read_early_reply(session: SmtpSession) -> _RecipientResult:
    """Return what the server said in the middle of the message, e.g. that it is too large."""
    reply = await session.read_reply(SmtpStep.END)
    session.connection.abort()  # the final dot must never follow
    return _without_success(_result_of(session, reply, SmtpStep.END))


async def _read_final_reply(session: SmtpSession) -> _RecipientResult:
    try:
        reply = await session.read_reply(SmtpStep.END)
        reach("deliverer", "replied")
        return _result_of(session, reply, SmtpStep.END)
    except Unreachable as error:
        why = f"{error}, after the message was sent and before the reply: it may have arrived"
        return _RecipientResult(Result("temporary", why, lost=True), "temporary")
