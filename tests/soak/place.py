"""Where a soak takes place: real servers, each behind a network that can be cut, and the product.

Mail comes from one Dovecot by POP3 and ends in Maildirs, in a Postfix (SMTP) and in another Dovecot
(LMTP). Everything lies in one folder, but for what servers need elsewhere; spool and Maildirs (and
the state, if it is SQLite's) on a disk of their own, which can be filled, where one can be mounted.
Beside them are hostile POP3 servers, and one account's way to Postfix is a tarpit.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.postmaster.mail_folder import FAILED, QUARANTINED, MailFolder, browse
from shared.broker.requeue import mail_in
from shared.broker.steward.steward import KombuSteward
from shared.message import Inline, Spooled
from shared.queues import POLL, QUARANTINE, Tier, failed_queue, plan
from shared.spool.store import path_of
from tests.flow.connector import Connector
from tests.servers.disk import Disk, memory_disk
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.postfix import Postfix, postfix
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.servers.proxy import Proxy, proxy
from tests.servers.rabbitmq import RabbitServer, rabbitmq
from tests.soak.crew import Crew
from tests.soak.hostile import Hostile, hostile

TIERS = (Tier("1s", 1.0), Tier("2s", 2.0), Tier("5s", 5.0))
DESTINATIONS = ("maildir", "smtp", "lmtp")
EACH = 3
"""Accounts for each destination. One that fails is left alone for a minute, the others go on."""
REFUSED = {"refused-smtp": "smtp", "refused-lmtp": "lmtp"}
"""Accounts of which the mailbox does not exist, each with its destination."""
TARPIT = "tarpit"
"""An account of which the mail goes to Postfix, over a network that is slow on purpose."""
SYRUP = 40
"""Bytes a second that come from the tarpit: a message takes half a minute."""
ACCOUNTS = {f"{to}-{n}": to for to in DESTINATIONS for n in range(EACH)} | {TARPIT: "smtp"}
HOSTILE = 2
"""Accounts at servers that mean harm, a server for each."""
DISK = "3g"
PASSWORD = "secret"
INLINE = 16_384
"""Bytes above which a message goes through the spool."""


@dataclass(frozen=True)
class Networks:
    """A proxy before each server: by POP3, SMTP, LMTP, AMQP, and PostgreSQL's (None for SQLite).

    Attributes:
        tarpit: leads to the server that takes SMTP as well.
    """

    pop3: Proxy
    smtp: Proxy
    lmtp: Proxy
    amqp: Proxy
    sql: Proxy | None
    tarpit: Proxy


@dataclass(frozen=True)
class Place:
    """All servers, and the product.

    Attributes:
        folder: logs and mail.
        provider: has the maildrops.
        local: takes SMTP.
        store: takes LMTP.
        database: None for SQLite.
        disk: has spool and Maildirs; None where nothing can be mounted.
        hostile: servers that mean harm.
    """

    folder: Path
    provider: Dovecot
    local: Postfix
    store: Dovecot
    broker: RabbitServer
    vhost: str
    database: PostgresqlServer | None
    networks: Networks
    crew: Crew
    disk: Disk | None
    hostile: Sequence[Hostile]

    @property
    def product(self) -> Connector:
        """The product's installation."""
        return self.crew.product

    @property
    def mail(self) -> Path:
        """The folder of the Maildirs."""
        return self.folder / "disk" / "mail"

    def delivered(self, destination: str) -> Iterator[tuple[str, Path]]:
        """Yield the files at a destination, each with the account that it came through."""
        for account in (name for name, to in ACCOUNTS.items() if to == destination):
            yield from ((account, path) for path in self._files(destination, account))

    def _files(self, destination: str, mailbox: str) -> Sequence[Path]:
        if destination == "smtp":
            return self.local.maildir(mailbox)
        if destination == "lmtp":
            return self.store.files(mailbox)
        return sorted((self.mail / mailbox / "new").glob("*"))

    def steward(self) -> KombuSteward:
        """Return the operator's side of the broker, past the network."""
        return KombuSteward(self.broker.url(self.vhost), TIERS)

    def in_folder(self, folder: MailFolder) -> list[tuple[str, str, bytes]]:
        """Return what waits for the operator: account, id and raw message."""
        with contextlib.closing(self.steward()) as steward:
            stored = list(browse(steward, folder))
        found = []
        for message in stored:
            mail = mail_in(message.body)
            account = str(message.headers.get("account", "")) if mail is None else mail.account
            raw = None if mail is None else mail.payload.raw
            found.append((account, message.message_id, self._bytes(raw, message.body)))
        return [one for one in found if not one[0].startswith("hostile-")]

    def _bytes(self, raw: Inline | Spooled | None, body: bytes) -> bytes:
        match raw:
            case Inline(data):
                return data
            case Spooled(key):
                path = self.product.folder / "data" / "spool" / path_of(key)
                return path.read_bytes() if path.exists() else b"the blob is missing"
        return body

    def failed(self) -> list[tuple[str, str, bytes]]:
        """Return Failed Mail."""
        return self.in_folder(FAILED)

    def quarantined(self) -> list[tuple[str, str, bytes]]:
        """Return the quarantine."""
        return self.in_folder(QUARANTINED)

    def queued(self) -> Mapping[str, int]:
        """Return how many messages are in the queues that must be empty in the end, in hand or not.

        What is in hand is what the management interface has last seen, some seconds ago.
        """
        kept = {QUARANTINE, POLL, *(failed_queue(spec.name) for spec in plan(TIERS))}
        with contextlib.closing(self.steward()) as steward:
            depths = Counter(steward.depths())
        for queue in self.broker.api("GET", f"queues/{self.vhost}"):
            depths[queue["name"]] += queue.get("messages_unacknowledged", 0)
        return {q: n for q, n in depths.items() if n and q not in kept}

    def waiting(self) -> Mapping[str, int]:
        """Return how many messages lie in each maildrop that is not empty."""
        drops = {name: len(self.provider.files(name)) for name in (*ACCOUNTS, *REFUSED)}
        return {name: count for name, count in drops.items() if count}

    def configure(self) -> None:
        """Write the configuration, and make the queues."""
        networks = self.networks
        destinations = {
            "smtp": {"url": f"smtp://127.0.0.1:{networks.smtp.port}?tls=none"},
            "lmtp": {"url": f"lmtp://127.0.0.1:{networks.lmtp.port}?tls=none"},
            TARPIT: {"url": f"smtp://127.0.0.1:{networks.tarpit.port}?tls=none"},
        }
        tables: dict[str, dict[str, object]] = {
            "retry": {"tiers": [tier.label for tier in TIERS]},
            "spool": {"inline_limit": INLINE},
            **{f"destinations.{name}": dict(table) for name, table in destinations.items()},
        }
        if self.database is not None and networks.sql is not None:
            tables["state"] = {"url": _through(self.database, networks.sql)}
        self.product.configure(
            [
                *(
                    self._account(*account)
                    for account in (ACCOUNTS | REFUSED | {TARPIT: TARPIT}).items()
                ),
                *(self._hostile(*server) for server in enumerate(self.hostile)),
            ],
            f"maildir://{self.mail}/{{local}}",
            self.broker.url(self.vhost).replace(f":{self.broker.port}", f":{networks.amqp.port}"),
            **tables,
        )
        declared = self.product.cli("topology", "declare")
        assert declared.returncode == 0, declared.stderr
        self.local.answers.update(_no_such_mailbox("smtp"))

    def _account(self, name: str, destination: str) -> dict[str, object]:
        return {
            "name": name,
            "host": "127.0.0.1",
            "port": self.networks.pop3.port,
            "tls": "none",
            "username": name,
            "password": PASSWORD,
            "poll_every": "0.5s",
            "keep": "delete",
            "mailbox": f"{name}@corp.example",
            "destination": {"maildir": "default"}.get(destination, destination),
        }

    def _hostile(self, number: int, server: Hostile) -> dict[str, object]:
        name = f"hostile-{number}"
        return self._account(name, "maildir") | {"port": server.port, "max_size": "1MiB"}

    def calm(self) -> None:
        """End what goes on for as long as there are faults."""
        self.networks.tarpit.rate = 0
        for server in self.hostile:
            server.end()


def _no_such_mailbox(destination: str) -> Mapping[str, str]:
    names = [name for name, to in REFUSED.items() if to == destination]
    return {f"{name}@corp.example": "550 5.1.1 no such mailbox" for name in names}


def _disk(stack: contextlib.ExitStack, root: Path) -> Disk | None:
    try:
        return stack.enter_context(memory_disk(root, DISK))
    except pytest.skip.Exception:
        return None


def _through(database: PostgresqlServer, network: Proxy) -> str:
    return database.empty().replace(f":{database.port}/", f":{network.port}/")


@contextlib.contextmanager
def open_place(folder: Path, product: type[Connector], *, sqlite: bool) -> Iterator[Place]:
    """Start all servers and put the product between them; stop everything when the block ends.

    Args:
        folder: an empty one; its files stay.
        product: how processes are started.
        sqlite: keep the state in SQLite; otherwise in PostgreSQL.
    """
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        for name in ("provider", "store", "product", "disk"):
            (folder / name).mkdir()
        disk = _disk(stack, folder / "disk")
        (folder / "disk" / "data").mkdir(mode=0o700)
        (folder / "product" / "data").symlink_to(folder / "disk" / "data")
        drops = dict.fromkeys((*ACCOUNTS, *REFUSED), PASSWORD)
        provider = enter(dovecot(folder / "provider", drops))
        store = enter(dovecot(folder / "store", dict.fromkeys(ACCOUNTS, PASSWORD)))
        # By default Postfix takes Return-Path and Bcc out of what it receives.
        options = {"message_drop_headers": ""}
        local = enter(postfix(mailboxes=(*ACCOUNTS, *REFUSED), options=options))
        broker = enter(rabbitmq(folder / "broker"))
        database = None if sqlite else enter(postgresql())
        networks = Networks(
            pop3=enter(proxy(provider.pop3)),
            smtp=enter(proxy(local.port)),
            lmtp=enter(proxy(store.lmtp)),
            amqp=enter(proxy(broker.port)),
            sql=None if database is None else enter(proxy(database.port)),
            tarpit=enter(proxy(local.port)),
        )
        networks.tarpit.rate = SYRUP
        crew = Crew(product(folder / "product"))
        vhost = broker.vhost()
        place = Place(
            folder,
            provider,
            local,
            store,
            broker,
            vhost,
            database,
            networks,
            crew,
            disk,
            enter(hostile(HOSTILE)),
        )
        place.configure()
        with crew.kept_alive():
            yield place
