"""What the embedded broker lives on fails: its process, its commits, its disk, its file system.

Mail is on its way through the whole product meanwhile. Nothing is lost, nothing comes twice, and
nothing is deleted at the provider that is not safe.
"""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.broker.requeue import mail_in
from shared.errors import SpoolMissing
from tests.corpus.messages import sample_messages
from tests.flow.audit import MailboxMessage
from tests.flow.connector import STAGES
from tests.flow.forked import ForkedConnector
from tests.flow.plant import Plant
from tests.servers.disk import fragile_disk, memory_disk
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import require
from tests.servers.proxy import Proxy, proxy

QUICK, SLOW = "quick", "slow"
"""Two maildrops; from the second one mail comes so slowly that it can be interrupted."""


@dataclass
class Works(Plant):
    """A plant over the embedded broker.

    Attributes:
        line: between the product and the maildrop ``slow``.
    """

    line: Proxy = field(kw_only=True)

    def configure(self, **tables: dict[str, object]) -> None:
        """Write the configuration, with these further tables."""
        tables.setdefault("retry", {"tiers": ["1s"]})
        tables.setdefault("spool", {"inline_limit": "16KiB"})
        accounts = [self.account(QUICK), self.account(SLOW, port=self.line.port)]
        self.product.configure(accounts, f"maildir://{self.mail}/{{local}}", None, **tables)

    def files(self) -> int:
        """Return how many messages have been delivered."""
        return len(list(self.stored()))

    def begin(self, seed: int) -> None:
        """Hand mail in; return when some has been fetched, and some is still to come."""
        self.line.rate = 200_000
        self.hand_in(SLOW, sample_messages(100, seed, max_size=100_000))
        self.hand_in(QUICK, sample_messages(100, seed + 1, max_size=100_000))
        self.product.wait(lambda: self.said('"fetched"'), "a message")
        assert self.provider.files(SLOW)

    def lost(self) -> int:
        """Return how many messages are neither at the provider, nor in a queue, nor delivered."""
        at_provider = [(n, m) for n in (QUICK, SLOW) for m in self.provider.messages(n)]
        return self.audit.tally([*at_provider, *self._queued(), *self.arrived()]).lost

    def drain(self) -> None:
        """Wait until all is delivered; it must have come once."""
        self.line.rate = 0
        self.product.wait(self._drained, "all mail", 60)
        tally = self.tally()
        print(tally)
        assert tally == self.right()

    def finish(self) -> None:
        """Stop all processes; nothing may come any more."""
        for name in list(self.product.processes):
            assert self.product.stop(name) == 0, self.product.tail()
        assert self.queued() == set()
        assert self.tally() == self.right()

    def said(self, text: str) -> bool:
        """Return whether a log has this text."""
        return any(text in log.read_text() for log in self.product.folder.glob("*.log"))

    def _queued(self) -> Iterator[MailboxMessage]:
        with self.looking() as steward:
            for stored in steward.everything():
                if (mail := mail_in(stored.body)) is not None:
                    # Without its blob it has been delivered since that look, and is seen there.
                    with contextlib.suppress(SpoolMissing):
                        yield mail.account, self.raw(mail.payload.raw)

    def _drained(self) -> bool:
        there = self.files() >= len(self.audit.accepted)
        left = [*self.provider.files(QUICK), *self.provider.files(SLOW)]
        return there and not left and not self.queued()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Dovecot]:
    with dovecot(tmp_path, {QUICK: "secret", SLOW: "secret"}) as running:
        yield running


@pytest.fixture
def works(tmp_path: Path, provider: Dovecot) -> Iterator[Works]:
    folder = tmp_path / "product"
    folder.mkdir()
    with (
        proxy(provider.pop3) as line,
        contextlib.closing(ForkedConnector(folder)) as product,
    ):
        yield Works(product, provider, tmp_path / "mail", None, line=line)


def test_two_processes_for_each_stage_on_one_file_and_one_killed(works: Works) -> None:
    works.configure()
    works.run("run", *STAGES)
    works.begin(100)
    works.product.wait(works.files, "a delivery")
    works.product.kill("run")
    del works.first["run"]
    works.drain()
    assert works.undisturbed(), works.product.tail()
    works.finish()


COMMITS = {
    "half of it is written": ("queue.db-wal", "pwrite64", 40),
    "it is written and not synced": ("queue.db-wal", "fdatasync", 12),
    "half of the ledger is written": ("state.db-wal", "pwrite64", 20),
    "the ledger is written and not synced": ("state.db-wal", "fdatasync", 6),
}


@pytest.mark.parametrize("moment", COMMITS)
def test_killed_in_the_middle_of_a_commit(works: Works, moment: str) -> None:
    file, call, times = COMMITS[moment]
    works.configure()
    works.run("run")
    victim = works.product.processes["run"]
    with tracer(victim.pid, works.data / file, call, times):
        works.hand_in(QUICK, sample_messages(200, 200, max_size=100_000))
        works.product.wait(lambda: victim.poll() is not None, "the process to be killed")
    assert victim.returncode == -signal.SIGKILL
    assert works.lost() == 0
    for name in ("queue.db", "state.db"):
        with contextlib.closing(sqlite3.connect(works.data / name)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    works.run("run")
    works.drain()
    works.finish()


@contextlib.contextmanager
def tracer(pid: int | None, file: Path, call: str, times: int) -> Iterator[None]:
    """Have a process killed as it makes a system call on a file, before the call is done.

    Args:
        pid: the process.
        file: where.
        call: the system call.
        times: how often it is still to be made until then, that one included.
    """
    require("strace")
    command = ["strace", "-f", "-p", str(pid), "-P", str(file), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:signal=SIGKILL:when={times}", "-o", os.devnull]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if "attached" not in said:
            process.wait()
            pytest.skip(f"no process can be traced here: {said.strip()}")
        try:
            yield
        finally:
            process.terminate()


PLACES = ("data", "state", "spool", "mail")
"""What lies on the small disk; all of the product's own is "data"."""


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_stops_everything_and_loses_nothing(works: Works, place: str) -> None:
    root = {"data": works.data, "mail": works.mail}.get(place, works.data.parent / "disk")
    elsewhere: dict[str, dict[str, dict[str, object]]] = {
        "state": {"state": {"url": f"sqlite:///{root}/state.db"}},
        "spool": {"spool": {"url": str(root), "inline_limit": "16KiB"}},
    }
    seed = 300 + 10 * PLACES.index(place)
    with memory_disk(root, "24m") as disk:
        works.configure(**elsewhere.get(place, {}))
        works.run("run")
        works.begin(seed)
        works.product.wait(works.files, "a delivery")
        disk.fill()
        works.hand_in(QUICK, sample_messages(100, seed + 2, max_size=100_000))
        works.product.wait(
            lambda: any(map(works.said, ("disk is full", "No space left", "too little room"))),
            "a word about it",
        )
        assert works.lost() == 0
        disk.free()
        works.drain()
        assert works.undisturbed(), works.product.tail()
        works.finish()


def test_a_file_system_that_becomes_read_only_keeps_what_was_synced(works: Works) -> None:
    """The kernel forgets all else then, as in a power cut; and a repair needs us stopped."""
    with fragile_disk(works.data, works.data.parent / "image", 64) as disk:
        works.configure()
        works.mail.touch()  # no folder, so that nothing can be delivered
        works.run("run")
        works.begin(400)
        works.product.wait(lambda: not works.provider.files(QUICK), "an empty maildrop")
        disk.break_down()
        works.product.wait(lambda: works.said("disk I/O error"), "a word about it")
        assert works.provider.files(SLOW)
        works.product.kill("run")
        refused = works.product.cli("run", timeout=60)
        assert refused.returncode == 2
        assert re.search("ead-?only", refused.stderr)

        disk.repair()
        assert works.lost() == 0
        works.mail.unlink()
        works.run("run")
        works.drain()
        works.finish()
