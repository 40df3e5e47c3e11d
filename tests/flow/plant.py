"""The product over one broker, between a provider and Maildirs: for tests that harm one part of it.

Mail is handed in at the provider, from which everything is deleted once it is safe. It comes out in
the Maildirs, and the audit counts it there. The processes are started once: what they do not
recover from by themselves shows.
"""

import asyncio
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from services.postmaster import mail_folder
from services.postmaster.mail_folder import FAILED, QUARANTINED, MailFolder
from shared.broker import Steward
from shared.message import Inline, Raw
from shared.queues import POLL, Tier
from shared.spool import Spool
from tests.flow import queues
from tests.flow.audit import Audit, MailboxMessage, Tally
from tests.flow.connector import STAGES, Connector, Process, below_prefix
from tests.flow.place import account
from tests.servers.dovecot import Dovecot

TIERS = (Tier("1s", 1.0),)
"""What ``retry={"tiers": ["1s"]}`` means."""


@dataclass
class Plant:
    """An installation, what it fetches from, and where it delivers to.

    Attributes:
        provider: has a maildrop for each account, of the same name and with the password "secret".
        mail: the folder of the Maildirs.
        url: of RabbitMQ, None for the embedded broker.
        audit: knows all that was ever handed in here.
        first: the processes as they were started at first.
    """

    product: Connector
    provider: Dovecot
    mail: Path
    url: str | None
    audit: Audit = field(default_factory=Audit)
    first: dict[str, Process] = field(default_factory=dict)

    @property
    def broker(self) -> str:
        """The kind of broker."""
        return "embedded" if self.url is None else "rabbitmq"

    @property
    def processes(self) -> tuple[str, ...]:
        """What runs, in the order of the flow."""
        return ("run",) if self.url is None else STAGES

    @property
    def data(self) -> Path:
        """The data directory of the product."""
        return self.product.folder / "data"

    @property
    def spool(self) -> str:
        """Where large messages are."""
        configured = tomllib.loads(self.product.config.read_text()).get("spool", {})
        return str(configured.get("url", self.data / "spool"))

    def process(self, stage: str) -> str:
        """Return the process that a stage runs in."""
        return "run" if self.url is None else stage

    def account(self, name: str, **changes: object) -> dict[str, object]:
        """Return the configuration of an account that polls without rest and deletes at once."""
        return account(self.provider, name, **changes)

    def run(self, *names: str) -> None:
        """Start processes; return when they can be stopped."""
        before = {name: self.product.count(name, "started") for name in names}
        self.product.start(*names)
        for name in names:
            self.first.setdefault(name, self.product.processes[name])
            self.product.wait(lambda n=name: self._runs(n, before[n]), f"{name} to run")

    def _runs(self, name: str, starts: int) -> bool:
        assert self.product.processes[name].poll() is None, f"{name} ended"
        return self.product.count(name, "started") > starts

    def undisturbed(self) -> bool:
        """Return whether the processes are those that were started at first, and run."""
        running = self.product.processes
        return running == self.first and all(p.poll() is None for p in running.values())

    def hand_in(self, name: str, messages: Sequence[bytes]) -> None:
        """Put messages into a maildrop."""
        self.audit.accept((name, message) for message in messages)
        self.provider.put_all(name, messages)

    def stored(self) -> Iterator[tuple[str, Path]]:
        """Yield the file of every message at every destination, with its mailbox."""
        yield from ((path.parts[-3], path) for path in self.mail.glob("*/new/*"))

    def arrived(self, but: Collection[Path] = ()) -> Iterator[MailboxMessage]:
        """Yield every message that has been delivered, but for these files, with its mailbox."""
        for mailbox, path in self.stored():
            if path not in but:
                yield mailbox, below_prefix(path.read_bytes())

    def tally(self) -> Tally:
        """Count what became of all that was ever handed in."""
        return self.audit.tally(self.arrived(), self.in_folder(FAILED), self.in_folder(QUARANTINED))

    def right(self) -> Tally:
        """Return what must have become of it."""
        return Tally(len(self.audit.accepted), len(self.audit.accepted))

    def in_folder(self, folder: MailFolder) -> list[MailboxMessage]:
        """Return the messages in Failed Mail or in quarantine, each with its account."""
        return asyncio.run(self._parked(folder))

    async def _parked(self, folder: MailFolder) -> list[MailboxMessage]:
        spool, found = Spool(self.spool), []
        with self.looking() as steward:
            for stored in mail_folder.browse(steward, folder):
                raw = b"".join([c async for c in mail_folder.chunks(spool, stored)])
                found.append((str(stored.headers["account"]), raw))
        return found

    def raw(self, raw: Raw) -> bytes:
        """Return a message that is in a queue, or in the spool."""
        return raw.data if isinstance(raw, Inline) else asyncio.run(self._blob(raw.key))

    async def _blob(self, key: str) -> bytes:
        return b"".join([chunk async for chunk in Spool(self.spool).chunks(key)])

    def queued(self) -> set[str]:
        """Return the queues that hold mail; over RabbitMQ what is in hand is not seen."""
        with self.looking() as steward:
            if self.url is None:
                return {stored.queue for stored in steward.everything()} - {POLL}
            return {queue for queue, count in steward.depths().items() if count} - {POLL}

    def looking(self) -> AbstractContextManager[Steward]:
        """Return the operator's side of the broker."""
        return queues.steward(self.product, self.url, TIERS)
