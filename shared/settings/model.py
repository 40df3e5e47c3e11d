"""The configuration: what can be set, what it means, and what holds where nothing is set.

Of accounts see ``shared.settings.account``; how it is read, ``shared.settings.load``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, PrivateAttr, model_validator

from shared.broker import CONNECTOR
from shared.disk.space import USUAL
from shared.queues import Tier
from shared.settings.account import DEFAULT, AccountSettings
from shared.settings.fields import (
    BrokerUrl,
    BrokerUrls,
    Bytes,
    DeliveryUrl,
    Free,
    ListenAddress,
    Location,
    ManagementUrl,
    Name,
    Seconds,
    SpoolUrl,
    StateUrl,
    Tiers,
)
from shared.settings.oauth import OAuthSettings, TokenKeySettings
from shared.settings.providers import Provider
from shared.settings.table import RemoteTable, Table
from shared.settings.values import Url

_LOGINS: Final = ("imap", "imaps", "smtp", "smtps", "lmtp")
"""The schemes of destinations that one logs in at."""

INLINE_MAX: Final = 15 * 1024 * 1024
"""The largest ``inline_limit``: RabbitMQ takes 16 MiB, and an envelope is more than its message."""


class BrokerSettings(RemoteTable):
    """``[broker]``: the RabbitMQ that carries the queues; without a URL, the embedded broker.

    Attributes:
        urls: those of the nodes of a cluster, in place of one URL.
        management_url: RabbitMQ's management API, where policies can be seen and declared.
        instance: the name of this connector, in each message of its own at RabbitMQ.
        instance_before: names that it had before; messages of these are its own, too.
    """

    url: BrokerUrl | None = None
    urls: BrokerUrls = ()
    ca_file: Location | None = None
    management_url: ManagementUrl | None = None
    instance: Name = CONNECTOR
    instance_before: tuple[Name, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The name of this connector, and those that it had before."""
        return (self.instance, *self.instance_before)

    @model_validator(mode="after")
    def _manages_a_broker(self) -> BrokerSettings:
        if self.management_url is not None and self.embedded:
            raise ValueError("there is a management_url, but no url: the embedded broker has none")
        return self

    @model_validator(mode="after")
    def _one_way_to_it(self) -> BrokerSettings:
        if self.url is not None and self.urls:
            raise ValueError("there are a url and urls: write all of them into urls")
        return self

    @property
    def every_url(self) -> tuple[Url, ...]:
        """The URL of each node; none for the embedded broker."""
        return self.urls or super().every_url

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded broker."""
        return not self.every_url


class StateSettings(RemoteTable):
    """``[state]``: the database of UIDLs, schedules and finished deliveries."""

    url: StateUrl | None = None


class SpoolSettings(Table):
    """``[spool]``: where large messages lie while queues carry a reference to them.

    Attributes:
        inline_limit: bytes up to which a message travels in the queue itself.
        options: see ``shared.spool.options``.
    """

    url: SpoolUrl | None = None
    inline_limit: Annotated[Bytes, Field(ge=0, le=INLINE_MAX)] = 128 * 1024
    options: Mapping[str, str] = Field(default_factory=dict, repr=False)


class DestinationSettings(RemoteTable):
    """``[delivery]``, or one of ``[destinations.NAME]``: where messages are delivered.

    Attributes:
        connections: how many may be open to it at a time.
        oauth: access tokens in place of a password.
    """

    url: DeliveryUrl
    connections: int = Field(10, ge=1, le=1000)
    oauth: OAuthSettings | None = None

    @model_validator(mode="after")
    def _token_belongs_to_somebody(self) -> DestinationSettings:
        if self.oauth is None:
            return self
        if self.url.scheme not in _LOGINS:
            raise ValueError(f"an oauth table is for {', '.join(f'{s}://' for s in _LOGINS)}")
        if self.secret is not None or self.url.has_password:
            raise ValueError("there are a password and an oauth table: one of them is enough")
        if not (self.username or self.url.username):
            raise ValueError("there is an oauth table, but no username here or in the url")
        return self

    def addresses(self) -> tuple[str, ...]:
        """Return every URL, its password in it; where there are tokens, the user name alone."""
        if self.oauth is None or self.username is None:
            return super().addresses()
        return (self.url.with_user(self.username).reveal(),)


class RetrySettings(Table):
    """``[retry]``: how long a message waits between tries, and when it goes to Failed Mail.

    Attributes:
        tiers: one wait after the other; the last one repeats.
        give_up_after: seconds after the first failure.
    """

    tiers: Tiers = (
        Tier("30s", 30),
        Tier("5m", 300),
        Tier("30m", 1800),
        Tier("2h", 7200),
        Tier("6h", 21600),
    )
    give_up_after: Seconds = 5 * 86400.0


class LimitSettings(Table):
    """``[limits]``: what is kept to, so that servers need not refuse us, and no disk fills up.

    Attributes:
        connections_per_host: how many may be open to one POP3 server at a time, from one fetcher.
        max_messages: of one maildrop, that are looked at.
        flood_limit: new messages in one poll that are plausible for any account.
        min_free: below this on a disk that fetched mail lies on, nothing is fetched.
        connect_within: seconds for the name of a POP3 server, an address that answers, and TLS.
        login_within: seconds from there to the end of the login.
        session_within: seconds from there to QUIT.
        slowest: bytes a second that a POP3 server sends at the least, while it is waited for.
    """

    connections_per_host: Annotated[int, Field(ge=1, le=1000)] = 8
    max_messages: Annotated[int, Field(ge=1, le=9_999_999)] = 1_000_000
    flood_limit: Annotated[int, Field(ge=1)] = 2_000
    min_free: Free = USUAL
    connect_within: Seconds = 120.0
    login_within: Seconds = 180.0
    session_within: Seconds = 6 * 3600.0
    slowest: Annotated[Bytes, Field(ge=0)] = 100


class MonitorSettings(Table):
    """``[monitor]``: where /metrics, /healthz and /readyz are served; nowhere unless set.

    Attributes:
        listen: ``host:port``, such as ``127.0.0.1:9108``.
    """

    listen: ListenAddress | None = None


class Settings(Table):
    """The whole configuration.

    Attributes:
        data_dir: for the SQLite files and the spool, where no URL says otherwise.
        providers_file: what is known of more providers, or better, see
            ``shared.settings.providers``.
        defaults: of accounts, as they were written: they are in the accounts by now.
        accounts: in the file, ``[[account]]``.
    """

    data_dir: Location
    providers_file: Location | None = None
    broker: BrokerSettings = BrokerSettings()
    state: StateSettings = StateSettings()
    spool: SpoolSettings = SpoolSettings()
    delivery: DestinationSettings | None = None
    destinations: Mapping[Name, DestinationSettings] = Field(default_factory=dict)
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    monitor: MonitorSettings = MonitorSettings()
    defaults: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    oauth: TokenKeySettings = TokenKeySettings()
    accounts: tuple[AccountSettings, ...] = Field((), alias="account")
    _providers: Mapping[str, Provider] = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(None)
    _digest: str = PrivateAttr("")

    def model_post_init(self, context: Any) -> None:
        """Keep where it was read from, what it was then, and what is known of its providers."""
        self._file = (context or {}).get("file")
        named = {account.provider for account in self.accounts} - {None}
        known: Mapping[str, Provider] = (context or {}).get("providers", dict)() if named else {}
        self._providers = {name: row for name, row in known.items() if name in named}
        self._digest = (context or {}).get("digest", "")

    @property
    def file(self) -> Path | None:
        """Where it was read from; None for the environment alone."""
        return self._file

    @property
    def digest(self) -> str:
        """A hash of the configuration; it may be guessed from: it is for no log or command line."""
        return self._digest

    @property
    def providers(self) -> Mapping[str, Provider]:
        """What is known of the providers whose mailboxes the accounts are, by name."""
        return self._providers

    def provider_of(self, account: AccountSettings) -> Provider | None:
        """Return what is known of the provider of an account; None where nobody said which."""
        return None if account.provider is None else self._providers.get(account.provider)

    @property
    def uses_data_dir(self) -> bool:
        """Whether anything is kept in ``data_dir``: not all three have a URL."""
        return self.broker.embedded or self.state.url is None or self.spool.url is None

    @property
    def queue_file(self) -> Path:
        """The file of the embedded broker; of no meaning where there is another."""
        return self.data_dir / "queue.db"

    @property
    def token_key_file(self) -> Path:
        """The file of the key that tokens are encrypted with; of no meaning with a variable."""
        return self.oauth.key_file or self.data_dir / "oauth.key"

    @property
    def unrecorded_file(self) -> Path | None:
        """Where deliveries are written down that the ledger does not take; None for nowhere."""
        return self.data_dir / "unrecorded" if self.uses_data_dir else None

    @property
    def spool_url(self) -> str:
        """The URL of the spool, or a directory; fsspec percent-decodes no file URL."""
        default = str((self.data_dir / "spool").absolute())
        return default if self.spool.url is None else self.spool.url.reveal()

    @property
    def every_destination(self) -> Mapping[str, DestinationSettings]:
        """All destinations by name, that of ``[delivery]`` as ``default``."""
        default = {} if self.delivery is None else {DEFAULT: self.delivery}
        return {**default, **self.destinations}

    @property
    def remotes(self) -> tuple[RemoteTable, ...]:
        """All tables with a URL that may hold a password: broker, state, every destination."""
        return (self.broker, self.state, *self.every_destination.values())

    @property
    def oauth_tables(self) -> Iterator[OAuthSettings]:
        """All tables that say how access tokens are had."""
        accounts = (account.oauth for account in self.accounts)
        destinations = (table.oauth for table in self.every_destination.values())
        yield from filter(None, chain(accounts, destinations))

    def state_address(self) -> str | Path:
        """Return the URL of the state database, with its password in it, or its file.

        A path is no URL: ``?``, ``%`` and ``#`` stand for themselves in it.

        Raises:
            ConfigError: the password cannot be had.
        """
        return self.state.address() or self.data_dir.absolute() / "state.db"
