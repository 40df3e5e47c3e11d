"""Whatever a server says to AUTH, a login ends, and in one of the errors that it may end in."""

import asyncio
import base64
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.fetcher.pop3.deadlines import Deadlines
from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from shared.authentication.choice import KINDS
from shared.errors import ServerFault

PASSWORD = "open-sesame"
SASL = sorted({kind.setting for kind in KINDS if kind.make is not None})
LISTED = " ".join(kind.sasl for kind in KINDS if kind.make is not None)


def challenge(said: bytes) -> bytes:
    return b"+ " + base64.b64encode(said) + b"\r\n"


SCRAM = st.builds(
    lambda nonce, salt, rounds: f"r={nonce},s={salt},i={rounds}".encode(),
    st.text("abc,=+/\x00", max_size=30),
    st.binary(max_size=20).map(lambda salt: base64.b64encode(salt).decode()),
    st.integers(-1, 10**12),
)
LINES = st.one_of(
    st.binary(max_size=200).map(lambda said: said + b"\r\n"),
    st.binary(max_size=200).map(challenge),
    SCRAM.map(challenge),
    st.binary(max_size=60).map(lambda said: challenge(b"NTLMSSP\0\2\0\0\0" + said)),
    st.just(b"+\r\n"),
    st.just(b"+OK welcome\r\n"),
    st.text(max_size=60).map(lambda said: f"-ERR {said}\r\n".encode()),
    st.text(max_size=60).map(lambda said: f"+ {said}\r\n".encode()),
    st.just(challenge(b'{"status":"400"}')),
    st.just(b"+ " + b"A" * 20_000 + b"\r\n"),
)


class Server:
    """Offers every mechanism, and says these lines to AUTH, one to each line of the client.

    Args:
        lines: what it says; then it hangs up.
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(b"+OK ready\r\n")
            await reader.readline()
            writer.write(f"+OK\r\nUIDL\r\nPIPELINING\r\nSASL {LISTED}\r\n.\r\n".encode())
            for line in self._lines:
                if not await reader.readline():
                    break
                writer.write(line)
        writer.close()

    async def log_in(self, auth: str) -> str:
        """Log in; return what came of it."""
        listening = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            mine = Login(
                "127.0.0.1",
                port,
                "none",
                "box",
                lambda: PASSWORD,
                timeout=5.0,
                auth=auth,
                deadlines=Deadlines(login=5.0),
            )
            async with asyncio.timeout(60):
                session = await Pop3Session.open(mine)
                await session.abort()
                return "logged in"
        except ServerFault as error:
            return str(error)
        finally:
            listening.close()


@pytest.mark.parametrize("auth", SASL)
@settings(max_examples=20)
@given(lines=st.lists(LINES, min_size=1, max_size=5))
def test_any_answer_ends_a_login(auth: str, lines: list[bytes]) -> None:
    said = asyncio.run(Server(lines).log_in(auth))
    assert said.isprintable()
    assert PASSWORD not in said
