"""SIGKILL of each stage at each step of its story, and a new process in its place.

Nothing is lost. Nothing is delivered twice, but for the one window that SMTP and LMTP leave open:
between the final dot and our knowing of the reply nobody can tell whether the message was taken
(RFC 1047). What comes twice there is counted.
"""

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.failpoint import VARIABLE
from tests.corpus.messages import sample_messages
from tests.flow.addressed import put_addressed
from tests.flow.audit import Audit, MailboxMessage, Tally
from tests.flow.forked import ForkedConnector
from tests.flow.plant import TIERS, Plant
from tests.flow.queues import opened
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.rabbitmq import shared_rabbitmq

BROKERS = ("embedded", "rabbitmq")
TWO = ("anna", "bert")
"""The mailboxes of messages with two recipients."""

MAILDROPS = ("maildir", "smtp", "imap")
ELSEWHERE = "elsewhere"
"""The user whose mailbox is filled by IMAP."""


@dataclass(frozen=True)
class Kill:
    """One process killed once.

    Attributes:
        stage: whose process; over the embedded broker it is that of all four.
        at: the step, and at which time of reaching it.
        to: the account, which is also the destination: maildir, smtp, lmtp or imap.
        messages: how many there are.
        recipients: mailboxes of each message, None for the one of its account.
        duplicates: how many messages are delivered twice.
    """

    stage: str
    at: str
    to: str = "maildir"
    messages: int = 12
    recipients: tuple[str, ...] | None = None
    duplicates: int = 0

    def __str__(self) -> str:
        return f"{self.stage} at {self.at} to {self.to}"


KILLS = (
    Kill("fetcher", "poll.published"),  # the account is claimed, its poll job not confirmed
    Kill("fetcher", "fetcher.retrieving"),  # in the middle of a RETR, others outstanding
    Kill("fetcher", "fetcher.spooled"),
    Kill("fetcher", "incoming.published#5"),  # and not confirmed, or the confirm not heard of
    Kill("fetcher", "fetcher.before-ledger"),  # confirmed
    Kill("fetcher", "fetcher.after-ledger"),  # before DELE
    Kill("fetcher", "fetcher.forgotten"),  # the UIDLs of what is to be deleted, before DELE
    Kill("fetcher", "fetcher.before-quit"),  # after DELE
    Kill("fetcher", "fetcher.quit-sent"),  # and not answered
    Kill("parser", "parser.before-publish#3"),
    Kill("parser", "parsed.published#3"),
    Kill("rewriter", "rewriter.before-publish#3"),
    Kill("rewriter", "pickup.published#3"),
    Kill("deliverer", "deliverer.before-file#3"),
    Kill("deliverer", "deliverer.before-file#2", messages=1, recipients=TWO),  # between them
    Kill("deliverer", "deliverer.before-ledger#3"),
    Kill("deliverer", "deliverer.after-ledger#3"),
    Kill("deliverer", "deliverer.before-dot", to="smtp", messages=1),  # most of it is sent
    Kill("deliverer", "deliverer.dot-sent", to="smtp", duplicates=1),
    Kill("deliverer", "deliverer.replied", to="smtp", duplicates=1),
    Kill("deliverer", "deliverer.after-ledger", to="smtp", messages=1),
    Kill("deliverer", "deliverer.replied", "lmtp", 1, recipients=TWO, duplicates=2),
    Kill("deliverer", "deliverer.before-append", to="imap"),
    Kill("deliverer", "deliverer.before-end", to="imap", messages=1),  # all but the last CRLF
    Kill("deliverer", "deliverer.literal-sent", to="imap"),  # several, together
    Kill("deliverer", "deliverer.literal-sent", to="imap", messages=1),  # a large one
    Kill("deliverer", "deliverer.appended", to="imap"),
    Kill("deliverer", "deliverer.before-ledger", "imap", 1, recipients=TWO),  # two folders
    Kill("deliverer", "deliverer.appended", "imap", 1, recipients=TWO),  # between them
)


BETWEEN = (
    Kill("parser", "incoming.before-ack#3"),
    Kill("rewriter", "parsed.before-ack#3"),
    Kill("deliverer", "pickup.before-ack#3"),
)
"""Between a publish, or a delivery, and its acknowledgement; RabbitMQ alone has such a step."""


@dataclass
class Line(Plant):
    """A plant with all kinds of destinations.

    The provider has the maildrops ``maildir``, ``smtp`` and ``imap``, takes LMTP for two mailboxes,
    and IMAP for one, with a folder for each recipient.

    Attributes:
        local: takes SMTP.
        expected: what must have become of all that was handed in.
        earlier: files that were at the destinations before.
    """

    local: Postfix = field(kw_only=True)
    expected: Tally = field(default=Tally(0, 0))
    earlier: frozenset[Path] = frozenset()

    def start(self) -> None:
        """Write the configuration, and start all processes."""
        self.earlier = frozenset(path for _, path in self.stored())
        destinations = {
            "smtp": {"url": f"{self.local.url}?tls=none", "connections": 1},
            "lmtp": {"url": f"lmtp://127.0.0.1:{self.provider.lmtp}?tls=none", "connections": 1},
            "imap": {
                "url": f"imap://{ELSEWHERE}@127.0.0.1:{self.provider.imap}/Moved/{{local}}"
                "?tls=none&flags=flagged",
                "password": "secret",
                "connections": 1,
            },
        }
        self.product.configure(
            [
                self.account("maildir", destination="default"),
                self.account("smtp", destination="smtp"),
                self.account("imap", destination="imap"),
            ],
            f"maildir://{self.mail}/{{local}}",
            self.url,
            retry={"tiers": ["1s"]},
            spool={"inline_limit": "16KiB"},
            **{f"destinations.{name}": table for name, table in destinations.items()},
        )
        assert self.product.cli("topology", "declare").returncode == 0
        self.run(*self.processes)

    def begin(self, kill: Kill, messages: Sequence[bytes]) -> None:
        """Put messages where they begin their way."""
        if kill.recipients is None:
            self.provider.put_all(kill.to, messages)
        else:
            asyncio.run(self._publish(kill.to, kill.recipients, messages))

    async def _publish(self, to: str, names: Sequence[str], messages: Sequence[bytes]) -> None:
        """Put messages with several recipients into the deliverer's inbox."""
        destination = "default" if to == "maildir" else to
        async with opened(self.product, self.url, TIERS, "rewriter") as broker:
            await put_addressed(broker, destination, names, messages)

    def stored(self) -> Iterator[tuple[str, Path]]:
        """Yield the file of every message at every destination, with its mailbox."""
        yield from super().stored()
        yield from (("smtp", path) for path in self.local.maildir("smtp"))
        yield from ((name, path) for name in TWO for path in self.provider.files(name))
        for name in ("imap", *TWO):
            folder = self.provider.maildir(ELSEWHERE) / f".Moved.{name}" / "cur"
            yield from ((name, path) for path in folder.glob("*"))

    def accept(self, messages: Sequence[MailboxMessage], duplicates: int) -> None:
        """Take note of messages that are handed in, and of how many will come twice."""
        self.audit.accept(messages)
        count = self.expected.delivered + len(messages)
        self.expected = Tally(count, count, duplicates=self.expected.duplicates + duplicates)

    def drained(self, files: int) -> bool:
        """Return whether so many files are delivered, and nothing is left to be delivered."""
        left = any(self.provider.files(name) for name in MAILDROPS)
        return not left and len(list(self.stored())) >= files and not self.queued()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    users = dict.fromkeys((*MAILDROPS, *TWO, ELSEWHERE), "secret")
    with dovecot(tmp_path_factory.mktemp("provider"), users) as server:
        yield server


@pytest.fixture(scope="module")
def local() -> Iterator[Postfix]:
    with postfix(mailboxes=("smtp",)) as server:
        yield server


@pytest.fixture(scope="module", params=BROKERS)
def plant(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: Dovecot,
    local: Postfix,
) -> Iterator[Line]:
    """Run a plant for all cases of a broker; what comes after the last one counts too."""
    server = shared_rabbitmq() if request.param == "rabbitmq" else None
    folder = tmp_path_factory.mktemp("plant")
    with contextlib.closing(ForkedConnector(folder)) as product:
        url = None if server is None else server.url(server.vhost())
        plant = Line(product, provider, folder / "mail", url, local=local)
        plant.start()
        yield plant
        for name in plant.processes:
            assert product.stop(name) == 0, product.tail()
        # Only now nobody has anything in hand, and nothing can come any more.
        assert plant.queued() == set()
        assert plant.audit.tally(plant.arrived(but=plant.earlier)) == plant.expected


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_nothing_is_lost(plant: Line, kill: Kill) -> None:
    kill_and_start_again(plant, kill)


@pytest.mark.parametrize("plant", ["rabbitmq"], indirect=True, scope="module")
@pytest.mark.parametrize("kill", BETWEEN, ids=str)
def test_nothing_is_lost_before_an_acknowledgement(plant: Line, kill: Kill) -> None:
    kill_and_start_again(plant, kill)


def kill_and_start_again(plant: Line, kill: Kill) -> None:
    """Hand in messages, have a process killed on its way with them, and see where they come out."""
    product, victim = plant.product, plant.process(kill.stage)
    assert product.stop(victim) == 0, product.tail()
    before = {path for _, path in plant.stored()}

    seed = 100 * BROKERS.index(plant.broker) + (*KILLS, *BETWEEN).index(kill)
    messages = sample_messages(12, seed)[-kill.messages :]  # the last one is large
    plant.begin(kill, messages)
    audit = Audit()
    given = [(name, m) for m in messages for name in kill.recipients or (kill.to,)]
    audit.accept(given)
    plant.accept(given, kill.duplicates)
    product.start(victim, **{VARIABLE: kill.at})
    killed = product.processes[victim]
    product.wait(lambda: killed.poll() is not None, "the process to be killed")
    assert killed.returncode == -signal.SIGKILL

    plant.run(victim)
    right = Tally(len(audit.accepted), len(audit.accepted), duplicates=kill.duplicates)
    files = len(before) + right.delivered + right.duplicates
    product.wait(lambda: plant.drained(files), "all mail", 60)
    tally = audit.tally(plant.arrived(but=before))
    print(kill, tally)
    assert tally == right
