"""NTLM, the "secure password authentication" of Exchange and the SBS connector ([MS-POP3]).

By pyspnego, which is imported when it is used, and is not there unless it was asked for. The user
name may have the domain in front of it, ``DOMAIN\\user``, or behind, ``user@domain``. A server is
not authenticated by it, and it is weaker than TLS: it is here for servers that offer nothing else.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from shared.authentication.mechanism import Credentials, MechanismFailed

if TYPE_CHECKING:
    from spnego import ContextProxy


LACKING: Final = (
    "NTLM takes the package pyspnego, which is not installed here: pip install"
    ' "pop3-connector[ntlm]"'
)


def is_there() -> bool:
    """Return whether what NTLM takes is installed."""
    return find_spec("spnego") is not None


class Ntlm:
    """One exchange of NTLM."""

    explanation = ""

    def __init__(self, credentials: Credentials) -> None:
        if not is_there():
            raise MechanismFailed(LACKING)
        import spnego

        self._context: ContextProxy = spnego.client(
            credentials.username,
            credentials.secret,
            hostname=credentials.host or "unspecified",
            service="POP3",
            protocol="ntlm",
            options=spnego.NegotiateOptions.use_ntlm,
        )

    def start(self) -> bytes | None:
        """Return the NEGOTIATE message."""
        return self._context.step()

    def answer(self, challenge: bytes) -> bytes:
        """Return the AUTHENTICATE message."""
        if self._context.complete:
            raise MechanismFailed("it goes on after NTLM's last message")
        try:
            token = self._context.step(challenge)
        except Exception as error:  # pyspnego raises struct.error, ValueError and its own alike
            raise MechanismFailed("its message of NTLM cannot be read") from error
        return token or b""

    def verify(self) -> None:
        """Take the server's word: NTLM has no proof of it."""
