"""One mail transaction, of SMTP or of LMTP: MAIL, RCPT, DATA, the message, the replies.

The commands go out in one write where the server pipelines (RFC 2920). Up to the final dot a broken
connection is ``Unreachable`` and nothing has been delivered. From then on it is a result, for the
message may have been taken (RFC 1047). Where anything raises in the middle of a message, the final
dot is never sent, and the caller must not use the session again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.deliverer.courier import Letter, Result, Verdict, same_for_all
from services.deliverer.line_ends import END_OF_DATA, Transparency, encoded
from services.deliverer.reply import Meaning, Reply, Step, meaning
from services.deliverer.session import Session
from shared.errors import Unreachable
from shared.faultpoint import reach
from shared.log import printable


async def transact(
    session: Session, letter: Letter, sender: str, recipients: Sequence[str]
) -> dict[str, Result]:
    """Send a letter and return what became of it for each recipient.

    Args:
        session: an open session; unless this raises, it can be used again.
        letter: the message.
        sender: the envelope sender, "" for the null sender; safe to send.
        recipients: the envelope recipients; safe to send.

    Raises:
        Unreachable: the connection broke before the final dot, or the server does not let us in.
        SpoolMissing: as ``Letter.chunks`` does.
        SpoolUnavailable: as ``Letter.chunks`` does.
        ClaimLost: as ``Letter.check`` does.
    """
    results = _unfit(session, letter, sender, recipients)
    fit = [r for r in recipients if r not in results]
    if not fit:
        return results
    session.served += 1
    replies = await _envelope(session, _mail(session, letter, sender, fit), fit)
    refused = _refused(session, replies, fit)
    accepted = [r for r in fit if r not in refused]
    if replies.data is not None and replies.data.code == 354:
        if accepted:
            refused |= await _message(session, letter, accepted)
        else:  # RFC 2920 section 3.1: DATA was let through, and there is nobody to send to
            await session.command(END_OF_DATA.removesuffix(b"\r\n"), Step.END)
        session.unfinished = False
    elif replies.data is not None and replies.data.code < 400:
        session.channel.abort()  # does it wait for the message now? Nobody knows
    return results | refused


def _unfit(
    session: Session, letter: Letter, sender: str, recipients: Sequence[str]
) -> dict[str, Result]:
    """Return the results for recipients whom this server cannot serve, without asking it."""
    limit = session.extensions.get("SIZE", "").strip()
    if limit.isdecimal() and 0 < int(limit) < letter.size:
        why = f"{letter.size} bytes are more than {session.server} takes ({limit}, by SIZE)"
        return same_for_all(recipients, Result("permanent", why))
    if "SMTPUTF8" in session.extensions:
        return {}
    why = f"{session.server} does not offer SMTPUTF8, which this address needs: "
    if not sender.isascii():
        return same_for_all(recipients, Result("permanent", why + printable(sender)))
    return {r: Result("permanent", why + printable(r)) for r in recipients if not r.isascii()}


def _mail(session: Session, letter: Letter, sender: str, recipients: Sequence[str]) -> bytes:
    line = f"MAIL FROM:<{sender}>"
    if "SIZE" in session.extensions:
        line += f" SIZE={letter.size}"
    if "8BITMIME" in session.extensions:
        line += " BODY=8BITMIME"
    if not sender.isascii() or not all(map(str.isascii, recipients)):
        line += " SMTPUTF8"
    return line.encode() + b"\r\n"


class _Replies(NamedTuple):
    """What was answered to the envelope; the commands that were not sent have no reply."""

    mail: Reply
    rcpt: Sequence[Reply]
    data: Reply | None

    @property
    def accepted(self) -> bool:
        """Whether the message can be sent now, and to all."""
        taken = all(200 <= reply.code < 300 for reply in (self.mail, *self.rcpt))
        return taken and self.data is not None and self.data.code == 354


async def _envelope(session: Session, mail: bytes, recipients: Sequence[str]) -> _Replies:
    rcpt = [b"RCPT TO:<" + recipient.encode() + b">\r\n" for recipient in recipients]
    if session.unfinished:
        await session.command(b"RSET", Step.RSET)
    session.unfinished = True
    if "PIPELINING" in session.extensions:
        session.channel.write(b"".join((mail, *rcpt, b"DATA\r\n")))
        answers = await _answers(session, (Step.MAIL, *(Step.RCPT for _ in rcpt), Step.DATA))
        return _Replies(answers[0], answers[1:-1], answers[-1])
    return await _one_by_one(session, mail, rcpt)


async def _answers(session: Session, steps: Sequence[Step]) -> list[Reply]:
    """Return the reply to each of these commands."""
    answers: list[Reply] = []
    while len(answers) < len(steps):
        for reply in await session.replies(steps[len(answers) :]):
            answers.append(_checked(session, reply, steps[len(answers)]))
    return answers


async def _one_by_one(session: Session, mail: bytes, rcpt: Sequence[bytes]) -> _Replies:
    session.channel.write(mail)
    answer = await _reply(session, Step.MAIL)
    answers: list[Reply] = []
    if meaning(answer, Step.MAIL) != "delivered":
        return _Replies(answer, answers, None)
    for line in rcpt:
        session.channel.write(line)
        answers.append(await _reply(session, Step.RCPT))
    if not any(meaning(reply, Step.RCPT) == "delivered" for reply in answers):
        return _Replies(answer, answers, None)
    session.channel.write(b"DATA\r\n")
    return _Replies(answer, answers, await _reply(session, Step.DATA))


async def _reply(session: Session, step: Step) -> Reply:
    return _checked(session, await session.reply(step), step)


def _checked(session: Session, reply: Reply, step: Step) -> Reply:
    """Return a reply that is about the message; one about this session ends the transaction."""
    if reply.code >= 400 and meaning(reply, step) == "session":
        raise Unreachable(session.server, f"{reply.code} {reply.text} (said to {step.phrase})")
    return reply


def _refused(session: Session, replies: _Replies, recipients: Sequence[str]) -> dict[str, Result]:
    """Return the results for all to whom the message cannot be sent now."""
    if replies.accepted:
        return {}
    if meaning(replies.mail, Step.MAIL) != "delivered":
        return same_for_all(recipients, _result(session, replies.mail, Step.MAIL))
    answers = dict(zip(recipients, replies.rcpt, strict=True))
    refused = {
        recipient: _result(session, reply, Step.RCPT)
        for recipient, reply in answers.items()
        if meaning(reply, Step.RCPT) != "delivered"
    }
    if replies.data is not None and replies.data.code != 354:
        rest = [r for r in recipients if r not in refused]
        refused |= same_for_all(rest, _not_yet(_result(session, replies.data, Step.DATA)))
    return refused


def _not_yet(result: Result) -> Result:
    """Return a result, no success: before the final dot nothing can have been delivered."""
    return Result("temporary", result.reply) if result.verdict == "delivered" else result


_VERDICTS: dict[Meaning, Verdict] = {
    "delivered": "delivered",
    "temporary": "temporary",
    "permanent": "permanent",
    "session": "temporary",
}


def _result(session: Session, reply: Reply, step: Step) -> Result:
    return Result(_VERDICTS[meaning(reply, step)], reply.said(session.server, step))


async def _message(
    session: Session, letter: Letter, recipients: Sequence[str]
) -> dict[str, Result]:
    """Send the message; return the results for the recipients that were accepted."""
    try:
        await _send(session, letter)
    except Unreachable:
        if not session.channel.replied:
            raise
        return same_for_all(recipients, await _cut_short(session))
    if not session.lmtp:
        return same_for_all(recipients, await _final(session))
    return {recipient: await _final(session) for recipient in recipients}  # RFC 2033 section 4.2


async def _send(session: Session, letter: Letter) -> None:
    if letter.data is not None:
        _final_write(session, letter, encoded(letter.prefix + letter.data))
        return
    encode = Transparency()
    session.channel.write(encode.feed(letter.prefix))
    async for chunk in letter.chunks():
        session.channel.write(encode.feed(chunk))
        await session.drain()
        if session.channel.replied:
            break
    _final_write(session, letter, encode.end())


def _final_write(session: Session, letter: Letter, data: bytes) -> None:
    if session.channel.replied:
        raise Unreachable(session.server, "it replied in the middle of the message")
    letter.check()
    reach("deliverer", "before-dot")
    session.channel.write(data)
    reach("deliverer", "dot-sent")


async def _cut_short(session: Session) -> Result:
    """Return what the server said in the middle of the message, e.g. that it is too large."""
    result = _not_yet(_result(session, await session.reply(Step.END), Step.END))
    session.channel.abort()  # the final dot must never follow
    return result


async def _final(session: Session) -> Result:
    try:
        reply = await session.reply(Step.END)
        reach("deliverer", "replied")
        return _result(session, reply, Step.END)
    except Unreachable as error:
        why = f"{error}, after the message was sent and before the reply: it may have arrived"
        return Result("temporary", why, lost=True)
