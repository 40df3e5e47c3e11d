"""A child that does not do as it should: what is said of it, and that nobody waits for ever."""

import asyncio
import sys

import pytest

from services.trial import child as process
from services.trial.child import start
from shared.broker import Delivery
from shared.trial import Ended, NotHandedOver, NotStarted, frames

DELIVERY = Delivery("pickup", b"body", "id", {"account": "sales"}, 2, None)
READY = f"import sys, time; sys.stdout.buffer.write({frames.pack(['ready'])!r})\n"
READY += "sys.stdout.flush(); sys.stdin.buffer.read(HELLO + 4)\n"
READY = READY.replace("HELLO", str(len(frames.pack(["settings", "x"]))))


def child(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11 (SIGSEGV)"),
        (
            "print('no frame at all'); import time; time.sleep(0.1)",
            "what it said could not be read: ValueError",
        ),
    ],
)
async def test_one_that_is_never_ready_was_not_started(does: str, said: str) -> None:
    with pytest.raises(NotStarted) as caught:
        await start(child(does), "x")
    assert str(caught.value) == said


async def test_a_program_that_is_not_there_was_not_started() -> None:
    with pytest.raises(NotStarted, match="No such file"):
        await start(["/nowhere/at/all"], "x")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11 (SIGSEGV)"),
        ("print('no frame at all')", "what it said could not be read: ValueError"),
        ("time.sleep(600)", "no sign of life for 0 seconds"),
    ],
)
async def test_how_one_ends_is_told_to_whoever_waits(
    does: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start(child(READY + does), "x")
    if "sleep" in does:
        running._watching.cancel()
        monkeypatch.setattr(process, "LISTEN_EVERY", 0.01)
        running._watching = asyncio.create_task(running._watch())
    with pytest.raises(Ended) as caught:
        await running.handle(DELIVERY, lambda _: None)
    assert (str(caught.value), running.ended) == (said, said)
    with pytest.raises(Ended):
        await running.handle(DELIVERY, lambda _: None)
    await running.close()


async def test_a_child_that_got_a_part_of_a_message_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes next would be taken for the rest of it."""
    running = await start(child(READY + "time.sleep(600)"), "x")
    write = running._stdin.write

    def part(data: bytes) -> None:
        write(data[:20])
        raise MemoryError

    monkeypatch.setattr(running._stdin, "write", part)
    async with asyncio.timeout(20):
        with pytest.raises(NotHandedOver, match="could not be handed a message"):
            await running.handle(DELIVERY, lambda _: None)
    assert running.ended is not None
    await running.close()
