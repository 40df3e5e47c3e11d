"""The envelope of a message on the wire: MAIL, RCPT and DATA, and what is answered.

They go out in one write where the server pipelines (RFC 2920). Some offer that and do not keep it:
they lose what came along with the first command, or answer out of turn. What shows that is
``PipelineBroken``; nothing has been sent then but commands, so a fresh connection may do without.
Others offer SIZE or 8BITMIME and refuse MAIL that makes use of it: they are asked without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.deliverer.courier import Crowded, MailObject, Spent, Throttled
from services.deliverer.servers.connection import NoReplyInTime
from services.deliverer.servers.promise import Promise
from services.deliverer.servers.protocol import PipelineBroken
from services.deliverer.smtp.reply import SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import Meaning, crowds, meaning
from services.deliverer.smtp.session import SmtpSession
from shared.errors import Unreachable

FIRST_SECONDS: Final = 60.0
"""How long to wait for the first reply to commands sent together, while the server is not known to
take them so. Falling back costs little: it is no sign of anything but impatience."""
REST_SECONDS: Final = 20.0
"""The same for each of the others, once the first has come."""

_NOT_UNDERSTOOD: Final = frozenset({500, 502, 503})
_SAYS_SO: Final = re.compile(
    r"pipelin|synchroni[sz]ation|protocol (error|violation)|early talk", re.IGNORECASE
)
_OPTIONS_REFUSED: Final = re.compile(r"(500|501|504|555)( [1-6]\.[3-6]\.|(?! [1-6]\.\d))")


class Answers(NamedTuple):
    """What was answered to the envelope; the commands that were not sent have no reply."""

    mail: SmtpReply
    rcpt: Sequence[SmtpReply]
    data: SmtpReply | None

    @property
    def accepted(self) -> bool:
        """Whether the message can be sent now, and to all."""
        taken = all(200 <= reply.code < 300 for reply in (self.mail, *self.rcpt))
        return taken and self.data is not None and self.data.code == 354


def group(session: SmtpSession, mail_object: MailObject) -> bytes:
    """Return the commands that go together before the message.

    Args:
        session: as EHLO left it.
        mail_object: with the sender that this server is to be told.
    """
    return b"".join((_mail_line(session, mail_object), *_rcpt_lines(mail_object), b"DATA\r\n"))


async def ask(session: SmtpSession, mail_object: MailObject, *, announced: bool) -> Answers:
    """Send the envelope of a mail object, or, if it was announced, only read the replies to it.

    Raises:
        PipelineBroken: what was sent together was not answered as it should be.
        Throttled: the server ends the session, for it wants less mail.
        Unreachable: the connection broke, or the server does not let us in.
    """
    options = session.quirks.options
    used = options.trusted
    answers = await _ask_once(session, mail_object, announced=announced)
    if not used or options.kept:
        return answers
    if 200 <= answers.mail.code < 300:
        options.note_kept()
    elif _may_be_the_options(session, answers):
        return await _ask_without_options(session, mail_object, answers)
    return answers


def _may_be_the_options(session: SmtpSession, answers: Answers) -> bool:
    """Return whether MAIL may have been refused for its parameters (RFC 5321 section 4.1.1.11)."""
    mail, data = answers.mail, answers.data
    offered = "SIZE" in session.extensions or "8BITMIME" in session.extensions
    over = data is None or data.code >= 400
    said = _OPTIONS_REFUSED.match(f"{mail.code} {mail.words}") is not None
    return offered and over and said


async def _ask_without_options(
    session: SmtpSession, mail_object: MailObject, refused: Answers
) -> Answers:
    """Ask once more without SIZE and BODY; return what was said before if that is no better."""
    options, well = session.quirks.options, False
    options.suspect()
    try:
        plain = await _ask_once(session, mail_object, announced=False)
        well = 200 <= plain.mail.code < 300
        return plain if well else refused
    finally:
        options.note_without(well=well)


async def _ask_once(session: SmtpSession, mail_object: MailObject, *, announced: bool) -> Answers:
    if session.unfinished and not announced:
        await session.command(b"RSET", SmtpStep.RSET)
    session.unfinished = True
    if announced:
        return await _read_together(session, mail_object, session.quirks.following)
    if not session.pipelines:
        return await _ask_one_by_one(session, mail_object)
    session.connection.write(group(session, mail_object))
    return await _read_together(session, mail_object, session.quirks.pipelining)


def _mail_line(session: SmtpSession, mail_object: MailObject) -> bytes:
    line = f"MAIL FROM:<{mail_object.sender}>"
    options = session.quirks.options.trusted
    if options and "SIZE" in session.extensions:
        line += f" SIZE={mail_object.content.size}"
    if options and "8BITMIME" in session.extensions:
        line += " BODY=8BITMIME"
    if not mail_object.sender.isascii() or not all(map(str.isascii, mail_object.recipients)):
        line += " SMTPUTF8"
    return line.encode() + b"\r\n"


def _rcpt_lines(mail_object: MailObject) -> list[bytes]:
    return [b"RCPT TO:<" + recipient.encode() + b">\r\n" for recipient in mail_object.recipients]


async def _read_together(
    session: SmtpSession, mail_object: MailObject, promise: Promise
) -> Answers:
    """Return the answers to commands that were sent together.

    Args:
        session: the session.
        mail_object: what they are about.
        promise: what the server kept if they are answered well.
    """
    steps = (SmtpStep.MAIL, *(SmtpStep.RCPT for _ in mail_object.recipients), SmtpStep.DATA)
    answers: list[SmtpReply] = []
    while len(answers) < len(steps):
        for reply in await _read_some(session, steps[len(answers) :], promise, first=not answers):
            if reply.code == 421 and _SAYS_SO.search(reply.words):
                raise _pipeline_broken(session, promise, reply)
            answers.append(_check_reply(session, reply, steps[len(answers)]))
    mail, *rcpt, data = answers
    found = Answers(mail, rcpt, data)
    wrong = None if found.accepted else _out_of_step(mail, rcpt, data)
    if wrong is not None:
        raise _pipeline_broken(session, promise, wrong)
    promise.note_kept()
    return found


def _pipeline_broken(session: SmtpSession, promise: Promise, wrong: SmtpReply) -> PipelineBroken:
    promise.suspect()
    why = f"{wrong.code} {wrong.text} (said to commands sent together)"
    return PipelineBroken(session.server, why)


async def _read_some(
    session: SmtpSession, steps: Sequence[SmtpStep], promise: Promise, *, first: bool
) -> list[SmtpReply]:
    """Return the next replies, at least one of them."""
    try:
        if promise.kept:
            return await session.read_replies(steps)
        if first:  # and alone: the others may never come
            return await session.read_replies(steps[:1], FIRST_SECONDS)
        return await session.read_replies(steps, REST_SECONDS)
    except Unreachable as error:
        if promise.kept:  # it is the connection, as far as anybody knows
            if isinstance(error, NoReplyInTime) and not first:
                promise.doubt()  # it looks as if the rest had been lost
            raise
        promise.suspect()
        raise PipelineBroken(
            session.server, f"{error.said}, after commands sent together"
        ) from error


def _out_of_step(mail: SmtpReply, rcpt: Sequence[SmtpReply], data: SmtpReply) -> SmtpReply | None:
    """Return the reply that shows that commands are not taken together, or None.

    There are as many as there were commands, so MAIL was read for itself, whatever it was told.
    """
    for reply in (mail, *rcpt, data):
        if reply.code >= 400 and _SAYS_SO.search(reply.words):
            return reply
    early = next((reply for reply in (mail, *rcpt) if reply.code == 354), None)
    if early is not None or meaning(mail, SmtpStep.MAIL) != "delivered":
        return early  # what follows a refusal, follows from that
    lost = next((reply for reply in rcpt if reply.code in _NOT_UNDERSTOOD), None)
    if lost is not None or not any(200 <= reply.code < 300 for reply in rcpt):
        return lost
    wrong = data.code in _NOT_UNDERSTOOD or data.code < 300 or data.words.startswith("5.5.1")
    return data if wrong else None


async def _ask_one_by_one(session: SmtpSession, mail_object: MailObject) -> Answers:
    """Send one command after the other, each once the one before was answered."""
    well = False
    try:
        found = await _send_one_by_one(session, mail_object)
        taken = meaning(found.mail, SmtpStep.MAIL) == "delivered"
        well = taken and not any(reply.code in _NOT_UNDERSTOOD for reply in found.rcpt)
        return found
    finally:
        session.quirks.pipelining.note_without(well=well)


async def _send_one_by_one(session: SmtpSession, mail_object: MailObject) -> Answers:
    session.connection.write(_mail_line(session, mail_object))
    answer = await _read_reply(session, SmtpStep.MAIL)
    answers: list[SmtpReply] = []
    if meaning(answer, SmtpStep.MAIL) != "delivered":
        return Answers(answer, answers, None)
    for line in _rcpt_lines(mail_object):
        session.connection.write(line)
        answers.append(await _read_reply(session, SmtpStep.RCPT))
    if not any(meaning(reply, SmtpStep.RCPT) == "delivered" for reply in answers):
        return Answers(answer, answers, None)
    session.connection.write(b"DATA\r\n")
    return Answers(answer, answers, await _read_reply(session, SmtpStep.DATA))


async def _read_reply(session: SmtpSession, step: SmtpStep) -> SmtpReply:
    return _check_reply(session, await session.read_reply(step), step)


def _check_reply(session: SmtpSession, reply: SmtpReply, step: SmtpStep) -> SmtpReply:
    """Return a reply that is about the message; one about this session ends the transaction."""
    if reply.code < 400:
        return reply
    means = meaning(reply, step)
    if means != "session" and reply.code != 421:
        return reply
    raise _error_for(session, reply, step, means)(
        session.server, f"{reply.code} {reply.text} (said to {step.phrase})"
    )


def _error_for(
    session: SmtpSession, reply: SmtpReply, step: SmtpStep, means: Meaning
) -> type[Unreachable]:
    """Return the error for a reply that is about this session or the server."""
    if means != "rate":
        return Unreachable
    if step is not SmtpStep.MAIL:
        return Throttled
    return Spent if session.carried else Crowded if crowds(reply) else Throttled
