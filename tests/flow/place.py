"""The product between maildrops and Maildirs, held to account: most of what a flow test needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.flow.audit import Audit, MailboxMessage, Tally
from tests.flow.connector import below_prefix
from tests.flow.forked import ForkedConnector
from tests.servers.dovecot import Dovecot

ONCE = "run --once --json"


class Provider(Protocol):
    """Where maildrops are, as far as an account has to know."""

    @property
    def host(self) -> str: ...
    @property
    def pop3(self) -> int: ...


def account(provider: Provider, user: str = "sales", **changes: object) -> dict[str, object]:
    """Return the configuration of an account: the maildrop of a user, for the mailbox so called."""
    return {
        "name": user,
        "host": provider.host,
        "port": provider.pop3,
        "tls": "none",
        "username": user,
        "password": "secret",
        "poll_every": "0.1s",
        "keep": "delete",
        "mailbox": f"{user}@corp.example",
    } | changes


@dataclass
class Place:
    """The product, what was put into its maildrops, and what it has delivered to Maildirs.

    Attributes:
        provider: has the maildrops.
        mail: the folder of the Maildirs.
        audit: knows all that was put into the maildrops.
    """

    product: ForkedConnector
    provider: Dovecot
    mail: Path
    audit: Audit = field(default_factory=Audit)

    def put(self, user: str, messages: list[bytes]) -> None:
        """Put messages into a maildrop, each for the first time."""
        self.provider.put_all(user, messages)
        self.audit.accept((user, message) for message in messages)

    def configure(
        self, *accounts: dict[str, object], url: str | None = None, **tables: Mapping[str, object]
    ) -> None:
        """Write a configuration that delivers to the Maildirs, over RabbitMQ at a URL if any."""
        tables.setdefault("spool", {"inline_limit": "16KiB"})
        self.product.configure(accounts, f"maildir://{self.mail}/{{local}}", url, **tables)

    def account(self, user: str, **changes: object) -> dict[str, object]:
        return account(self.provider, user, **changes)

    def once(self) -> tuple[int, dict[str, Any]]:
        """Run once in a process that begins by fork; return its exit status and the summary."""
        (self.product.folder / f"{ONCE}.log").unlink(missing_ok=True)
        self.product.start(ONCE)
        status = self.product.processes.pop(ONCE).wait(120)
        return status, next(e for e in self.product.events(ONCE) if "accounts" in e)

    def reasons(self) -> list[str]:
        """Return why accounts failed in the last run."""
        events = self.product.events(ONCE)
        return [e["reason"] for e in events if e.get("event") == "account failed"]

    def stored(self) -> list[MailboxMessage]:
        """Return what lies in the Maildirs, without what was put on top of it."""
        files = self.mail.glob("*/new/*")
        return [(path.parts[-3], below_prefix(path.read_bytes())) for path in files]

    def exported(self) -> list[MailboxMessage]:
        """Return what is in Failed Mail, each message by its account."""
        found = []
        for kept in self.product.json("failed", "list"):
            out = self.product.folder / f"{kept['id']}.eml"
            done = self.product.cli("failed", "export", kept["id"], "-o", str(out))
            assert done.returncode == 0, done.stderr
            found.append((kept["account"], out.read_bytes()))
        return found

    def tally(self) -> Tally:
        return self.audit.tally(self.stored())

    def all_well(self) -> bool:
        """Return whether all that was put has been delivered, and each message once."""
        count = len(self.audit.accepted)
        return self.tally() == Tally(count, count)

    def blobs(self) -> list[Path]:
        """Return the files in the spool, less the mark of whose it is."""
        spool = self.product.folder / "data" / "spool"
        return [p for p in spool.rglob("*") if p.is_file() and p.parent != spool]
