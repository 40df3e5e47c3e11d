"""One mail transaction, of SMTP or of LMTP: the envelope, the message, the replies.

Where the server is known to take it, the envelope of the next letter goes out with the end of the
message, which may be the first in a group (RFC 2920 section 3.1): half the packets. Up to its final
dot a broken connection is ``Unreachable`` and nothing has been delivered. From then on it is a
result, for the message may have been taken (RFC 1047). Where anything raises in the middle of a
message, the final dot is never sent, and the caller must not use the session again.

A sender that the server does not take for its form or its domain keeps no letter from a mailbox: it
is sent again with the null sender, which every server has to take (RFC 5321 section 4.5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from services.deliverer.addresses import unsendable
from services.deliverer.courier import (
    ClaimLost,
    Crowded,
    Letter,
    Post,
    Result,
    Spent,
    Throttled,
    Verdict,
    same_for_all,
)
from services.deliverer.delivered_to import edit_for, without_delivered_to
from services.deliverer.envelope import Answers, ask, group
from services.deliverer.line_ends import END_OF_DATA, Transparency, encoded
from services.deliverer.meaning import Meaning, crowds, meaning
from services.deliverer.reply import Reply, Step
from services.deliverer.session import Session
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.faultpoint import reach
from shared.log import printable

Following: TypeAlias = Callable[[Callable[[Post], bool]], Post | None]
"""Returns the letter that goes over the same connection next, if there is one already that this is
true of. From then on it is bound to this connection."""


class _Told(NamedTuple):
    """What became of a letter for a recipient, and what the reply meant that says so."""

    result: Result
    meaning: Meaning


_Tidings: TypeAlias = dict[str, _Told]


async def transact(session: Session, post: Post, following: Following) -> dict[str, Result]:
    """Send a letter and return what became of it for each recipient.

    Args:
        session: an open session; unless this raises, it can be used again: where it has announced
            a letter, for that one alone.
        post: the letter; recipients that are safe to send.
        following: is asked for the next letter, when there is nothing left of this one but to wait.

    Raises:
        Throttled: a limit of the server; nothing was delivered to anybody.
        Unreachable: the connection broke before the final dot, or the server does not let us in, or
            takes no more over a connection that has carried mail. PipelineBroken: as ``ask`` does.
        SpoolMissing: as ``Letter.chunks`` does.
        SpoolUnavailable: as ``Letter.chunks`` does.
        ClaimLost: as ``Letter.check`` does.
    """
    announced = session.announced is post
    results = {} if announced else _unfit(session, post)
    fit = [r for r in post.recipients if r not in results] if results else post.recipients
    if not fit:
        return results
    session.served += 1
    why = session.announced_why if announced else _not_as_sender(session, post.sender)
    asked = Post(post.letter, post.sender if why is None else "", fit)
    told = await _once(session, asked, following, announced=announced)
    if why is not None:
        told = _noted(told, post.sender, why)
    if any(each.meaning != "delivered" for each in told.values()):
        others = [r for r in fit if told[r].meaning == "sender"]
        if others and asked.sender:
            again = asked._replace(recipients=others)
            told |= await _with_null_sender(session, again, told, following)
        _see_to_limits(session, told)
    found = {recipient: each.result for recipient, each in told.items()}
    session.carried += any(result.verdict == "delivered" for result in found.values())
    return results | found if results else found


def _unfit(session: Session, post: Post) -> dict[str, Result]:
    """Return the results for recipients whom this server cannot serve, without asking it."""
    letter, _, recipients = post
    limit = session.extensions.get("SIZE", "").strip()
    if limit.isdecimal() and 0 < int(limit) < letter.size:
        why = f"{letter.size} bytes are more than {session.server} takes ({limit}, by SIZE)"
        return same_for_all(recipients, Result("permanent", why))
    if "SMTPUTF8" in session.extensions:
        return {}
    why = f"{session.server} does not offer SMTPUTF8, which this address needs: "
    return {r: Result("permanent", why + printable(r)) for r in recipients if not r.isascii()}


def _can_be_announced(session: Session, post: Post) -> bool:
    """Return whether a letter can follow another one: it is at hand, and this server takes it."""
    return post.letter.data is not None and not _unfit(session, post)


def _not_as_sender(session: Session, sender: str) -> str | None:
    """Return why this server cannot be told this sender, or None if it can."""
    if not sender:
        return None
    if not sender.isascii() and "SMTPUTF8" not in session.extensions:
        return f"{session.server} does not offer SMTPUTF8"
    return session.quirks.refused.get(sender) or unsendable(sender)


def _noted(told: Mapping[str, _Told], sender: str, why: str) -> _Tidings:
    """Return tidings that say that another sender was told, and why."""
    note = f"; with the null sender in place of {printable(sender, 100)}: {why}"
    return {
        recipient: _Told(result._replace(reply=result.reply + note), means)
        for recipient, (result, means) in told.items()
    }


async def _with_null_sender(
    session: Session, post: Post, before: Mapping[str, _Told], following: Following
) -> _Tidings:
    """Send a letter again to those to whom its sender kept it from being sent."""
    why = before[post.recipients[0]].result.reply
    try:
        told = await _once(session, post._replace(sender=""), following, announced=False)
        return _noted(told, post.sender, why)
    except (Unreachable, ClaimLost, SpoolMissing, SpoolUnavailable) as error:
        if all(told.result.verdict != "delivered" for told in before.values()):
            if isinstance(error, Unreachable):
                session.quirks.refuses(post.sender, why)
            raise
        session.channel.abort()  # what has been delivered to others is not undone by that
        later = _Told(Result("temporary", str(error)), "temporary")
        return dict.fromkeys(post.recipients, later)


def _see_to_limits(session: Session, told: Mapping[str, _Told]) -> None:
    """Raise where nobody has the letter for a limit of the server, or as it goes away."""
    meanings, first = {each.meaning for each in told.values()}, next(iter(told.values()))
    if meanings == {"rate"}:  # the gravest is told of: a 5xx may never end
        replies = (each.result.reply for each in told.values())
        raise Throttled(session.server, max(replies, key=lambda reply: reply[:1]))
    if meanings == {"session"}:  # 421 at the end of DATA: over another connection it may do
        raise Unreachable(session.server, first.result.reply)


async def _once(session: Session, post: Post, following: Following, *, announced: bool) -> _Tidings:
    """Send a letter with the sender that it has."""
    session.announced = None
    answers = await ask(session, post, announced=announced)
    _see_to_exhaustion(session, answers.mail)
    refused = _refused(session, answers, post.recipients)
    accepted = [r for r in post.recipients if r not in refused] if refused else post.recipients
    if answers.data is not None and answers.data.code == 354:
        if accepted:
            # What is refused for its sender is sent again over this connection before any other.
            again = post.sender and any(told.meaning == "sender" for told in refused.values())
            then = _nothing_follows if again else following
            refused |= await _message(session, post.letter, accepted, then)
        else:  # RFC 2920 section 3.1: DATA was let through, and there is nobody to send to
            await session.command(END_OF_DATA.removesuffix(b"\r\n"), Step.END)
        session.unfinished = False
    elif answers.data is not None and answers.data.code < 400:
        session.channel.abort()  # does it wait for the message now? Nobody knows
    return refused


def _nothing_follows(_: Callable[[Post], bool]) -> None:
    return None


def _see_to_exhaustion(session: Session, mail: Reply) -> None:
    """Raise where a connection that has carried mail takes no more: a fresh one may do."""
    means = meaning(mail, Step.MAIL)
    if means == "rate" and not session.carried and crowds(mail):
        raise Crowded(session.server, f"{mail.code} {mail.text} (said to MAIL)")
    if session.carried and 400 <= mail.code < 500 and means != "sender":
        error = Spent if means == "rate" else Unreachable
        raise error(session.server, f"{mail.code} {mail.text} (said to MAIL)")


def _refused(session: Session, answers: Answers, recipients: Sequence[str]) -> _Tidings:
    """Return what became of it for all to whom the message cannot be sent now."""
    if answers.accepted:
        return {}
    if meaning(answers.mail, Step.MAIL) != "delivered":
        return dict.fromkeys(recipients, _told(session, answers.mail, Step.MAIL))
    refused = {
        recipient: told
        for recipient, reply in zip(recipients, answers.rcpt, strict=True)
        if (told := _told(session, reply, Step.RCPT)).meaning != "delivered"
    }
    if answers.data is not None and answers.data.code != 354:
        rest = [r for r in recipients if r not in refused]
        refused |= dict.fromkeys(rest, _not_yet(_told(session, answers.data, Step.DATA)))
    return refused


def _not_yet(told: _Told) -> _Told:
    """Return tidings of no success: before the final dot nothing can have been delivered."""
    if told.meaning != "delivered":
        return told
    return _Told(Result("temporary", told.result.reply), "temporary")


_VERDICTS: dict[Meaning, Verdict] = {
    "delivered": "delivered",
    "temporary": "temporary",
    "permanent": "permanent",
    "session": "temporary",
    "rate": "temporary",
    "sender": "permanent",
}


def _told(session: Session, reply: Reply, step: Step) -> _Told:
    means = meaning(reply, step)
    verdict = "temporary" if 400 <= reply.code < 500 else _VERDICTS[means]
    return _Told(Result(verdict, reply.said(session.server, step)), means)


async def _message(
    session: Session, letter: Letter, recipients: Sequence[str], following: Following
) -> _Tidings:
    """Send the message; return what became of it for the recipients that were accepted."""
    try:
        await _send(session, letter, recipients, following)
    except Unreachable:
        if not session.channel.replied:
            raise
        return dict.fromkeys(recipients, await _cut_short(session))
    if not session.lmtp:
        return dict.fromkeys(recipients, await _final(session))
    return {recipient: await _final(session) for recipient in recipients}  # RFC 2033 section 4.2


async def _send(
    session: Session, letter: Letter, recipients: Sequence[str], following: Following
) -> None:
    edit = edit_for(recipients, keep=session.keep_delivered_to)
    prefix = without_delivered_to(letter.prefix)
    if letter.data is not None:
        _final_write(session, letter, encoded(prefix + letter.data, edit), following)
        return
    encode = Transparency(edit)
    session.channel.write(encode.feed(prefix))
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
    if not session.follows:
        return b""
    post = session.announced = following(lambda post: _can_be_announced(session, post))
    if post is None:
        return b""
    session.announced_why = _not_as_sender(session, post.sender)
    return group(session, post if session.announced_why is None else post._replace(sender=""))


async def _cut_short(session: Session) -> _Told:
    """Return what the server said in the middle of the message, e.g. that it is too large."""
    told = _not_yet(_told(session, await session.reply(Step.END), Step.END))
    session.channel.abort()  # the final dot must never follow
    return told


async def _final(session: Session) -> _Told:
    try:
        reply = await session.reply(Step.END)
        reach("deliverer", "replied")
        return _told(session, reply, Step.END)
    except Unreachable as error:
        why = f"{error}, after the message was sent and before the reply: it may have arrived"
        return _Told(Result("temporary", why, lost=True), "temporary")
