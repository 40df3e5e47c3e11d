"""Logs in over a POP3 connection: USER and PASS, APOP, or AUTH with a mechanism (RFC 1939, 5034).

What is taken is chosen by ``shared.authentication.choice`` from what CAPA and the greeting offer,
unless the account names it. What follows AUTH goes in steps, without an initial response: Exchange
Online takes XOAUTH2 in no other way, and a token is longer than a command may be. UTF8 (RFC 6856)
is asked for before the login, where it is offered.

A server may offer a mechanism that it cannot do for this password, or not at all. What it refuses,
or breaks off, is a promise not kept: in another session the password goes in clear, where the line
hides it. A server that has not proved that it knows the password gets it in no other way. What it
says of a refusal is told without the password, or token, that it may repeat.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Final, TypeAlias

from services.fetcher.pop3.client import Pop3Client
from services.fetcher.pop3.protocol import AUTH, Pop3Reply
from services.fetcher.pop3.quirks import Quirks
from services.fetcher.pop3.reply_meaning import meaning, out_of_order
from shared.authentication.choice import APOP, USER, Offer, choose
from shared.authentication.mechanism import (
    Credentials,
    Mechanism,
    MechanismFailed,
    MechanismKind,
    ProofMissing,
    decode_challenge,
)
from shared.authentication.passwords import apop_digest, apop_timestamp
from shared.errors import (
    LoginRefused,
    MaildropBusy,
    PromiseBroken,
    ServerFault,
    Silent,
    Unreachable,
)
from shared.log import printable

PIPELINED: Final = "PIPELINING"

Offered: TypeAlias = Mapping[str, tuple[str, ...]]
"""What CAPA lists: names, with their parameters."""

_IN_CLEAR: Final = (
    "the connection is not encrypted, and it offers nothing that keeps {}: set tls, or name the"
    " mechanism with auth"
)


class LoginTry:
    """One try to log in.

    Args:
        client: connected, greeted, and over TLS where that is wanted.
        credentials: whom as, and by what.
        by_token: the secret is an access token.
        hidden: nobody else can read what is sent.
        quirks: what the server does not keep.
    """

    def __init__(
        self,
        client: Pop3Client,
        credentials: Credentials,
        quirks: Quirks,
        *,
        by_token: bool,
        hidden: bool,
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._quirks = quirks
        self._by_token = by_token
        self._hidden = hidden
        self._utf8: bool | None = None
        self.mechanism = ""
        """What was tried last, as the configuration calls it."""

    async def log_in(self, setting: str, greeting: str, offered: Offered) -> bool | None:
        """Log in; return whether UTF8 was accepted, None where it is not offered.

        Args:
            setting: the account's ``auth``.
            greeting: what the server has said first.
            offered: what CAPA lists.

        Raises:
            LoginRefused: the server does not accept user name and password, or the token.
            PromiseBroken: it may accept them by another mechanism, or without what it offers.
            MaildropBusy: another session holds the maildrop, or it is too early or too many.
            ServerFault: nothing can be used, or it refused for another reason.
        """
        timestamp = apop_timestamp(greeting)
        kinds = choose(
            setting,
            self._offer(offered, timestamp),
            by_token=self._by_token,
            in_clear_first=self._quirks.no_covert_login,
        )
        if not kinds:
            raise ServerFault(self._client.server, self._nothing_usable(offered))
        first = kinds[0]
        self.mechanism = first.setting
        try:
            await self._log_in_by(first, offered, timestamp or "")
        except (PromiseBroken, MaildropBusy):
            raise
        except ProofMissing as error:
            raise ServerFault(self._client.server, f"{first.sasl}: {error}") from error
        except (ServerFault, MechanismFailed) as error:
            said = error.said if isinstance(error, ServerFault) else str(error)
            if len(kinds) > 1:
                broken = f"{first.sasl} is offered, and fails: {said}"
                raise PromiseBroken(self._client.server, broken, "no_covert_login") from error
            if isinstance(error, MechanismFailed):
                raise ServerFault(self._client.server, f"{first.sasl}: {error}") from error
            raise
        return self._utf8

    def _offer(self, offered: Offered, timestamp: str | None) -> Offer:
        sasl = frozenset(name.upper() for name in offered.get("SASL", ()))
        # Many do not list USER that take it; those that have AUTH in its place say so.
        user = "USER" in offered or not sasl & {"PLAIN", "LOGIN", "NTLM"}
        commands = [USER] if user else []
        if timestamp is not None:
            commands.append(APOP)
        return Offer(sasl, commands, self._hidden, self._credentials.binding is not None)

    def _nothing_usable(self, offered: Offered) -> str:
        what = "a token" if self._by_token else "a password"
        if not self._hidden:
            return _IN_CLEAR.format(f"{what} secret")
        listed = printable(" ".join(offered.get("SASL", ()))) or "nothing"
        return f"there is no mechanism that takes {what}: it offers {listed}"

    async def _log_in_by(self, kind: MechanismKind, offered: Offered, timestamp: str) -> None:
        username, secret = self._credentials.username, self._credentials.secret
        together = PIPELINED in offered
        if kind.make is not None:
            if "UTF8" in offered:
                await self._send([("UTF8",)], offered, together=False)
            await self._authenticate(kind)
            return
        commands: list[tuple[str, ...]] = [("USER", username), ("PASS", secret)]
        if kind is APOP:
            if not timestamp:
                raise ServerFault(
                    self._client.server, "its greeting has no timestamp, which APOP needs"
                )
            digest = apop_digest(timestamp, secret)
            self._client.redaction.learn(digest)
            commands = [("APOP", username, digest)]
        if "UTF8" in offered:
            commands.insert(0, ("UTF8",))
        for group in [commands] if together else [[command] for command in commands]:
            await self._send(group, offered, together=together)

    async def _send(
        self, commands: list[tuple[str, ...]], offered: Offered, *, together: bool
    ) -> None:
        """Send commands of the login, and read what is said to each."""
        client = self._client
        client.write(b"".join([client.line(*command) for command in commands]))
        for verb, *_ in commands:
            without = "no_utf8" if self._utf8 is False else None if offered else "no_capa"
            reply = await answer(client, verb, without)
            if verb == "UTF8":
                self._utf8 = reply.ok
            elif not reply.ok:
                raise refusal(client.server, reply, together=together)

    async def _authenticate(self, kind: MechanismKind) -> None:
        """Log in by AUTH (RFC 5034): challenges and answers in base64, until it says which."""
        if kind.make is None:
            raise TypeError(f"{kind.setting} is no mechanism of AUTH")
        client, mechanism = self._client, await asyncio.to_thread(kind.make, self._credentials)
        client.write(client.line(AUTH, kind.sasl))
        initial, answers = mechanism.start(), 0
        while (reply := await client.reply()).goes_on:
            answers += 1
            if initial is not None:
                said, initial = initial, None
            else:
                # SCRAM hashes for some milliseconds, as the server bids it.
                said = await asyncio.to_thread(mechanism.answer, decode_challenge(reply.text))
            encoded = base64.b64encode(said)
            client.redaction.learn(encoded.decode(), said.decode("latin-1"))
            client.write(client.answer(encoded))
        if not reply.ok:
            refused = _refused(client, reply, mechanism)
            if not answers and isinstance(refused, LoginRefused):
                raise MechanismFailed(f"it is refused: {refused.said}")  # it has no password yet
            raise refused
        mechanism.verify()


def _refused(client: Pop3Client, reply: Pop3Reply, mechanism: Mechanism) -> ServerFault:
    said = printable_reply(reply)
    if explanation := client.redaction.hidden(mechanism.explanation):
        said = f"{said} ({explanation})"
    return meaning(reply)(client.server, said)


async def answer(client: Pop3Client, verb: str, without: str | None = None) -> Pop3Reply:
    """Return the reply to a command of the login.

    Args:
        client: that has sent it.
        verb: of the command.
        without: what to do without if it hangs up at USER: the command before was refused, and
            some servers hang up then.
    """
    try:
        return await client.reply()
    except Unreachable as error:
        quirk = {"UTF8": "no_utf8", "USER": without}.get(verb)
        if quirk is None or (verb == "USER" and isinstance(error, Silent)):
            raise
        raise PromiseBroken(client.server, f"{verb}: {error.said}", quirk) from error


def refusal(server: str, reply: Pop3Reply, *, together: bool) -> ServerFault:
    """Return what a refused login is; of commands sent together, it may be that they were."""
    if together and out_of_order(reply):
        return PromiseBroken(server, printable_reply(reply), "no_pipelining")
    return meaning(reply)(server, printable_reply(reply))


def printable_reply(reply: Pop3Reply) -> str:
    """Return what a refusal says, for people."""
    return printable(reply.text) or f"it refused {reply.verb} without a reason"
