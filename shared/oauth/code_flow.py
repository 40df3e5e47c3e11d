"""The authorization code flow for a program on a person's machine (RFC 8252), with PKCE (RFC 7636).

The address that a person opens, and what the browser is led back to: to a listener on this machine
(``loopback``), or as an address that the person pastes. What comes back counts only with the state
that we sent, so that nobody slips a code of somebody else's in.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

from authlib.common.security import generate_token
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from shared.log import printable
from shared.oauth.client import OAuthClient
from shared.oauth.token_answer import in_words

_VERIFIER: Final = 64
"""Characters of the code verifier (RFC 7636 section 4.1: 43 to 128)."""

_LONGEST: Final = 32 * 1024
_OURS: Final = ("response_type", "client_id", "redirect_uri", "scope", "state")


class NoCode(Exception):
    """What came back brings no code; the text says why."""


class NotOurs(NoCode):
    """It is no answer to what we asked: something else called, or another address was pasted."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """One try of a person to authorize us.

    Attributes:
        address: to be opened in a browser.
        redirect: where that is led back to.
        verifier: proves at the token URL that the code is ours.
        state: comes back with the code.
    """

    address: str = field(repr=False)
    redirect: str
    verifier: str = field(repr=False)
    state: str = field(repr=False)

    def code_in(self, returned: str) -> str:
        """Return the code in the address that the browser was led back to.

        Args:
            returned: the address, or all behind its question mark.

        Raises:
            NotOurs: the state is not the one that we sent.
            NoCode: the server refuses.
        """
        text = returned.strip()[:_LONGEST]
        # By hand: what is pasted may be anything, and urlsplit fails at some of it.
        query = text.partition("?")[2].partition("#")[0] if "?" in text else text
        found = {key: values[0] for key, values in parse_qs(query).items()}
        state = found.get("state", "").encode(errors="replace")
        if not hmac.compare_digest(state, self.state.encode()):
            raise NotOurs(
                "this is not the answer to the address above: it has another state, or none"
            )
        if "error" in found:
            said = in_words(found["error"], found.get("error_description"))
            raise NoCode(printable(said))
        if not found.get("code"):
            raise NoCode("there is no code in it")
        return found["code"]


def begin(client: OAuthClient, redirect: str) -> Authorization:
    """Return a new try.

    Args:
        client: as what we are registered.
        redirect: where the browser is to be led back to, with its port.
    """
    verifier, state = generate_token(_VERIFIER), secrets.token_urlsafe(24)
    more = {k: v for k, v in client.authorize_options.items() if k not in _OURS}
    if client.login_hint:
        more.setdefault("login_hint", client.login_hint)
    address = prepare_grant_uri(
        client.authorize_url,
        client_id=client.client_id,
        response_type="code",
        redirect_uri=redirect,
        scope=client.scope or None,
        state=state,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
        **more,
    )
    return Authorization(address, redirect, verifier, state)
