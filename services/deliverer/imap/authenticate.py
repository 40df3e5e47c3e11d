"""Logs in at an IMAP server: AUTHENTICATE with the mechanisms that every protocol shares, or LOGIN.

The strongest is taken that the server offers, or the one that the destination names; where it
offers none that is known, LOGIN, unless it says that this is off (RFC 3501 section 6.2.3). A server
may offer a mechanism that it cannot do for this password, as that is stored in another form: what
is refused goes once more in clear, for nobody reads the line, and what it hangs up at does so in
the next session. If that works, it is remembered. Of what is said to a login nothing is shown but
codes, and why a token is refused, less the token: it may be the password.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from services.deliverer.courier import Throttled
from services.deliverer.imap.commands import quoted
from services.deliverer.imap.reply_meaning import meaning
from services.deliverer.imap.response import ImapStatus
from services.deliverer.imap.session import ImapReply, ImapSession
from services.deliverer.imap.steps import ImapStep
from services.deliverer.imap.target import ImapTarget
from services.deliverer.servers.token_login import LoginNotTaken
from shared.authentication.choice import Offer, choose
from shared.authentication.mechanism import (
    Credentials,
    Mechanism,
    MechanismFailed,
    MechanismKind,
    ProofMissing,
    decode_challenge,
)
from shared.errors import Unreachable
from shared.log import printable
from shared.redaction.known_secrets import HIDDEN

_PREFIX: Final = "AUTH="
_HIDDEN: Final = HIDDEN.encode()

_WORDS: Final[Mapping[str, str]] = {
    "AUTHENTICATIONFAILED": "it does not accept the user name and password of the destination",
    "AUTHORIZATIONFAILED": "this login may not use the mailbox that it asks for",
    "EXPIRED": "the password, or the account, has expired there",
    "PRIVACYREQUIRED": "it wants TLS before the login",
    "CONTACTADMIN": "whoever runs the server has to be asked about this account",
    "UNAVAILABLE": "it cannot check the login just now",
    "LIMIT": "it has too many connections or logins of this user",
    "WEBALERT": "the provider wants the user to log in with a browser first",
    "ALERT": "the provider has something to tell the user: log in with a browser; it may want an"
    " app password, or IMAP to be switched on",
}
"""What codes mean in a reply to a login (RFC 5530)."""

_LATER: Final = frozenset({"UNAVAILABLE", "INUSE", "SERVERBUG", "LIMIT"})
"""What says nothing of the password."""


_NOT_TRIED: Final = ImapStatus("NO", "", b"", "")


class _Refused(NamedTuple):
    """A login that did not come about.

    Attributes:
        status: what the server said.
        words: what to tell of it.
    """

    status: ImapStatus
    words: str


async def log_in(session: ImapSession, target: ImapTarget, secret: str) -> None:
    """Log in with the password of a destination, or with an access token.

    Raises:
        LoginNotTaken: the server does not accept it.
        Unreachable: it does not let us in for another reason.
        Throttled: it has too much to do for now.
    """
    offers, session.capabilities = session.capabilities, frozenset()  # others come with the login
    session.connection.quote(may=False)
    try:
        refused = await _log_in(session, target, secret, offers)
    finally:
        session.connection.quote(may=True)
    if refused is not None:
        raise _error(refused, target)


async def _log_in(
    session: ImapSession, target: ImapTarget, secret: str, offers: Collection[str]
) -> _Refused | None:
    offered = {word.removeprefix(_PREFIX) for word in offers if word.startswith(_PREFIX)}
    binding = session.connection.binding
    credentials = Credentials(target.user, secret, target.host, target.port, binding)
    covert = target.covert_login
    fell_back = not covert.trusted
    while True:
        offer = Offer(offered, hidden=True, bound=binding is not None)
        by_token, clear = target.tokens is not None, not covert.trusted
        kinds = choose(target.auth, offer, by_token=by_token, in_clear_first=clear)
        if not kinds:
            if "LOGINDISABLED" in offers or by_token:
                raise Unreachable(target.server, "it offers no way to log in that can be used")
            return await _login_command(session, target, secret)
        at_once = "SASL-IR" in offers
        try:
            refused = await _authenticate(session, kinds[0], credentials, at_once=at_once)
        except Unreachable:
            if len(kinds) > 1:  # it may hang up at what it offers: the next session goes without
                covert.suspect()
            raise
        if refused is None or refused.status.code in _LATER or len(kinds) == 1:
            covert.note_without(well=fell_back and refused is None)
            return refused
        offered.discard(kinds[0].sasl)
        covert.suspect()
        fell_back = True


async def _authenticate(
    session: ImapSession, kind: MechanismKind, credentials: Credentials, *, at_once: bool
) -> _Refused | None:
    """Log in by one mechanism (RFC 3501 section 6.2.2); return how it was refused, if it was."""
    if kind.make is None:
        raise Unreachable(session.server, f"auth={kind.setting} is of POP3 alone")
    try:
        mechanism = await asyncio.to_thread(kind.make, credentials)
    except (
        MechanismFailed
    ) as error:  # nothing is sent: it cannot be done with this password, or here
        return _Refused(_NOT_TRIED, f"{kind.sasl}: {error}")
    try:
        reply = await _exchange(session, kind, mechanism, at_once=at_once)
        if reply.status.kind == "OK":
            mechanism.verify()
            return None
    except ProofMissing as error:
        raise Unreachable(session.server, f"{kind.sasl}: {error}") from error
    except MechanismFailed as error:
        session.write(b"*\r\n")  # it waits for an answer; this ends the exchange
        return _Refused((await session.finish(ImapStep.LOGIN)).status, f"{kind.sasl}: {error}")
    said = printable(session.hidden(mechanism.explanation))
    return _Refused(reply.status, _in_words(reply.status) + (f" ({said})" if said else ""))


async def _exchange(
    session: ImapSession, kind: MechanismKind, mechanism: Mechanism, *, at_once: bool
) -> ImapReply:
    initial = mechanism.start()
    words = b"AUTHENTICATE " + kind.sasl.encode()
    if initial is not None and at_once:  # RFC 4959
        session.begin(
            words + b" " + (base64.b64encode(initial) or b"="), shown=words + b" " + _HIDDEN
        )
        initial = None
    else:
        session.begin(words)
    session.write(b"\r\n")
    while (reply := await session.await_leave(ImapStep.LOGIN)) is None:
        # SCRAM hashes for some milliseconds, as the server bids it.
        said = initial
        if said is None:
            said = await asyncio.to_thread(mechanism.answer, decode_challenge(session.challenge))
        initial = None
        session.write(base64.b64encode(said) + b"\r\n")
        session.note_sent(_HIDDEN)
    return reply


async def _login_command(session: ImapSession, target: ImapTarget, secret: str) -> _Refused | None:
    """Log in by LOGIN; what no quoted string can hold goes as a literal."""
    session.begin(b"LOGIN", shown=b"LOGIN " + _HIDDEN)
    reply: ImapReply | None = None
    for word in (target.user.encode(), secret.encode()):
        if word.isascii():
            session.write(b" " + quoted(word))
            continue
        session.write(b" {%d}\r\n" % len(word))
        reply = await session.await_leave(ImapStep.LOGIN)
        if reply is not None:
            return _Refused(reply.status, _in_words(reply.status))
        session.write(word)
    session.write(b"\r\n")
    status = (await session.finish(ImapStep.LOGIN)).status
    return None if status.kind == "OK" else _Refused(status, _in_words(status))


def _in_words(status: ImapStatus) -> str:
    code = f" [{status.code}]" if status.code in _WORDS else ""  # any other may be anything
    words = _WORDS.get(status.code, "it refuses the login")
    if meaning(status, ImapStep.LOGIN) == "rate":
        words = _WORDS["LIMIT"]
    return f"{status.kind}{code} (said to the login): {words}"


def _error(refused: _Refused, target: ImapTarget) -> Unreachable:
    if meaning(refused.status, ImapStep.LOGIN) == "rate":
        return Throttled(target.server, refused.words)
    error = Unreachable if refused.status.code in _LATER else LoginNotTaken
    return error(target.server, refused.words)
