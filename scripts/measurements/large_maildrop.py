"""Poll maildrops of a million messages, in good times and in bad, and say what it takes.

usage: scripts/large-maildrop [--case CASE] [--messages N] [--characters N] [--accounts N]
                              [--once] [--seconds S]

Prints the peak of the memory of the whole connector (``run``, or ``run --once``; embedded broker),
how long the slowest answer of /healthz took meanwhile, the CPU time, how many polls came to their
end, and how many messages were handed over. It ends when each account has been polled once, and
after S seconds in any case.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.clock import SystemClock
from shared.ledger import LedgerEntry
from shared.state import State, new_owner

CASES = {
    "known": "all messages have been fetched, and stay there",
    "resized": "the same, and LIST says another size of each than it did",
    "gone": "all messages that were fetched are gone, and as many others there",
    "new": "none has been fetched",
    "deleted": "none has been fetched, and what is fetched is deleted",
    "hangs-up": "none has been fetched, and the server hangs up at each RETR",
    "refused": "none has been fetched, and the server refuses each RETR",
    "refused-but-one": "the same, but for the first message",
    "no-uidl": "none has been fetched, and the server refuses UIDL",
    "no-uidl-refused": "the same, and it refuses each RETR but the first",
}
SIZE = 4000


@dataclass
class Server:
    """A POP3 server, a thread for each session.

    Attributes:
        case: how it behaves.
        count: messages of each maildrop.
        length: characters of a UIDL.
        handed_over: messages so far.
    """

    case: str
    count: int
    length: int
    handed_over: int = 0

    def __post_init__(self) -> None:
        """Make the listings once: of a million messages they take seconds."""
        ok, end, every = b"+OK\r\n", b".\r\n", range(1, self.count + 1)
        size = SIZE + (self.case == "resized")
        first = self.count * (self.case == "gone")
        uidls = b"".join([b"%d %0*x\r\n" % (n, self.length, first + n) for n in every])
        uidl = ok + uidls + end
        self.answers = {
            b"CAPA": b"+OK\r\nUIDL\r\nTOP\r\nPIPELINING\r\n.\r\n",
            b"STAT": b"+OK %d %d\r\n" % (self.count, size * self.count),
            b"UIDL": b"-ERR what\r\n" if self.case.startswith("no-uidl") else uidl,
            b"LIST": ok + b"".join([b"%d %d\r\n" % (n, size) for n in every]) + end,
        }
        self.body = b"x" * 76 + b"\r\n"

    def serve(self, listener: socket.socket) -> None:
        """Take one connection after the other."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.session, args=(connection,), daemon=True).start()

    def session(self, connection: socket.socket) -> None:
        """Answer until QUIT, or until the connection is gone."""
        with connection, connection.makefile("rb") as lines:
            try:
                connection.sendall(b"+OK\r\n")
                for line in lines:
                    connection.sendall(self.answer(line.split()))
            except (OSError, EOFError):
                return

    def answer(self, words: list[bytes]) -> bytes:
        """Return the answer to a command."""
        verb = words[0].upper()
        if verb == b"RETR":
            return self.message(int(words[1]))
        if verb == b"LIST" and len(words) > 1:
            return b"+OK %s %d\r\n" % (words[1], SIZE + (self.case == "resized"))
        if verb == b"TOP":
            return b"-ERR no\r\n"
        return self.answers.get(verb, b"+OK\r\n")

    def message(self, number: int) -> bytes:
        """Return the answer to RETR.

        Raises:
            EOFError: it hangs up.
        """
        if self.case == "hangs-up":
            raise EOFError
        if "refused" in self.case and (self.case == "refused" or number > 1):
            return b"-ERR [SYS/PERM] this message cannot be read, says the storage behind it\r\n"
        self.handed_over += 1
        head = b"Subject: %d\r\n\r\n" % number
        size = SIZE + (self.case == "resized")
        whole = (head + self.body * (size // len(self.body)))[: size - 2] + b"\r\n"
        return b"+OK\r\n" + whole + (b"." if whole.endswith(b"\r\n") else b"\r\n.") + b"\r\n"


async def know(path: Path, account: str, count: int, length: int) -> None:
    """Record all messages as fetched."""
    state = await State.open(f"sqlite:///{path}", owner=new_owner(), clock=SystemClock())
    for start in range(1, count + 1, 20_000):
        some = range(start, min(start + 20_000, count + 1))
        await state.record(
            account, [LedgerEntry(f"{n:0{length}x}", f"{n:032x}", SIZE) for n in some]
        )
    await state.close()


def configured(folder: Path, port: int, monitor: str, accounts: int, keep: str) -> Path:
    """Write the configuration."""
    configuration = folder / "connector.toml"
    listed = "".join(
        f'[[account]]\nname = "large{n}"\nhost = "127.0.0.1"\nport = {port}\ntls = "none"\n'
        f'username = "x{n}"\npassword = "secret"\nmailbox = "x@corp.example"\nkeep = "{keep}"\n'
        for n in range(accounts)
    )
    configuration.write_text(
        f'data_dir = "{folder}/data"\nmonitor.listen = "{monitor}"\n'
        f'delivery.url = "maildir://{folder}/mail/{{mailbox}}"\n{listed}'
    )
    configuration.chmod(0o600)
    return configuration


class Polls:
    """Counts the polls that a log tells of.

    Args:
        log: that is read as it grows.

    Attributes:
        counted: so far.
    """

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._rest = b""
        self.counted = 0

    def count(self) -> int:
        """Return how many have come to their end, well or not."""
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        self.counted += sum(b'"polled"' in line or b'"account failed"' in line for line in lines)
        return self.counted


def watched(
    monitor: str, connector: subprocess.Popen[bytes], over: Callable[[], bool], seconds: float
) -> tuple[float, int, float]:
    """Return the slowest answer in seconds, the peak in bytes, and the CPU time in seconds."""
    slowest, peak, cpu = 0.0, 0, 0.0
    proc, end = Path(f"/proc/{connector.pid}"), time.monotonic() + seconds
    done = False
    while connector.poll() is None and time.monotonic() < end and not done:
        time.sleep(0.02)
        done = over()
        started = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://{monitor}/healthz", timeout=60) as answer:
                answer.read()
            slowest = max(slowest, time.monotonic() - started)
        except urllib.error.HTTPError:  # it is starting
            pass
        except OSError:  # likewise, or it is ending
            pass
        status = (proc / "status").read_text().splitlines()
        peak = max([peak, *(int(x.split()[1]) * 1024 for x in status if x.startswith("VmHWM"))])
        cpu = sum(map(int, (proc / "stat").read_text().split()[13:15])) / os.sysconf("SC_CLK_TCK")
    return slowest, peak, cpu


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        prog="scripts/large-maildrop", description=__doc__.splitlines()[0]
    )
    cases = "; ".join(f"{name}: {what}" for name, what in CASES.items())
    parser.add_argument("--case", choices=CASES, default="known", help=cases)
    parser.add_argument("--messages", type=int, default=1_000_000, help="of each maildrop")
    parser.add_argument("--characters", type=int, default=16, help="of each UIDL")
    parser.add_argument("--accounts", type=int, default=1, help="with such a maildrop each")
    parser.add_argument("--once", action="store_true", help="measure `run --once`")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which to end")
    asked = parser.parse_args()
    server = Server(asked.case, asked.messages, asked.characters)
    listener, free = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
    monitor = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        if asked.case in ("known", "resized", "gone"):
            for n in range(asked.accounts):
                known = know(folder / "data/state.db", f"large{n}", server.count, server.length)
                asyncio.run(known)
        keep = "delete" if asked.case == "deleted" else "forever"
        port = listener.getsockname()[1]
        configuration = configured(folder, port, monitor, asked.accounts, keep)
        program = str(Path(sys.executable).with_name("pop3-connector"))
        command = [program, "--config", str(configuration), "run"]
        command += ["--once"] if asked.once else []

        with (
            (folder / "log").open("wb") as log,
            (folder / "log").open("rb") as said,
            subprocess.Popen(command, stdout=log, stderr=log) as connector,
        ):
            polls = Polls(said)
            over = lambda: polls.count() >= asked.accounts and not asked.once  # noqa: E731
            started = time.monotonic()
            slowest, peak, cpu = watched(monitor, connector, over, asked.seconds)
            took = time.monotonic() - started
            connector.terminate()
        figures = {
            "case": asked.case,
            "messages": server.count,
            "characters": server.length,
            "accounts": asked.accounts,
            "once": asked.once,
            "peak_mb": peak // 1024 // 1024,
            "slowest_healthz_ms": round(slowest * 1000),
            "cpu_seconds": cpu,
            "seconds": round(took, 1),
            "polls": polls.counted,
            "handed_over": server.handed_over,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
