"""Logs in at a mail server by AUTH (RFC 4954), with the mechanisms that every protocol shares.

The strongest is taken that the server offers, or the one that the destination names. A server may
offer one that it cannot do for this password, as that is stored in another form. So what is refused
goes once more in clear, for a password is sent over verified TLS alone; what it hangs up at does so
in the next session. If that works, it is remembered. Of what is said to AUTH nothing is shown but
the code: it may be the password.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Final

from services.deliverer.courier import Throttled
from services.deliverer.servers.token_login import LoginNotTaken
from services.deliverer.smtp.reply import SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import meaning
from services.deliverer.smtp.session import SmtpSession
from services.deliverer.smtp.target import Target
from shared.authentication.choice import Offer, choose
from shared.authentication.mechanism import (
    Credentials,
    MechanismFailed,
    MechanismKind,
    ProofMissing,
    decode_challenge,
)
from shared.errors import Unreachable

_GO_ON: Final = 334
_UNKNOWN: Final = 504
"""It does not know this mechanism, after all (RFC 4954 section 4)."""

_WORDS: Final[Mapping[int, str]] = {
    421: "it has too much to do, or is about to stop",
    432: "it wants another password",
    454: "it cannot check the login just now",
    530: "it wants TLS before the login",
    534: "it wants another mechanism",
    535: "it does not accept the user name and password of the destination",
    538: "it wants TLS before the login",
}
"""What replies to AUTH mean (RFC 4954 section 6)."""


async def log_in(session: SmtpSession, target: Target) -> None:
    """Log in with the credentials of a destination, if it has any.

    Raises:
        LoginNotTaken: it does not accept the user name and password, or the token.
        Unreachable: it does not let us in; no message is to blame.
        Throttled: it has too much to do for now.
    """
    login = target.credentials
    if login is None:
        return
    credentials = Credentials(
        login.user, login.password, target.host, _port(target), session.connection.binding
    )
    session.connection.quote(may=False)
    try:
        await _log_in(session, target, credentials, login.auth)
    finally:
        session.connection.quote(may=True)


def _port(target: Target) -> int:
    """Return the port of a server, 0 for a local socket."""
    return target.port if isinstance(target.port, int) else 0


async def _log_in(
    session: SmtpSession, target: Target, credentials: Credentials, setting: str
) -> None:
    offered = set(_mechanisms(session.extensions))
    covert, refused = target.quirks.covert_login, ""
    fell_back = not covert.trusted
    while True:
        offer = Offer(offered, hidden=True, bound=credentials.binding is not None)
        by_token, clear = target.tokens is not None, not covert.trusted
        kinds = choose(setting, offer, by_token=by_token, in_clear_first=clear)
        if not kinds:
            raise Unreachable(target.server, refused or "it offers no way to log in that is known")
        kind, can_fall_back = kinds[0], len(kinds) > 1
        try:
            reply = await _authenticate(session, kind, credentials)
        except Unreachable:
            if can_fall_back:  # it may hang up at what it offers: the next session goes without
                covert.suspect()
            raise
        except ProofMissing as error:
            raise Unreachable(target.server, f"AUTH {kind.sasl}: {error}") from error
        except MechanismFailed as error:
            # It waits for an answer; this ends the exchange (RFC 4954 section 4).
            reply = await session.command(b"*", SmtpStep.AUTH)
            refused = f"AUTH {kind.sasl}: {error}"
        else:
            if reply.code // 100 == 2:
                covert.note_without(well=fell_back)
                return
            refused = _in_words(reply)
        # One that is named is tried whether or not it is offered, and once.
        another = can_fall_back or (reply.code == _UNKNOWN and kind.sasl in offered)
        if reply.code // 100 == 4 or not another:
            covert.note_without(well=False)
            if meaning(reply, SmtpStep.AUTH) == "rate":
                raise Throttled(target.server, refused)
            raise (LoginNotTaken if reply.code // 100 == 5 else Unreachable)(target.server, refused)
        offered.discard(kind.sasl)
        if can_fall_back:
            covert.suspect()
            fell_back = True


async def _authenticate(
    session: SmtpSession, kind: MechanismKind, credentials: Credentials
) -> SmtpReply:
    """Return the last reply to AUTH by one mechanism."""
    if kind.make is None:
        raise MechanismFailed(f"{kind.setting} is of POP3 alone")
    mechanism = await asyncio.to_thread(kind.make, credentials)
    initial = mechanism.start()
    line = b"AUTH " + kind.sasl.encode()
    if initial is not None:
        line += b" " + (base64.b64encode(initial) or b"=")
    reply = await session.command(line, SmtpStep.AUTH)
    while reply.code == _GO_ON:
        # SCRAM hashes for some milliseconds, as the server bids it.
        said = await asyncio.to_thread(mechanism.answer, decode_challenge(reply.lines[0].strip()))
        reply = await session.command(base64.b64encode(said), SmtpStep.AUTH)
    if reply.code // 100 == 2:
        mechanism.verify()
    return reply


def _in_words(reply: SmtpReply) -> str:
    words = _WORDS.get(reply.code, "it refuses the login")
    return f"{reply.codes} (said to AUTH): {words}"


def _mechanisms(extensions: Mapping[str, str]) -> list[str]:
    """Return how one can log in; servers before RFC 2554 wrote ``AUTH=LOGIN``."""
    lines = (f"{k[5:]} {v}" for k, v in extensions.items() if k.startswith("AUTH="))
    return " ".join((extensions.get("AUTH", ""), *lines)).upper().split()
