"""One mail transaction, of SMTP or of LMTP: MAIL, RCPT, DATA, the message, the replies.

The commands go out in one write where the server pipelines (RFC 2920). Over LMTP, where each has
to (RFC 2033 section 5), those for the next letter go out with the end of the message, which
may be the first in a group (RFC 2920 section 3.1): half the packets. Up to its final dot a broken
connection is ``Unreachable`` and nothing has been delivered. From then on it is a result, for the
message may have been taken (RFC 1047). Where anything raises in the middle of a message, the final
dot is never sent, and the caller must not use the session again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from services.deliverer.courier import Letter, Post, Result, Verdict, same_for_all
from services.deliverer.line_ends import END_OF_DATA, Transparency, encoded
from services.deliverer.reply import Meaning, Reply, Step, meaning
from services.deliverer.session import Session
from shared.errors import Unreachable
from shared.faultpoint import reach
from shared.log import printable

Following: TypeAlias = Callable[[Callable[[Post], bool]], Post | None]
"""Returns the letter that goes over the same connection next, if there is one already that this is
true of. From then on it is bound to this connection."""


async def transact(session: Session, post: Post, following: Following) -> dict[str, Result]:
    """Send a letter and return what became of it for each recipient.

    Args:
        session: an open session; unless this raises, it can be used again: where it has announced
            a letter, for that one alone.
        post: the letter; addresses that are safe to send.
        following: is asked for the next letter, when there is nothing left of this one but to wait.

    Raises:
        Unreachable: the connection broke before the final dot, or the server does not let us in.
        SpoolMissing: as ``Letter.chunks`` does.
        SpoolUnavailable: as ``Letter.chunks`` does.
        ClaimLost: as ``Letter.check`` does.
    """
    letter, _, recipients = post
    results = {} if session.announced is post else _unfit(session, post)
    fit = [r for r in recipients if r not in results] if results else recipients
    if not fit:
        return results
    session.served += 1
    replies = await _envelope(session, post, fit)
    refused = _refused(session, replies, fit)
    accepted = [r for r in fit if r not in refused] if refused else fit
    if replies.data is not None and replies.data.code == 354:
        if accepted:
            refused |= await _message(session, letter, accepted, following)
        else:  # RFC 2920 section 3.1: DATA was let through, and there is nobody to send to
            await session.command(END_OF_DATA.removesuffix(b"\r\n"), Step.END)
        session.unfinished = False
    elif replies.data is not None and replies.data.code < 400:
        session.channel.abort()  # does it wait for the message now? Nobody knows
    return results | refused


def _unfit(session: Session, post: Post) -> dict[str, Result]:
    """Return the results for recipients whom this server cannot serve, without asking it."""
    letter, sender, recipients = post
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


def _mail(session: Session, post: Post, recipients: Sequence[str]) -> bytes:
    line = f"MAIL FROM:<{post.sender}>"
    if "SIZE" in session.extensions:
        line += f" SIZE={post.letter.size}"
    if "8BITMIME" in session.extensions:
        line += " BODY=8BITMIME"
    if not post.sender.isascii() or not all(map(str.isascii, recipients)):
        line += " SMTPUTF8"
    return line.encode() + b"\r\n"


def _rcpt(recipients: Sequence[str]) -> list[bytes]:
    return [b"RCPT TO:<" + recipient.encode() + b">\r\n" for recipient in recipients]


def _group(session: Session, post: Post, recipients: Sequence[str]) -> bytes:
    """Return the commands that go together before the message."""
    return b"".join((_mail(session, post, recipients), *_rcpt(recipients), b"DATA\r\n"))


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


async def _envelope(session: Session, post: Post, recipients: Sequence[str]) -> _Replies:
    announced, session.announced = session.announced is post, None
    if session.unfinished and not announced:
        await session.command(b"RSET", Step.RSET)
    session.unfinished = True
    if "PIPELINING" not in session.extensions:
        return await _one_by_one(session, _mail(session, post, recipients), _rcpt(recipients))
    if not announced:
        session.channel.write(_group(session, post, recipients))
    answers = await _answers(session, (Step.MAIL, *(Step.RCPT for _ in recipients), Step.DATA))
    return _Replies(answers[0], answers[1:-1], answers[-1])


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
    session: Session, letter: Letter, recipients: Sequence[str], following: Following
) -> dict[str, Result]:
    """Send the message; return the results for the recipients that were accepted."""
    try:
        await _send(session, letter, following)
    except Unreachable:
        if not session.channel.replied:
            raise
        return same_for_all(recipients, await _cut_short(session))
    if not session.lmtp:
        return same_for_all(recipients, await _final(session))
    return {recipient: await _final(session) for recipient in recipients}  # RFC 2033 section 4.2


async def _send(session: Session, letter: Letter, following: Following) -> None:
    if letter.data is not None:
        _final_write(session, letter, encoded(letter.prefix + letter.data), following)
        return
    encode = Transparency()
    session.channel.write(encode.feed(letter.prefix))
    async for chunk in letter.chunks():
        session.channel.write(encode.feed(chunk))
        await session.drain()
        if session.channel.replied:
            break
    _final_write(session, letter, encode.end(), following)


def _final_write(session: Session, letter: Letter, data: bytes, following: Following) -> None:
    if session.channel.replied:
        raise Unreachable(session.server, "it replied in the middle of the message")
    letter.check()
    reach("deliverer", "before-dot")
    session.channel.write(data + _announcement(session, following))
    reach("deliverer", "dot-sent")


def _announcement(session: Session, following: Following) -> bytes:
    """Return the commands for the next letter, if they may go with the end of this one."""
    if not session.lmtp or "PIPELINING" not in session.extensions:
        return b""
    session.announced = following(lambda post: not _unfit(session, post))
    if session.announced is None:
        return b""
    return _group(session, session.announced, session.announced.recipients)


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
