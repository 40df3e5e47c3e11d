"""The demo: two maildrops are emptied into two Maildirs, by the real program, before your eyes.

It starts a POP3 server of its own on 127.0.0.1, runs ``pop3-connector run --once`` as it is, with
the embedded broker, and compares what arrived with what was sent, byte for byte. All it makes is in
one temporary directory that stays, to be looked at. Exit status: 0 if every message met the fate
that it should, 1 if not.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console

from scripts.demonstration.mailbox import MAILBOXES, Sample, maildrops
from scripts.demonstration.maildrop import PASSWORD, Maildrop, serving
from scripts.demonstration.place import PROGRAM, Place
from scripts.demonstration.show import Record, Screen, commands, heading, kept, short, totals

_LINE_LIMIT: Final = 1 << 20
"""Bytes that a line of the log may have; a traceback is one line."""

Sent: TypeAlias = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        summary: what ``run --once --json`` printed.
        failed: the messages in Failed Mail, as ``failed list --json`` gives them.
        quarantined: those in quarantine, likewise.
        left: how many messages are left on the POP3 server.
    """

    summary: Record
    failed: Sequence[Record]
    quarantined: Sequence[Record]
    left: int


class Broken(Exception):
    """The program ended in a way that it must not."""


def main() -> int:
    """Run the demo; return the exit status."""
    place = Place(Path(tempfile.mkdtemp(prefix="pop3-connector-demo-")))
    console = Console(highlight=False)
    sent = maildrops()
    try:
        result = asyncio.run(_carried(place, console, sent))
    except Broken as error:
        console.print(f"{error}; see {place.log}", markup=False)
        return 1
    _report(console, place, result)
    heading(console, "To try next, one by one")
    commands(console, list(_next(place, result)))
    return _judge(console, place, sent, result)


async def _carried(place: Place, console: Console, sent: Sent) -> Result:
    """Serve the messages, and run the program until all of them are settled."""
    served = {user: Maildrop([sample.raw for sample in mail]) for user, mail in sent.items()}
    total = sum(map(len, sent.values()))
    async with serving(served) as port:
        place.configure(port, MAILBOXES, PASSWORD)
        console.print(f"{total} messages in {len(sent)} maildrops, at a POP3 server on port {port}")
        heading(console, place.command("run", "--once", "--json"))
        with Screen(console, total) as screen:
            summary = await _run(place, screen)
    failed, quarantined = await _listed(place, "failed"), await _listed(place, "quarantine")
    return Result(summary, failed, quarantined, sum(m.left for m in served.values()))


async def _run(place: Place, screen: Screen) -> Record:
    """Run the program to its end; return the summary that it printed.

    Raises:
        Broken: it printed none.
    """
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "--config", place.config, "run", "--once", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    printing = asyncio.create_task(process.stdout.read())
    with place.log.open("wb") as log:
        async for line in process.stderr:
            log.write(line)
            screen.line(line.decode("utf-8", "replace").rstrip("\n"))
    printed = await printing
    # 1 is what it should be here: something went to Failed Mail.
    if await process.wait() != 1 or not printed:
        raise Broken(f"the program ended with status {process.returncode}")
    summary: Record = json.loads(printed)
    return summary


async def _listed(place: Place, folder: str) -> list[Record]:
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "--config", place.config, folder, "list", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise Broken(f"{folder} list ended with status {process.returncode}")
    found: list[Record] = json.loads(printed)
    return found


def _report(console: Console, place: Place, result: Result) -> None:
    summary = result.summary
    heading(
        console,
        f"{summary['fetched']} messages fetched, {summary['bytes']} bytes, in"
        f" {summary['seconds']} seconds",
    )
    remarks = {
        "delivered": "",
        "suppressed": "a second copy of a message that was fetched already",
        "failed": "in Failed Mail: it cannot be delivered as it is",
        "quarantined": "in quarantine: it is corrupt",
    }
    totals(console, [(name, summary[name], remark) for name, remark in remarks.items()])
    heading(console, "Delivered to")
    maildirs = [(str(place.maildir(m)), len(place.delivered(m)), "") for m in MAILBOXES.values()]
    totals(console, maildirs)
    heading(console, "Failed Mail")
    kept(console, result.failed)
    heading(console, "Quarantine")
    kept(console, result.quarantined)


def _next(place: Place, result: Result) -> Iterator[tuple[str, str]]:
    """Yield commands worth a try, each with what it is good for. They work in this order."""
    for delivered in place.delivered(MAILBOXES["sales"])[:1]:
        yield (
            "a message as it arrived; above Return-Path is what was put in front",
            shlex.join(["head", "-n", "20", str(delivered)]),
        )
    yield (
        "Failed Mail; why a message is there; its bytes; and away with it",
        place.command("failed", "list"),
    )
    for id_ in map(short, result.failed):
        yield "", place.command("failed", "show", id_)
        yield "", place.command("failed", "export", id_, "-o", str(place.directory / "failed.eml"))
        yield "", place.command("failed", "drop", id_, "--yes")
    yield "the same for the quarantine", place.command("quarantine", "list")
    for id_ in map(short, result.quarantined):
        file = str(place.directory / "corrupt.eml")
        yield "", place.command("quarantine", "show", id_)
        yield "", place.command("quarantine", "export", id_, "-o", file)
    yield "all queues, what was configured, and what was logged", place.command("topology", "show")
    yield "", place.command("check-config")
    yield "", shlex.join(["head", str(place.log)])
    yield "when you have seen enough", shlex.join(["rm", "-r", str(place.directory)])


def _judge(console: Console, place: Place, sent: Sent, result: Result) -> int:
    """Compare what happened with what should have; say it, and return the exit status."""
    fates = Counter(sample.fate for mail in sent.values() for sample in mail)
    exact = sum(_exact(place.delivered(mailbox), mail) for mailbox, mail in sent.items())
    files = sum(len(place.delivered(mailbox)) for mailbox in sent)
    checks: tuple[tuple[str, object, int], ...] = (
        ("arrived byte for byte, below the lines put in front", exact, fates["delivered"]),
        ("files are in the Maildirs", files, fates["delivered"]),
        ("was a second copy", result.summary["suppressed"], fates["suppressed"]),
        ("is in Failed Mail", len(result.failed), fates["failed"]),
        ("is in quarantine", len(result.quarantined), fates["quarantined"]),
        ("are left on the POP3 server", result.left, 0),
    )
    heading(console, "Checked")
    totals(
        console,
        [
            (what, found, "as it should be" if found == expected else f"NOT {expected}")
            for what, found, expected in checks
        ],
    )
    return int(any(found != expected for _, found, expected in checks))


def _exact(files: Sequence[Path], mail: Sequence[Sample]) -> int:
    """Return how many messages arrived and are, below what was put in front, what was sent.

    A Maildir has LF where POP3 has CRLF; everything else has to be equal.
    """
    arrived = [file.read_bytes() for file in files]
    sent = [sample.raw.replace(b"\r\n", b"\n") for sample in mail if sample.fate == "delivered"]
    return sum(any(whole.endswith(b"\n" + raw) for whole in arrived) for raw in sent)


if __name__ == "__main__":
    sys.exit(main())
