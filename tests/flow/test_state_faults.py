"""The state database restarted, locked, full, out of reach, while mail flows into Maildirs.

Nothing is lost, nothing comes twice, and nothing is deleted at the provider while the ledger cannot
say that it is safe. The processes get over it by themselves; one that is killed meanwhile, too.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared import wire
from shared.broker import Stored
from shared.broker.embedded.steward import EmbeddedSteward
from shared.broker.steward.steward import KombuSteward
from shared.message import Addressed, Fetched, Inline, Parsed, Payload
from shared.queues import INCOMING, PARSED, PICKUP, POLL, Tier, plan
from shared.spool.local import LocalStore
from tests.corpus.messages import sample_messages
from tests.flow.audit import Audit, MailboxMessage, Tally
from tests.flow.connector import STAGES, below_prefix, digests
from tests.flow.forked import ForkedConnector
from tests.flow.place import account
from tests.flow.state_databases import Database, database
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.rabbitmq import shared_rabbitmq

TIERS = (Tier("1s", 1.0),)
PLAN = plan(TIERS)
KINDS: dict[str, type[Payload]] = {INCOMING: Fetched, PARSED: Parsed, PICKUP: Addressed}
SHORT, ROOMY = "disk space is low: fetching is paused", "enough disk space again: fetching resumes"
UNSCHEDULED = "the schedule cannot be read"
UNPOLLED = "the state database is unavailable"
UNCLAIMED = "the delivery ledger is unavailable"
WAITING = "waiting for the state database"
BATCH = 20
MANY = 400
"""Messages that are not fetched all at once, so that the fault comes in the middle of a poll."""

SITES = ("embedded sqlite", "rabbitmq sqlite", "rabbitmq postgresql", "embedded pair")
FAULTS = [
    (SITES[0], "full"),
    (SITES[1], "locked"),
    (SITES[2], "locked"),
    (SITES[2], "stopped"),
    (SITES[3], "failed over"),
]
KILLED = [(SITES[0], "locked"), (SITES[2], "stopped")]


@dataclass
class Site:
    """The product with its state in one kind of database.

    Attributes:
        url: of RabbitMQ, None for the embedded broker.
        handed_in: how many messages so far; each is different.
    """

    product: ForkedConnector
    provider: Dovecot
    mail: Path
    database: Database
    url: str | None
    audit: Audit = field(default_factory=Audit)
    handed_in: int = 0

    @property
    def processes(self) -> tuple[str, ...]:
        return ("run",) if self.url is None else STAGES

    @property
    def fetching(self) -> str:
        return "run" if self.url is None else "fetcher"

    @property
    def delivering(self) -> str:
        return "run" if self.url is None else "deliverer"

    def configure(self) -> None:
        self.product.configure(
            [account(self.provider)],
            f"maildir://{self.mail}/{{local}}",
            self.url,
            retry={"tiers": ["1s"]},
            spool={"inline_limit": "64KiB"},
            state={"url": self.database.url},
        )
        assert self.product.cli("topology", "declare").returncode == 0

    def hand_in(self, count: int = BATCH) -> list[bytes]:
        """Put messages into the maildrop."""
        messages = sample_messages(count, seed=500 + self.handed_in, max_size=100_000)
        self.handed_in += count
        self.audit.accept(("sales", message) for message in messages)
        self.provider.put_all("sales", messages)
        return messages

    def stored(self) -> list[Path]:
        return list((self.mail / "sales").glob("new/*"))

    def delivered(self) -> list[MailboxMessage]:
        return [("sales", below_prefix(path.read_bytes())) for path in self.stored()]

    def drained(self) -> bool:
        return not self.provider.files("sales") and len(self.stored()) >= self.handed_in

    def waiting(self) -> list[MailboxMessage]:
        """Return what the broker has; what a process over RabbitMQ has in hand is not seen."""
        with contextlib.closing(self._steward()) as steward:
            if isinstance(steward, EmbeddedSteward):
                kept = list(steward.everything())
            else:
                names = [spec.name for spec in PLAN if spec.name != POLL]
                kept = [message for name in names for message in steward.browse(name)]
        return [("sales", self._raw(message)) for message in kept if message.queue != POLL]

    def _steward(self) -> EmbeddedSteward | KombuSteward:
        if self.url is None:
            return EmbeddedSteward(self.product.folder / "data" / "queue.db", TIERS)
        return KombuSteward(self.url, TIERS)

    def _raw(self, message: Stored) -> bytes:
        inbox = next(spec.back_to or spec.name for spec in PLAN if spec.name == message.queue)
        payload = wire.decode(message.body, KINDS[inbox]).payload
        assert isinstance(payload, (Fetched, Parsed, Addressed))
        if isinstance(payload.raw, Inline):
            return payload.raw.data
        with LocalStore(self.product.folder / "data" / "spool").open(payload.raw.key) as blob:
            return blob.read()

    def said(self, name: str, *words: str) -> int:
        """Return how often a process has said one of these."""
        lines = [f"{e['event']} {e.get('reason')}" for e in self.product.events(name)]
        return sum(any(w in line for w in words) for line in lines)

    def noticed(self) -> None:
        """Wait until all who need the database have stumbled over it.

        A fetcher does so at its schedule; or, where the fault came in the middle of a poll, at
        that, each time that it tries it again. A full disk can still be read, so that the schedule
        has nothing to say while a poll is underway.
        """
        for name, words in (
            (self.fetching, (UNSCHEDULED, UNPOLLED)),
            (self.delivering, (UNCLAIMED,)),
        ):
            before = self.said(name, *words)
            self.product.wait(
                lambda n=name, w=words, b=before: (
                    self.said(n, *w) > b or (n == self.fetching and self.is_short_of_room())
                ),
                str(words),
            )

    def is_short_of_room(self) -> bool:
        """Return whether the fetcher has seen that a disk is full: then it leaves the rest be."""
        told = [e["event"] for e in self.product.events(self.fetching)]
        return [event for event in told if event in (SHORT, ROOMY)][-1:] == [SHORT]

    @contextlib.contextmanager
    def undeliverable(self) -> Iterator[None]:
        """Have a batch go round the retry tier at the end of the block, and for a second more."""
        away = self.mail.with_name("mail.away")
        self.mail.rename(away)
        self.mail.write_bytes(b"a file where the folder should be")
        try:
            self.hand_in()
            self.product.wait(lambda: not self.provider.files("sales"), "an empty maildrop")
            yield
        finally:
            self.mail.unlink()
            away.rename(self.mail)

    def all_delivered(self) -> None:
        """Wait until everything is at its destination, once."""
        self.product.wait(self.drained, "all mail", 60)
        right = Tally(self.handed_in, self.handed_in)
        assert self.audit.tally(self.delivered()) == right, self.product.tail()


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run a site for all of its cases; what comes after the last one counts too."""
    broker, kind = request.param.split()
    folder = tmp_path_factory.mktemp("site")
    server = shared_rabbitmq() if broker == "rabbitmq" else None
    with (
        dovecot(folder, {"sales": "secret"}) as provider,
        database(kind, folder) as state,
        contextlib.closing(ForkedConnector(folder)) as product,
    ):
        url = None if server is None else server.url(server.vhost())
        (folder / "mail").mkdir()
        site = Site(product, provider, folder / "mail", state, url)
        site.configure()
        product.start(*site.processes)
        yield site
        for name in site.processes:
            assert product.stop(name) == 0, product.tail()
            assert product.count(name, "handler crashed") == 0, product.tail()
        assert site.waiting() == []
        assert site.audit.tally(site.delivered()) == Tally(site.handed_in, site.handed_in)


@pytest.mark.parametrize(("site", "fault"), FAULTS, indirect=["site"], scope="module")
def test_mail_flows_on_when_the_database_is_back(site: Site, fault: str) -> None:
    with contextlib.ExitStack() as stack:
        with site.undeliverable():
            before = site.product.count(site.fetching, "fetched")
            site.hand_in(MANY)
            site.product.wait(
                lambda: site.product.count(site.fetching, "fetched") > before, "a poll underway"
            )
            stack.enter_context(site.database.faults[fault]())
        later = site.hand_in()
        site.noticed()
        assert not digests(later) - digests(site.provider.messages("sales"))
    site.all_delivered()


@pytest.mark.parametrize("site", [SITES[2]], indirect=True, scope="module")
def test_mail_flows_on_when_the_database_is_restarted(site: Site) -> None:
    for _ in range(3):
        before = len(site.stored())
        site.hand_in()
        site.product.wait(lambda n=before: len(site.stored()) > n, "the first delivery")
        with site.database.faults["restarted"]():
            site.hand_in()
    site.all_delivered()


@pytest.mark.parametrize(("site", "fault"), KILLED, indirect=["site"], scope="module")
def test_what_is_killed_meanwhile_had_everything_safe(site: Site, fault: str) -> None:
    with contextlib.ExitStack() as stack:
        with site.undeliverable():
            stack.enter_context(site.database.faults[fault]())
        site.hand_in()
        site.noticed()
        for name in site.processes:
            site.product.kill(name)

        def everything() -> Tally:
            left = [("sales", message) for message in site.provider.messages("sales")]
            return site.audit.tally(site.delivered(), failed=site.waiting() + left)

        site.product.wait(lambda: everything().lost == 0, "all mail to be somewhere")
        site.product.start(*site.processes)
        for name in {site.fetching, site.delivering}:
            site.product.wait(lambda n=name: site.said(n, WAITING) > 0, WAITING)
    site.all_delivered()
