"""Opens a session with an access token: one that a server refuses before its time is renewed once.

It trusts the protocol to tell a token that is not accepted (``LoginNotTaken``) from all else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.authentication.tokens import AccessTokens
from shared.errors import TokenRefused, Unreachable

S = TypeVar("S")


class LoginNotTaken(Unreachable):
    """The server does not accept this password, or this access token."""


async def open_by_token(
    server: str, tokens: AccessTokens, open_with: Callable[[str], Awaitable[S]]
) -> S:
    """Return a session that was opened with an access token.

    Args:
        server: what logs and errors call it.
        tokens: where they come from.
        open_with: opens a session with a token.

    Raises:
        Unreachable: as ``open_with`` does, or a person has to authorize anew.
    """
    try:
        token = await tokens.current()
        try:
            return await open_with(token)
        except LoginNotTaken:  # before its time: revoked, or the clock is wrong
            return await open_with(await tokens.renewed(token))
    except TokenRefused as error:
        raise Unreachable(server, error.said) from error
