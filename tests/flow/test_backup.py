"""A backup that is made while mail flows, and put back where nothing is: it loses no message."""

import contextlib
import itertools
import json
import shutil
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.failpoint import VARIABLE
from tests.corpus.messages import sample_messages
from tests.flow.audit import Audit, Tally
from tests.flow.connector import Connector, below_prefix
from tests.flow.place import account
from tests.servers.dovecot import Dovecot, dovecot


@dataclass
class Site:
    """An installation with two accounts.

    What is fetched for ``held`` is deleted at the provider, and its destination is away. What is
    fetched for ``flowing`` stays there, and is delivered.
    """

    product: Connector
    provider: Dovecot
    mail: Path
    audit: Audit = field(default_factory=Audit)

    @property
    def archive(self) -> Path:
        return self.mail.parent / "saved.tar"

    @property
    def data(self) -> Path:
        return self.product.folder / "data"

    def put(self, user: str, messages: list[bytes]) -> None:
        self.audit.accept((user, message) for message in messages)
        self.provider.put_all(user, messages)

    def delivered(self) -> list[Path]:
        return list(self.mail.rglob("new/*"))

    def blobs(self) -> list[Path]:
        return list((self.data / "spool").glob("??/*"))

    def tally(self) -> Tally:
        arrived = ((p.parts[-3], below_prefix(p.read_bytes())) for p in self.delivered())
        return self.audit.tally(arrived)

    def all_once(self) -> Tally:
        count = len(self.audit.accepted)
        return Tally(count, count)

    def back_up(self) -> None:
        done = self.product.cli("backup", str(self.archive))
        assert done.returncode == 0, done.stderr

    def run_the_rest(self) -> None:
        """Let the destination that was away come back, and all be delivered."""
        (self.mail / "later").unlink(missing_ok=True)
        told = self.product.cli("run", "--once", "--json")
        assert json.loads(told.stdout)["accounts_failed"] == 2, "all accounts are held"
        assert "are new" not in told.stderr, "what is in queues and spool is what was in them"
        done = self.product.cli("account", "fetch-again", "--all", "--undelivered")
        assert done.returncode == 0, done.stderr
        assert self.product.once()[0] == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    users = ("held", "flowing")
    with (
        dovecot(tmp_path, dict.fromkeys(users, "secret")) as provider,
        contextlib.closing(Connector(tmp_path / "product")) as product,
    ):
        made = Site(product, provider, tmp_path / "mail")
        product.folder.mkdir()
        made.mail.mkdir()
        (made.mail / "later").touch()  # no folder can be there
        product.configure(
            [
                account(provider, "held", destination="later"),
                account(provider, "flowing", keep="forever"),
            ],
            f"maildir://{made.mail}/now/{{local}}",
            None,
            retry={"tiers": ["1s"]},
            spool={"inline_limit": "16KiB"},
            **{"destinations.later": {"url": f"maildir://{made.mail}/later/{{local}}"}},
        )
        made.put("held", sample_messages(20, 1, max_size=60_000))
        product.once()
        assert provider.messages("held") == []
        assert made.blobs()
        yield made


def test_what_is_saved_while_mail_flows_is_delivered_after_a_restore(site: Site) -> None:
    site.product.start("run")
    with ThreadPoolExecutor(1) as threads:
        batches = itertools.count(2)
        site.put("flowing", sample_messages(20, next(batches), max_size=60_000))
        site.product.wait(site.delivered, "mail to flow")
        saving = threads.submit(site.back_up)
        while not saving.done():
            site.put("flowing", sample_messages(20, next(batches), max_size=60_000))
            wait([saving], timeout=0.1)
        saving.result()
    assert stat.S_IMODE(site.archive.stat().st_mode) == 0o600
    assert list(site.mail.parent.glob("saved.tar.*")) == []
    assert not (site.data / "spool" / "backup").exists()
    site.product.kill("run")
    shutil.rmtree(site.data)

    restored = site.product.cli("restore", str(site.archive))
    assert restored.returncode == 0, restored.stderr
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in site.data.rglob("*"))
    assert site.product.cli("state", "check").returncode == 0
    site.run_the_rest()
    assert site.tally() == site.all_once()


def test_a_backup_that_is_killed_leaves_the_one_before_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.back_up()
    before = site.archive.read_bytes()
    for step in ("backup.copied#2", "backup.written"):
        with monkeypatch.context() as patched:
            patched.setenv(VARIABLE, step)
            killed = site.product.cli("backup", str(site.archive))
        assert killed.returncode == -signal.SIGKILL
        assert site.archive.read_bytes() == before
    site.back_up()
    assert list(site.mail.parent.glob("saved.tar.*")) == []
    assert not (site.data / "spool" / "backup").exists()
