"""What a backup consists of, by the settings: which files are here, and what lies elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from services.postmaster.archive import LEDGERS, QUEUES, SPOOL
from services.postmaster.errors import Unfit
from services.postmaster.state import ledger_file
from shared.log import printable

if TYPE_CHECKING:
    from shared.settings.model import Settings


class InstallationFiles(NamedTuple):
    """The files of an installation on this machine.

    Attributes:
        queues: the queue file, None with RabbitMQ.
        ledgers: the file of the ledgers, None with PostgreSQL.
        spool: the folder of the blobs, None with a bucket.
        note: where deliveries are written down that the ledger did not take, if anywhere.
        data_dir: the folder that must be empty for them to be put back, if there is one.
    """

    queues: Path | None
    ledgers: Path | None
    spool: Path | None
    note: Path | None
    data_dir: Path | None

    @classmethod
    def of(cls, settings: Settings) -> InstallationFiles:
        """Return them.

        Raises:
            ConfigError: a URL is wrong.
        """
        # Not at the top, as the settings themselves.
        from shared.spool import folder_of

        return cls(
            settings.queue_file if settings.broker.embedded else None,
            ledger_file(settings),
            folder_of(settings.spool_url, settings.spool.options),
            settings.unrecorded_file,
            settings.data_dir if settings.uses_data_dir else None,
        )

    @property
    def named(self) -> dict[str, Path]:
        """The SQLite files, by their names in an archive, in the order in which they are locked."""
        every = {QUEUES: self.queues, LEDGERS: self.ledgers}
        return {name: path for name, path in every.items() if path is not None}

    @property
    def databases(self) -> list[Path]:
        """The SQLite files."""
        return list(self.named.values())

    @property
    def holds(self) -> tuple[str, ...]:
        """What is in an archive of them."""
        return (*self.named, *(() if self.spool is None else (SPOOL,)))

    @property
    def elsewhere(self) -> list[str]:
        """What an archive of them cannot hold, in words."""
        servers = {
            "the queues, which are at RabbitMQ": self.queues,
            "the ledgers, which are at PostgreSQL": self.ledgers,
            "the spool, which is at another place": self.spool,
        }
        return [what for what, file in servers.items() if file is None]

    def require_some(self) -> None:
        """Make sure that there is something to save.

        Raises:
            Unfit: there is not.
        """
        if not self.holds:
            raise Unfit(
                "queues, ledgers and spool are all at servers: see Backup in docs/operations.md"
            )
        for path in self.databases:
            if not path.exists():
                raise Unfit(
                    f"{printable(str(path))} is not there: the connector has not been run with it"
                )
