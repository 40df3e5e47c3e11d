"""Recognises a password that was refused, without keeping it.

A refused password is not tried again for a while, so that the account is not locked; a changed one
is, at the account's next interval. Where access tokens are used, it is what they are had by that
was refused: a token is another one each hour. What is kept is a salted scrypt hash of user name and
password (RFC 7914): whoever reads the state database has to spend on each guess what we spend on
one look.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from typing import Final

from services.fetcher.pop3.login import Login

_SALT: Final = 16
_COST: Final = 2**13
"""The cost of a hash: N of scrypt; see docs/benchmarks.md."""


async def fingerprint(login: Login) -> str:
    """Return what the user name and password of today can be recognised by."""
    return await _hashed(login, os.urandom(_SALT))


async def unchanged(login: Login, refused: str) -> bool:
    """Return whether user name and password are those that were refused.

    Args:
        login: with the password of today.
        refused: what ``fingerprint`` returned then.
    """
    salt = bytes.fromhex(refused.partition("$")[0])
    return hmac.compare_digest(await _hashed(login, salt), refused)


async def _hashed(login: Login, salt: bytes) -> str:
    if login.tokens is not None:
        secret = await login.tokens.grant()
    else:
        secret = await asyncio.to_thread(login.password)
    return await asyncio.to_thread(_hash, f"{login.host}\0{login.username}\0{secret}", salt)


def _hash(text: str, salt: bytes) -> str:
    secret = text.encode("utf-8", "surrogatepass")
    return f"{salt.hex()}${hashlib.scrypt(secret, salt=salt, n=_COST, r=8, p=1, dklen=16).hex()}"
