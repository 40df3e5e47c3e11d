"""Log lines into a pipe that nobody reads: they stop nothing, and it is told how many were lost."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from shared import outlet
from shared.log_lines import INFO, LogLines
from tests.servers.process import wait_until

ROOT = Path(__file__).parent.parent.parent

TALKS = """
import asyncio, logging
from shared.log import MailLog
from shared.log_lines import configure

async def talk() -> None:
    log = MailLog("run", lines=configure())
    for number in range({count}):
        log.note("said", number=number)
        logging.getLogger("asyncio").error("from elsewhere %d", number)
        if number % 100 == 0:
            await asyncio.sleep(0)

asyncio.run(talk())
print("ended")
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
        with suppress(OSError):  # a test has
            os.close(reader)


def all_of(reader: int) -> bytes:
    """Return what comes until nobody has the other end any more."""
    with os.fdopen(reader, "rb") as file:
        return file.read()


async def say(lines: LogLines, numbers: range) -> None:
    for number in numbers:
        lines.say(INFO, "run", "said", {"number": number, "long": "x" * 100})
        await asyncio.sleep(0)


async def test_what_nobody_reads_stops_nothing_and_is_counted(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, stream = pipe
    monkeypatch.setattr(outlet, "MOST", 100_000)
    lines = LogLines(stream)
    async with asyncio.timeout(60):
        await say(lines, range(2_000))  # 400 KB
    reading = asyncio.create_task(asyncio.to_thread(all_of, reader))
    await asyncio.to_thread(lines.flush)
    await say(lines, range(2_000, 2_010))
    await asyncio.to_thread(lines.flush)
    stream.close()
    told = [json.loads(line) for line in (await reading).splitlines()]
    numbers = [event["number"] for event in told if "number" in event]
    lost = [event["lines"] for event in told if "lines" in event]
    assert lost
    assert lost[0] > 0
    assert numbers == sorted(numbers)
    assert len(numbers) + sum(lost) == 2_010
    assert numbers[-10:] == list(range(2_000, 2_010))


def test_a_process_ends_although_nobody_reads_its_log() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TALKS.format(count=20_000)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "ended\n"
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.readline() == "asyncio: from elsewhere 0\n"


def test_who_reads_gets_all_of_it_in_its_order() -> None:
    command = [sys.executable, "-c", TALKS.format(count=500)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    assert [event["number"] for event in said] == list(range(500))
    assert ended.stderr.count("asyncio: from elsewhere") == 500


def test_a_reader_that_is_gone_stops_nothing(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    os.close(reader)
    lines = LogLines(stream)
    for number in range(100):
        lines.say(INFO, "run", "said", {"number": number})
    wait_until(lambda: lines.outlet._size == 0, "what cannot be written to be let go")
