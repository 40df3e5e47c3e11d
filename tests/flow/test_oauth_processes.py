"""Tokens renewed by several processes, and by one that is killed: SIGKILL at each step."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.failpoint import VARIABLE
from shared.oauth.renewal import first_grant
from shared.oauth.sealing import KeyFile, Sealing
from shared.oauth.token_answer import TokenAnswer
from shared.state import State, new_owner
from tests.flow.connector import ROOT
from tests.servers.oauth import CLIENT, SECRET, OAuthServer, oauth_server
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.servers.process import wait_until

PROCESS = """
    import asyncio, os, sys
    from pathlib import Path
    from shared import failpoint
    from shared.clock import SystemClock
    from shared.log import silent
    from shared.oauth.client import OAuthClient
    from shared.oauth.renewal import RenewedTokens
    from shared.oauth.sealing import KeyFile, Sealing
    from shared.oauth.token_server import TokenServer
    from shared.redaction.known_secrets import KnownSecrets
    from shared.state import State, new_owner

    async def main(url, key, token_url, client_id, secret):
        failpoint.arm(os.environ)
        state = await State.open(url, owner=new_owner())
        client = OAuthClient("account sales", "code", client_id, token_url,
                             secret=lambda: secret, advice="Authorize it.")
        known = KnownSecrets()
        tokens = RenewedTokens("account:sales", client, TokenServer(client, known), state,
                               state.tokens, Sealing(KeyFile(Path(key))), SystemClock(), known,
                               silent)
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            print(await tokens.current(), flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        await state.close()

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresqlServer]:
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    server: PostgresqlServer = request.getfixturevalue("database")
    return server.empty()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OAuthServer]:
    with oauth_server(tmp_path) as running:
        yield running


@pytest.fixture
async def key(tmp_path: Path, url: str, server: OAuthServer) -> Path:
    """The key file; an authorization is stored, whose access token has ended."""
    file = tmp_path / "oauth.key"
    answer = TokenAnswer("access-of-before", 1.0, server.refresh_token())
    record = first_grant("account:sales", answer, Sealing(KeyFile(file)), time.time() - 60)
    state = await State.open(url, owner=new_owner())
    await state.tokens.keep(record, instead_of=None)
    await state.close()
    return file


class Process:
    """A process that asks for a token, once it is told to."""

    def __init__(self, url: str, key: Path, server: OAuthServer, fault: str = "") -> None:
        arguments = (url, str(key), server.token_url, CLIENT, SECRET)
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: fault},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return the token that it got, or the error."""
        found = self._line()
        assert self._process.wait(60) == 0
        return found

    def end(self) -> int:
        """Return its exit status."""
        return self._process.wait(60)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def asking(url: str, key: Path, server: OAuthServer, fault: str = "") -> Iterator[Process]:
    """Have a process that has begun to ask, until the block ends."""
    process = Process(url, key, server, fault)
    try:
        process.ask()
        yield process
    finally:
        process.close()


def asked_for(url: str, key: Path, server: OAuthServer) -> str:
    with asking(url, key, server) as process:
        return process.answer()


async def test_of_several_processes_one_asks_and_all_have_what_it_got(
    url: str, key: Path, server: OAuthServer
) -> None:
    server.set(hold=True)
    with contextlib.ExitStack() as stack:
        every = [stack.enter_context(asking(url, key, server)) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: server.outcomes() == ["tokens"], "a request")
        server.release()
        answers = {process.answer() for process in every}
    assert len(answers) == 1
    assert answers.pop().startswith("access-")
    assert server.outcomes() == ["tokens"]


async def test_one_that_dies_before_it_asks_is_followed_by_another(
    url: str, key: Path, server: OAuthServer
) -> None:
    with asking(url, key, server, "oauth.asking") as process:
        assert process.end() == -signal.SIGKILL
    assert server.log() == []
    assert asked_for(url, key, server).startswith("access-")
    assert server.outcomes() == ["tokens"]


async def test_one_that_dies_with_the_answer_costs_nothing_where_refresh_tokens_stay(
    url: str, key: Path, server: OAuthServer
) -> None:
    server.set(rotate=False)
    with asking(url, key, server, "oauth.answered") as process:
        assert process.end() == -signal.SIGKILL
    assert asked_for(url, key, server).startswith("access-")
    assert server.outcomes() == ["tokens", "tokens"]


async def test_one_that_dies_with_the_answer_where_each_is_taken_once_asks_for_a_person(
    url: str, key: Path, server: OAuthServer
) -> None:
    with asking(url, key, server, "oauth.answered") as process:
        assert process.end() == -signal.SIGKILL
    said = asked_for(url, key, server)
    assert said.startswith("TokenRefused: ")
    assert "all are revoked" in said
    assert "An earlier renewal had no answer" in said
    assert said.endswith("Authorize it.")
    assert server.outcomes() == ["tokens", "invalid_grant"]


async def test_one_that_dies_once_all_is_stored_is_not_missed(
    url: str, key: Path, server: OAuthServer
) -> None:
    with asking(url, key, server, "oauth.stored") as process:
        assert process.end() == -signal.SIGKILL
    assert asked_for(url, key, server).startswith("access-")
    assert server.outcomes() == ["tokens"]
