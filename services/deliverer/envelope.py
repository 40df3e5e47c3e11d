"""The envelope of a letter on the wire: MAIL, RCPT and DATA, and what is answered.

They go out in one write where the server pipelines (RFC 2920). Some offer that and do not keep it:
they lose what came along with the first command, or answer out of turn. What shows that is
``PipelineBroken``; nothing has been sent then but commands, so a fresh connection may do without.
Others offer SIZE or 8BITMIME and refuse MAIL that makes use of it: they are asked without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.deliverer.channel import Silent
from services.deliverer.courier import Crowded, Post, Spent, Throttled
from services.deliverer.meaning import Meaning, crowds, meaning
from services.deliverer.quirks import Promise
from services.deliverer.reply import Reply, Step
from services.deliverer.session import PipelineBroken, Session
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

    mail: Reply
    rcpt: Sequence[Reply]
    data: Reply | None

    @property
    def accepted(self) -> bool:
        """Whether the message can be sent now, and to all."""
        taken = all(200 <= reply.code < 300 for reply in (self.mail, *self.rcpt))
        return taken and self.data is not None and self.data.code == 354


def group(session: Session, post: Post) -> bytes:
    """Return the commands that go together before the message.

    Args:
        session: as EHLO left it.
        post: the letter, with the sender that this server is to be told.
    """
    return b"".join((_mail(session, post), *_rcpt(post), b"DATA\r\n"))


async def ask(session: Session, post: Post, *, announced: bool) -> Answers:
    """Send the envelope of a letter, or if it was announced only read what is answered to it.

    Raises:
        PipelineBroken: what was sent together was not answered as it should be.
        Throttled: the server ends the session, for it wants less mail.
        Unreachable: the connection broke, or the server does not let us in.
    """
    options = session.quirks.options
    used = options.trusted
    answers = await _asked(session, post, announced=announced)
    if not used or options.kept:
        return answers
    if 200 <= answers.mail.code < 300:
        options.keep()
    elif _may_be_the_options(session, answers):
        return await _without_options(session, post, answers)
    return answers


def _may_be_the_options(session: Session, answers: Answers) -> bool:
    """Return whether MAIL may have been refused for what EHLO had offered (RFC 5321 4.1.1.11)."""
    mail, data = answers.mail, answers.data
    offered = "SIZE" in session.extensions or "8BITMIME" in session.extensions
    over = data is None or data.code >= 400
    said = _OPTIONS_REFUSED.match(f"{mail.code} {mail.words}") is not None
    return offered and over and said


async def _without_options(session: Session, post: Post, refused: Answers) -> Answers:
    """Ask once more without SIZE and BODY; return what was said before if that is no better."""
    options, well = session.quirks.options, False
    options.suspect()
    try:
        plain = await _asked(session, post, announced=False)
        well = 200 <= plain.mail.code < 300
        return plain if well else refused
    finally:
        options.went_without(well=well)


async def _asked(session: Session, post: Post, *, announced: bool) -> Answers:
    if session.unfinished and not announced:
        await session.command(b"RSET", Step.RSET)
    session.unfinished = True
    if announced:
        return await _together(session, post, session.quirks.following)
    if not session.pipelines:
        return await _each(session, post)
    session.channel.write(group(session, post))
    return await _together(session, post, session.quirks.pipelining)


def _mail(session: Session, post: Post) -> bytes:
    line = f"MAIL FROM:<{post.sender}>"
    options = session.quirks.options.trusted
    if options and "SIZE" in session.extensions:
        line += f" SIZE={post.letter.size}"
    if options and "8BITMIME" in session.extensions:
        line += " BODY=8BITMIME"
    if not post.sender.isascii() or not all(map(str.isascii, post.recipients)):
        line += " SMTPUTF8"
    return line.encode() + b"\r\n"


def _rcpt(post: Post) -> list[bytes]:
    return [b"RCPT TO:<" + recipient.encode() + b">\r\n" for recipient in post.recipients]


async def _together(session: Session, post: Post, promise: Promise) -> Answers:
    """Return the answers to commands that were sent together.

    Args:
        session: the session.
        post: the letter they are about.
        promise: what the server kept if they are answered well.
    """
    steps = (Step.MAIL, *(Step.RCPT for _ in post.recipients), Step.DATA)
    answers: list[Reply] = []
    while len(answers) < len(steps):
        for reply in await _some(session, steps[len(answers) :], promise, first=not answers):
            if reply.code == 421 and _SAYS_SO.search(reply.words):
                raise _broken(session, promise, reply)
            answers.append(_checked(session, reply, steps[len(answers)]))
    mail, *rcpt, data = answers
    found = Answers(mail, rcpt, data)
    wrong = None if found.accepted else _out_of_step(mail, rcpt, data)
    if wrong is not None:
        raise _broken(session, promise, wrong)
    promise.keep()
    return found


def _broken(session: Session, promise: Promise, wrong: Reply) -> PipelineBroken:
    promise.suspect()
    why = f"{wrong.code} {wrong.text} (said to commands sent together)"
    return PipelineBroken(session.server, why)


async def _some(
    session: Session, steps: Sequence[Step], promise: Promise, *, first: bool
) -> list[Reply]:
    """Return the next replies, at least one of them."""
    try:
        if promise.kept:
            return await session.replies(steps)
        if first:  # and alone: the others may never come
            return await session.replies(steps[:1], FIRST_SECONDS)
        return await session.replies(steps, REST_SECONDS)
    except Unreachable as error:
        if promise.kept:  # it is the connection, as far as anybody knows
            if isinstance(error, Silent) and not first:
                promise.doubt()  # it looks as if the rest had been lost
            raise
        promise.suspect()
        raise PipelineBroken(
            session.server, f"{error.said}, after commands sent together"
        ) from error


def _out_of_step(mail: Reply, rcpt: Sequence[Reply], data: Reply) -> Reply | None:
    """Return the answer that shows that commands are not taken together, or None.

    There are as many as there were commands, so MAIL was read for itself, whatever it was told.
    """
    for reply in (mail, *rcpt, data):
        if reply.code >= 400 and _SAYS_SO.search(reply.words):
            return reply
    early = next((reply for reply in (mail, *rcpt) if reply.code == 354), None)
    if early is not None or meaning(mail, Step.MAIL) != "delivered":
        return early  # what follows a refusal, follows from that
    lost = next((reply for reply in rcpt if reply.code in _NOT_UNDERSTOOD), None)
    if lost is not None or not any(200 <= reply.code < 300 for reply in rcpt):
        return lost
    wrong = data.code in _NOT_UNDERSTOOD or data.code < 300 or data.words.startswith("5.5.1")
    return data if wrong else None


async def _each(session: Session, post: Post) -> Answers:
    """Send one command after the other, each once the one before was answered."""
    well = False
    try:
        found = await _one_by_one(session, post)
        taken = meaning(found.mail, Step.MAIL) == "delivered"
        well = taken and not any(reply.code in _NOT_UNDERSTOOD for reply in found.rcpt)
        return found
    finally:
        session.quirks.pipelining.went_without(well=well)


async def _one_by_one(session: Session, post: Post) -> Answers:
    session.channel.write(_mail(session, post))
    answer = await _reply(session, Step.MAIL)
    answers: list[Reply] = []
    if meaning(answer, Step.MAIL) != "delivered":
        return Answers(answer, answers, None)
    for line in _rcpt(post):
        session.channel.write(line)
        answers.append(await _reply(session, Step.RCPT))
    if not any(meaning(reply, Step.RCPT) == "delivered" for reply in answers):
        return Answers(answer, answers, None)
    session.channel.write(b"DATA\r\n")
    return Answers(answer, answers, await _reply(session, Step.DATA))


async def _reply(session: Session, step: Step) -> Reply:
    return _checked(session, await session.reply(step), step)


def _checked(session: Session, reply: Reply, step: Step) -> Reply:
    """Return a reply that is about the message; one about this session ends the transaction."""
    if reply.code < 400:
        return reply
    means = meaning(reply, step)
    if means != "session" and reply.code != 421:
        return reply
    raise _of(session, reply, step, means)(
        session.server, f"{reply.code} {reply.text} (said to {step.phrase})"
    )


def _of(session: Session, reply: Reply, step: Step, means: Meaning) -> type[Unreachable]:
    """Return the error that a reply is, which is about this session or the server."""
    if means != "rate":
        return Unreachable
    if step is not Step.MAIL:
        return Throttled
    return Spent if session.carried else Crowded if crowds(reply) else Throttled
