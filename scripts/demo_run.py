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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_mailbox import MAILBOXES, Fate, Sample, maildrops
from demo_maildrop import PASSWORD, Maildrop, serving
from demo_show import Record, Screen, commands, heading, kept, totals
from rich.console import Console

PROGRAM: Final = Path(sys.executable).with_name("pop3-connector")
_LINE_LIMIT: Final = 1 << 20
_ID_LENGTH: Final = 12

_CONFIG: Final = """\
# Made by scripts/demo. Its POP3 server is gone once the demo has ended.
data_dir = {data_dir}

[delivery]
url = {delivery}
"""
_ACCOUNT: Final = """
[[account]]
name = {name}
host = "127.0.0.1"
port = {port}
tls = "none"
username = {mailbox}
password = {password}
keep = "delete"
mailbox = {mailbox}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one demo, and what is where in it."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.directory / "connector.toml"

    @property
    def log(self) -> Path:
        """What the program logged."""
        return self.directory / "run.log"

    def maildir(self, mailbox: str) -> Path:
        """The Maildir of a local mailbox."""
        return self.directory / "mail" / mailbox

    def delivered(self, mailbox: str) -> list[Path]:
        """The messages in a Maildir, in no particular order."""
        return list((self.maildir(mailbox) / "new").glob("*"))

    def command(self, *arguments: str) -> str:
        """A command line of the program with this configuration, fit to be pasted."""
        program = PROGRAM.relative_to(Path.cwd()) if PROGRAM.is_relative_to(Path.cwd()) else PROGRAM
        return shlex.join([str(program), "--config", str(self.config), *arguments])


def main() -> int:
    """Run the demo; return the exit status."""
    place = Place(Path(tempfile.mkdtemp(prefix="pop3-connector-demo-")))
    return asyncio.run(_demo(place, Console(highlight=False)))


async def _demo(place: Place, console: Console) -> int:
    samples = maildrops()
    served = {user: Maildrop([s.raw for s in mail]) for user, mail in samples.items()}
    total = sum(map(len, samples.values()))
    async with serving(served) as port:
        _configure(place, port)
        console.print(
            f"A POP3 server on 127.0.0.1:{port} has {total} messages in {len(served)} maildrops."
        )
        heading(console, place.command("run", "--once", "--json"))
        with Screen(console, total) as screen:
            status, printed = await _carry(place, screen)
    if status > 1 or not printed:
        console.print(f"It ended with status {status} and no summary; see {place.log}.")
        return 1
    failed, quarantined = await _list(place, "failed"), await _list(place, "quarantine")
    _report(console, place, samples, json.loads(printed))
    _keepers(console, failed, quarantined)
    heading(console, "To try next, one by one:")
    commands(console, _next(place, failed, quarantined))
    return _judge(console, place, samples, served, failed, quarantined)


def _configure(place: Place, port: int) -> None:
    """Write the configuration; JSON texts are TOML texts too."""
    delivery = f"maildir://{place.maildir('{mailbox}')}"
    parts = [
        _CONFIG.format(
            data_dir=json.dumps(str(place.directory / "data")), delivery=json.dumps(delivery)
        ),
        *(
            _ACCOUNT.format(
                name=json.dumps(name),
                port=port,
                mailbox=json.dumps(mailbox),
                password=json.dumps(PASSWORD),
            )
            for name, mailbox in MAILBOXES.items()
        ),
    ]
    place.config.touch(0o600)
    place.config.write_text("".join(parts), "utf-8")


async def _carry(place: Place, screen: Screen) -> tuple[int, bytes]:
    """Run the program until all mail is settled; return its status and what it printed."""
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
    return await process.wait(), await printing


async def _list(place: Place, folder: str) -> list[Record]:
    """Return the messages in a folder, as the command line gives them."""
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "--config", place.config, folder, "list", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    found: list[Record] = json.loads(printed)
    return found


def _report(
    console: Console, place: Place, samples: Mapping[str, Sequence[Sample]], summary: Record
) -> None:
    seconds, size = summary["seconds"], summary["bytes"]
    heading(console, f"{summary['fetched']} messages, {size} bytes, {seconds} seconds")
    totals(
        console,
        [
            ("delivered", summary["delivered"], ""),
            ("suppressed", summary["suppressed"], "a second copy of a message"),
            ("failed", summary["failed"], "in Failed Mail, below"),
            ("quarantined", summary["quarantined"], "below"),
        ],
    )
    heading(console, "Delivered")
    totals(
        console,
        [
            (str(place.maildir(mailbox)), len(place.delivered(mailbox)), "messages")
            for mailbox in samples
        ],
    )


def _keepers(console: Console, failed: Sequence[Record], quarantined: Sequence[Record]) -> None:
    heading(console, "Failed Mail: what cannot be delivered as it is")
    kept(console, failed)
    heading(console, "Quarantine: what is corrupt")
    kept(console, quarantined)


def _next(
    place: Place, failed: Sequence[Record], quarantined: Sequence[Record]
) -> list[tuple[str, str]]:
    """Return commands worth a try, each with its purpose. They work in this order."""
    lines = []
    for mailbox in MAILBOXES.values():
        if delivered := sorted(place.delivered(mailbox)):
            purpose = (
                f"a message as it arrived: above Return-Path what was put in front ({mailbox})"
            )
            lines.append((purpose, shlex.join(["head", "-n", "20", str(delivered[0])])))
    lines.append(("Failed Mail", place.command("failed", "list")))
    for id_ in (str(message["id"])[:_ID_LENGTH] for message in failed):
        file = str(place.directory / "failed.eml")
        lines.append(("why, and where it has been", place.command("failed", "show", id_)))
        lines.append(("save it", place.command("failed", "export", id_, "-o", file)))
        lines.append(
            (
                "delete it: it would only go round again (else: failed requeue)",
                place.command("failed", "drop", id_, "--yes"),
            )
        )
    lines.append(("the quarantine", place.command("quarantine", "list")))
    for id_ in (str(message["id"])[:_ID_LENGTH] for message in quarantined):
        file = str(place.directory / "corrupt.eml")
        lines.append(("its reason and header", place.command("quarantine", "show", id_)))
        lines.append(
            ("its bytes, none missing", place.command("quarantine", "export", id_, "-o", file))
        )
    lines.append(("all queues", place.command("topology", "show")))
    lines.append(("what was configured", place.command("check-config")))
    lines.append(("what was logged", shlex.join(["head", str(place.log)])))
    lines.append(("tidy up", shlex.join(["rm", "-r", str(place.directory)])))
    return lines


def _judge(
    console: Console,
    place: Place,
    samples: Mapping[str, Sequence[Sample]],
    served: Mapping[str, Maildrop],
    failed: Sequence[Record],
    quarantined: Sequence[Record],
) -> int:
    """Compare what happened with what should have; say it, and return the exit status."""
    fates: Counter[Fate] = Counter(s.fate for mail in samples.values() for s in mail)
    exact = sum(_exact(place, mailbox, mail) for mailbox, mail in samples.items())
    arrived = sum(len(place.delivered(mailbox)) for mailbox in samples)
    checks = (
        ("delivered, equal to what was sent", exact, fates["delivered"]),
        ("files in the Maildirs", arrived, fates["delivered"]),
        ("messages in Failed Mail", len(failed), fates["failed"]),
        ("messages in quarantine", len(quarantined), fates["quarantined"]),
        ("messages left on the POP3 server", sum(m.left for m in served.values()), 0),
    )
    heading(console, "Checked")
    for what, found, expected in checks:
        verdict = "as expected" if found == expected else f"NOT as expected: {expected}"
        console.print(f"  {found} {what}: {verdict}", soft_wrap=True)
    return int(any(found != expected for _, found, expected in checks))


def _exact(place: Place, mailbox: str, mail: Sequence[Sample]) -> int:
    """Return how many messages arrived, byte for byte below the header lines put in front.

    A Maildir has LF where POP3 has CRLF; everything else has to be equal.
    """
    files = [file.read_bytes() for file in place.delivered(mailbox)]
    sent = [s.raw.replace(b"\r\n", b"\n") for s in mail if s.fate == "delivered"]
    return sum(any(file.endswith(b"\n" + raw) for file in files) for raw in sent)


if __name__ == "__main__":
    sys.exit(main())
