"""Other processes on the same database, and a look at its tables behind the state's back."""

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from sqlalchemy import create_engine, text

PREAMBLE = """
    import asyncio, json, sys
    from shared.ledger import LedgerEntry
    from shared.state import State, new_owner
    from tests.ledger import claim_one, finish_one
"""

OWNER = "from shared.state.lease_owner import new_owner; print(new_owner(), flush=True)"

HOLD = """
    async def main(url):
        state = await State.open(url, owner=new_owner())
        await finish_one(state, "id", "default", {"a@x": "250"})
        assert await state.lease("x")
        assert await claim_one(state, "id", "default")
        print("ready", flush=True)
        await asyncio.Event().wait()
"""

RACE = """
    async def main(url):
        state = await State.open(url, owner=new_owner())
        print("ready", flush=True)
        sys.stdin.readline()
        ids = [f"{n:064x}" for n in range(300)]
        claims = []
        for start in range(0, 300, 20):
            some = ids[start:start + 20]
            claims += await asyncio.gather(*(claim_one(state, id_, "default") for id_ in some))
        print(json.dumps([id_ for id_, claim in zip(ids, claims) if claim]), flush=True)
        sys.stdin.read()
"""

RECORD = """
    async def main(url):
        owner = new_owner()
        state = await State.open(url, owner=owner)
        print("ready", flush=True)
        async def one(id_):
            await state.record("sales", [LedgerEntry(f"u{id_}", id_)])
            await claim_one(state, id_, "default")
            await finish_one(state, id_, "default", {"a@x": "250"})
            print(id_, flush=True)
        async def many(n):
            for i in range(1000):
                await one(f"{owner}-{n}-{i}")
        await asyncio.gather(*(many(n) for n in range(4)))
"""


@contextlib.contextmanager
def started(body: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script on the database in a process of its own; it has said that it is ready."""
    script = textwrap.dedent(PREAMBLE) + textwrap.dedent(body) + "\nasyncio.run(main(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert line(process) == b"ready\n"
        yield process
    finally:
        process.kill()
        with contextlib.suppress(ValueError):  # the test has read and closed its pipes
            process.communicate()


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def rows(url: str, table: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = list(connection.execute(text(f"SELECT * FROM {table}")))
    engine.dispose()
    return rows
