"""The parent's side: starts a process of this program that tries suspects, and speaks with it.

The child has the same configuration, or does not start, and connections of its own. It is trusted
to be broken: how it ends is told, and what it says that is no answer, or that it says nothing for a
minute although it should every few seconds, is its end as well; so is a message of which it may
have got a part, as what comes next would be taken for the rest. Its standard error is ours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.broker import Delivery
from shared.settlement import Settlement
from shared.trial import Ended, NotHandedOver, NotStarted, TakeHeaders, frames

LISTEN_EVERY: Final = 5.0
SILENT: Final = 12
"""Seconds between two looks whether the child has said anything, and looks in vain after which it
stands still for good. A parent that stood still itself has looked once meanwhile."""

FAREWELL: Final = 5.0
"""Seconds that a child may take to end when it is asked to."""


def command(file: Path | None, stage: str, *, debug: bool) -> tuple[str, ...]:
    """Return what starts a child.

    Args:
        file: the configuration, None where the environment alone has settings.
        stage: whose suspects it is to try.
        debug: whether it logs more.
    """
    # As this process found its modules: from the working directory only if that was one place.
    here = {"", str(Path.cwd())}.intersection(sys.path)
    options = () if here else ("-P",)
    configured = () if file is None else ("--config", str(file))
    debugging = ("--debug",) if debug else ()
    program = (sys.executable, *options, "-m", "pop3_connector")
    return (*program, *configured, *debugging, "trial", stage)


async def start(command: Sequence[str], digest: str) -> Child:
    """Start a child; return when it is ready.

    Args:
        command: the program and its arguments.
        digest: that of the settings it must have.

    Raises:
        NotStarted: it could not be started, or has ended before that.
    """
    try:
        # A session of its own: what a terminal sends to all of a group is not for the child.
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise NotStarted(error.strerror or str(error)) from error
    except Exception as error:  # no thread, no memory: the next one may have it
        raise NotStarted(f"{type(error).__name__}: {error}") from error
    if process.stdin is None or process.stdout is None:
        raise NotStarted("it has no pipes")
    child = Child(process, process.stdin, process.stdout)
    try:
        await child.ready(digest)
    except BaseException:
        await child.close()
        raise
    return child


class Child:
    """A child, a ``shared.trial.Trial``.

    Args:
        process: it.
        stdin: its standard input.
        stdout: its standard output.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
    ) -> None:
        self._process = process
        self._stdin = stdin
        self._stdout = stdout
        loop = asyncio.get_running_loop()
        self._is_ready: asyncio.Future[None] = loop.create_future()
        self._asked: dict[int, tuple[asyncio.Future[Settlement], TakeHeaders]] = {}
        self._numbered = 0
        self._ended: str | None = None
        self._silent = 0
        self._wrong: str | None = None  # why it was ended
        self._listening = loop.create_task(self._listen())
        self._watching = loop.create_task(self._watch())

    @property
    def ended(self) -> str | None:
        """How it has ended; None while it lives."""
        return self._ended

    async def ready(self, digest: str) -> None:
        """Return when it is ready.

        Args:
            digest: that of the settings it must have.

        Raises:
            NotStarted: it has ended before that.
        """
        self._stdin.write(frames.pack(["settings", digest]))
        await self._is_ready

    async def handle(self, delivery: Delivery, tell: TakeHeaders) -> Settlement:
        """Have a message handled; others may be in hand beside it.

        Raises:
            NotHandedOver: the child had to be ended, as it may have got a part of it.
            Ended: the child has ended before it said what follows.
        """
        if self._ended is not None:
            raise Ended(self._ended)
        self._numbered += 1
        number = self._numbered
        answer: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        try:
            self._stdin.write(frames.pack_delivery(number, delivery))
        except Exception as error:
            self._end_it(f"it could not be handed a message: {type(error).__name__}")
            await asyncio.shield(self._listening)
            raise NotHandedOver(self._ended) from error
        self._asked[number] = answer, tell
        try:
            with suppress(ConnectionError):  # then how it has ended is known soon
                await self._stdin.drain()
            return await answer
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """End it, if need be with what it has in hand."""
        self._stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), FAREWELL)
        self._kill()
        await self._listening

    def _end_it(self, why: str) -> None:
        self._wrong = self._wrong or why
        self._kill()

    def _kill(self) -> None:
        # Not Process.kill: that looks whether it has ended, and whoever waits never learns how
        # (https://github.com/python/cpython/issues/87744).
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def _listen(self) -> None:
        try:
            await self._take_all()
        finally:
            self._watching.cancel()
            status = await self._status()
            self._end(self._wrong or _words(status))

    async def _status(self) -> int:
        """Return how it ends, now that it says nothing more; it may live on."""
        ending = asyncio.ensure_future(self._process.wait())
        done, _ = await asyncio.wait({ending}, timeout=FAREWELL)
        if not done:
            self._kill()
        return await ending

    async def _take_all(self) -> None:
        try:
            while True:
                self._take(await frames.read(self._stdout))
                self._silent = 0
        except asyncio.IncompleteReadError:
            pass
        except Exception as error:  # noqa: BLE001  (no frame, or no memory for it)
            self._wrong = self._wrong or f"what it said could not be read: {type(error).__name__}"

    def _take(self, frame: frames.Frame) -> None:
        match frame.head:
            case ["unfit", why]:
                self._wrong = str(why)
            case ["ready"]:
                if not self._is_ready.done():  # nobody may wait for it any more
                    self._is_ready.set_result(None)
            case ["read", number, told]:
                if number in self._asked:
                    self._asked[number][1](told)
            case ["answer", number, _]:
                follows = frames.settlement(frame)
                if number in self._asked and not self._asked[number][0].done():
                    self._asked[number][0].set_result(follows)

    async def _watch(self) -> None:
        while self._silent < SILENT:
            await asyncio.sleep(LISTEN_EVERY)
            self._silent += 1
        self._end_it(f"no sign of life for {round(LISTEN_EVERY * SILENT)} seconds")

    def _end(self, how: str) -> None:
        self._ended = how
        if not self._is_ready.done():
            self._is_ready.set_exception(NotStarted(how))
        for answer, _ in self._asked.values():
            if not answer.done():
                answer.set_exception(Ended(how))


def _words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
