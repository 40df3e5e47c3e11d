"""SCRAM (RFC 5802, RFC 7677): neither side shows the password, and both prove that they know it.

By scramp, which reads a server's messages strictly. With channel binding where the server offers
the ``-PLUS`` of it and the connection has one: ``tls-unique``, of TLS 1.2 (RFC 5929). Python has no
``tls-exporter``, which TLS 1.3 wants (RFC 9266), so there it goes without. A server that says it
went well without its proof is not believed.
"""

from __future__ import annotations

import re
from typing import Final

from shared.authentication.mechanism import Credentials, MechanismFailed, ProofMissing

MOST_ITERATIONS: Final = 1_000_000
"""Rounds of hashing that a server may ask for; some ten times what servers do."""

_ITERATIONS: Final = re.compile(r"(?:^|,)i=([^,]*)")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


class Scram:
    """One exchange of SCRAM.

    Args:
        credentials: whom to log in as.
        name: as SASL has it, ``SCRAM-SHA-256-PLUS``.
    """

    explanation = ""

    def __init__(self, credentials: Credentials, name: str) -> None:
        from scramp import ScramClient, ScramException

        self._error: type[Exception] = ScramException
        binding = credentials.binding
        try:
            self._client = ScramClient(
                [name], credentials.username, credentials.secret, channel_binding=binding
            )
        except ScramException as error:
            # scramp refuses what SASLprep (RFC 4013) does.
            raise MechanismFailed(f"user name or password cannot be used: {error}") from error
        self._expected = [self._answer_first, self._check_proof]
        self._proved = False

    def start(self) -> bytes | None:
        """Return the client's first message."""
        return str(self._client.get_client_first()).encode()

    def answer(self, challenge: bytes) -> bytes:
        """Return the client's proof; then, to the server's own, an empty answer."""
        if not self._expected:
            raise MechanismFailed("it goes on after SCRAM's last message")
        step = self._expected.pop(0)
        try:
            return step(challenge.decode())
        except UnicodeDecodeError as error:
            raise MechanismFailed("its message of SCRAM is no UTF-8") from error
        except self._error as error:
            raise MechanismFailed(f"its message of SCRAM is wrong: {error}") from error

    def verify(self) -> None:
        """Be sure that the server has proved that it knows the password."""
        if not self._proved:
            raise ProofMissing("it did not prove that it knows the password, as SCRAM wants it")

    def _answer_first(self, message: str) -> bytes:
        said = _ITERATIONS.findall(message)
        if any(not _NUMBER.fullmatch(n) or int(n) > MOST_ITERATIONS for n in said):
            raise MechanismFailed(
                f"it wants more than {MOST_ITERATIONS} rounds of hashing, or none"
            )
        self._client.set_server_first(message)
        return str(self._client.get_client_final()).encode()

    def _check_proof(self, message: str) -> bytes:
        try:
            self._client.set_server_final(message)
        except self._error as error:
            kind = MechanismFailed if message.startswith("e=") else ProofMissing
            raise kind(f"its message of SCRAM is wrong: {error}") from error
        self._proved = True
        return b""
