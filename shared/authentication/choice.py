"""The table of mechanisms, and which of them to take: the strongest that is offered and safe.

A line is safe where TLS hides it, or where it does not leave the machine. On any other nothing is
sent that gives the password away, where the server offers something that does not; unless the user
names the mechanism. A server may offer what it cannot do for this account, as its passwords are
stored in another form: so where a password may be sent in clear, that is what is tried next.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from shared.authentication.bearer import oauthbearer, xoauth2
from shared.authentication.mechanism import MechanismKind
from shared.authentication.ntlm import Ntlm
from shared.authentication.passwords import AuthLogin, CramMd5, Plain
from shared.authentication.scram import Scram

AUTO: Final = "auto"
USER: Final = MechanismKind("user", "", None, in_clear=True)
"""POP3's USER and PASS (RFC 1939 section 7)."""
APOP: Final = MechanismKind("apop", "", None)
"""POP3's APOP (RFC 1939 section 7)."""


_XOAUTH2: Final = MechanismKind("xoauth2", "XOAUTH2", xoauth2, in_clear=True, by_token=True)


def _scram(setting: str, name: str) -> MechanismKind:
    return MechanismKind(setting, name, partial(Scram, name=name))


KINDS: Final = (
    _scram("scram-sha-256", "SCRAM-SHA-256-PLUS"),
    _scram("scram-sha-256", "SCRAM-SHA-256"),
    _scram("scram-sha-1", "SCRAM-SHA-1-PLUS"),
    _scram("scram-sha-1", "SCRAM-SHA-1"),
    MechanismKind("cram-md5", "CRAM-MD5", CramMd5),
    APOP,
    USER,
    MechanismKind("plain", "PLAIN", Plain, in_clear=True),
    MechanismKind("login", "LOGIN", AuthLogin, in_clear=True),
    MechanismKind("ntlm", "NTLM", Ntlm),
    _XOAUTH2,
    MechanismKind("oauthbearer", "OAUTHBEARER", oauthbearer, in_clear=True, by_token=True),
)
"""All of them, the strongest first. NTLM comes after a password in clear within TLS, and before it
without. XOAUTH2 comes before OAUTHBEARER: where both are offered, it is what most clients use."""

SETTINGS: Final = tuple(dict.fromkeys((AUTO, *(kind.setting for kind in KINDS))))
"""What ``auth`` may be."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be done on a connection.

    Attributes:
        sasl: the names of the mechanisms that the server offers, in capitals.
        commands: which of USER and APOP it offers; none of them over other protocols than POP3.
        hidden: nobody reads the line: TLS, or the machine's own loopback.
        bound: the connection has a channel binding.
    """

    sasl: Collection[str]
    commands: Collection[MechanismKind] = ()
    hidden: bool = False
    bound: bool = False

    def has(self, kind: MechanismKind) -> bool:
        """Return whether a mechanism is offered, and can be done."""
        if kind.make is None:
            return kind in self.commands
        return kind.sasl in self.sasl and (self.bound or not kind.sasl.endswith("-PLUS"))


def choose(
    setting: str, offer: Offer, *, by_token: bool, in_clear_first: bool = False
) -> tuple[MechanismKind, ...]:
    """Return what to try, in this order; nothing where nothing can be used.

    Args:
        setting: the mechanism's name in the configuration, or ``auto``.
        offer: what can be done.
        by_token: there is an access token, and no password.
        in_clear_first: what does not show the password has failed here before, for no fault of it.
    """
    if setting != AUTO:
        return _named(setting, offer)
    usable = [kind for kind in KINDS if kind.by_token == by_token and offer.has(kind)]
    if by_token:
        # One that says nothing of its mechanisms may have them all the same.
        usable = usable or ([] if offer.sasl else [_XOAUTH2])
        return tuple(usable[:1]) if offer.hidden else ()
    covert = [kind for kind in usable if not kind.in_clear]
    clear = [kind for kind in usable if kind.in_clear][:1]
    if not offer.hidden:
        return tuple(covert[:1] or clear)
    strong = [kind for kind in covert if kind is not APOP and kind.setting != "ntlm"][:1]
    if in_clear_first:
        strong = []
    return (*strong, *clear) or tuple(covert[:1])


def _named(setting: str, offer: Offer) -> tuple[MechanismKind, ...]:
    """Return the mechanism that the user has named, whether or not the server speaks of it."""
    named = [kind for kind in KINDS if kind.setting == setting]
    offered = [kind for kind in named if offer.has(kind)]
    return tuple(offered[:1] or named[-1:])
