"""The configuration: what can be set, what it means, and what holds where nothing is set.

``load`` is the one way in. Only ``__main__`` modules and the command line call it; everything else
gets the values it needs. A wrong configuration is a ConfigError that names every problem at once,
each with its place and what is expected. Secrets are masked in every repr and error text.

Relative paths are relative to the working directory of the process.
Where ``data_dir`` is not set, ``shared.settings.data_dir`` says where data lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from shared.broker import CONNECTOR
from shared.disk.space import USUAL
from shared.queues import Tier
from shared.settings.data_dir import holding, usual
from shared.settings.fields import (
    POLL_EVERY,
    Auth,
    BrokerUrl,
    BrokerUrls,
    Bytes,
    DeliveryUrl,
    Free,
    Host,
    ListenAddress,
    Location,
    Mailbox,
    ManagementUrl,
    Name,
    Password,
    Retention,
    Seconds,
    SpoolUrl,
    StateUrl,
    Tiers,
    Username,
)
from shared.settings.filling import DEFAULTS, ITS_OWN, fill_in
from shared.settings.oauth import OAUTH_FILE_KEYS, OAuthSettings, TokenKeySettings
from shared.settings.problems import Problem, WrongSettings, findings, hint
from shared.settings.providers import Provider, Providers, providers_in
from shared.settings.schedules import Rules, Zone
from shared.settings.secret import SOURCES, Secret
from shared.settings.source import SettingsSource
from shared.settings.table import Table, given_secret
from shared.settings.transport import BindAddress, Fingerprints, ProxyUrl
from shared.settings.values import Keep, KeyPath, Url

_LOGINS: Final = ("imap", "imaps", "smtp", "smtps", "lmtp")
"""The schemes of destinations that one logs in at."""

DEFAULT: Final = "default"
"""The name of the destination that ``[delivery]`` describes."""

INLINE_MAX: Final = 15 * 1024 * 1024
"""The largest ``inline_limit``: RabbitMQ takes 16 MiB, and an envelope is more than its message."""


_WHICH_HOST: Final = (
    'expected host = "pop.example.net", as your provider says, or provider = "gmail" or another of'
    " those that `pop3-connector providers` lists; neither is needed where username is an address"
    " at one of these"
)


class _Login(Table):
    """A table that may hold a password, given in one of four ways."""

    password: Password | None = None
    password_file: Password | None = None
    password_env: Password | None = None
    password_command: Password | None = None

    @model_validator(mode="after")
    def _one_password(self) -> _Login:
        given_secret(self, "password")
        return self

    @property
    def secret(self) -> Secret | None:
        """The password, whichever way it was given."""
        return given_secret(self, "password")


class _Remote(_Login):
    """A table with a URL, whose user name and password may stand beside it."""

    url: Url | None = None
    username: Username | None = None

    @model_validator(mode="after")
    def _password_belongs_to_somebody(self) -> _Remote:
        if self.secret is None:
            return self
        if not self.every_url:
            raise ValueError("there is a password, but no url")
        if any(url.has_password for url in self.every_url):
            raise ValueError(f"the password is given twice: in the url and as {self.secret.source}")
        if not self.username and not all(url.username for url in self.every_url):
            raise ValueError("there is a password, but no username here or in the url")
        return self

    @property
    def every_url(self) -> tuple[Url, ...]:
        """The URL, if there is one; of several each is as good as the others."""
        return () if self.url is None else (self.url,)

    def address(self) -> str | None:
        """Return the URL with its password in it, None where no URL is set.

        Raises:
            ConfigError: the password cannot be had.
        """
        return next(iter(self.addresses()), None)

    def addresses(self) -> tuple[str, ...]:
        """Return every URL with its password in it.

        Raises:
            ConfigError: the password cannot be had.
        """
        if self.secret is None or not self.every_url:
            return tuple(url.reveal() for url in self.every_url)
        name, password = self.username, self.secret.reveal()
        return tuple(url.with_credentials(name, password).reveal() for url in self.every_url)


class BrokerSettings(_Remote):
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


class StateSettings(_Remote):
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


class DestinationSettings(_Remote):
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


class AccountSettings(_Login):
    """``[[account]]``: one POP3 mailbox, and the local mailbox that its messages go to.

    Attributes:
        provider: whose mailbox it is, named or found from ``username``; None for nobody known.
        port: 995 for implicit TLS and 110 otherwise, unless set.
        tls_fingerprint: of the certificates that the server may have.
        client_cert: by which the server knows us; ``client_key`` may stand in the same file.
        proxy: through which the server is connected to.
        bind: the address of this machine to connect from.
        auth: the mechanism of the login; ``auto`` takes the strongest that is offered and safe.
        poll_soonest: seconds to the next poll while mail is coming; None for no sooner.
        schedule: at which hours it is polled how often, in place of ``poll_every``.
        timezone: of these hours; None for the machine's own.
        skip_existing: what is there at the first poll counts as seen, and stays.
        order: which of several messages is fetched first.
        max_per_session: messages after which a session quits; None for as many as it takes.
        flood_limit: new messages in one poll beyond which it is held; None for what is usual.
        over_max_size: whether the mailbox is told of a message that is larger.
        keep: what happens on the server after a message is safe. It is ``forever`` unless set:
            nothing is deleted that nobody asked to delete.
        max_size: bytes; a message that is larger is left at the server.
        timeout: seconds without a byte after which the server counts as gone.
        destination: the name of a destination; ``default`` is that of ``[delivery]``.
        oauth: access tokens in place of a password.
    """

    name: Name
    provider: str | None = None
    host: Host = Field(description=_WHICH_HOST)
    port: int = Field(ge=1, le=65535)
    tls: Literal["implicit", "starttls", "none"] = "implicit"
    ca_file: Location | None = None
    tls_fingerprint: Fingerprints = frozenset()
    client_cert: Location | None = None
    client_key: Location | None = None
    proxy: ProxyUrl | None = None
    bind: BindAddress | None = None
    username: Username
    auth: Auth = "auto"
    poll_every: Seconds = POLL_EVERY
    poll_soonest: Seconds | None = None
    schedule: Rules | None = None
    timezone: Zone | None = None
    skip_existing: bool = False
    order: Literal["oldest", "newest"] = "oldest"
    max_per_session: Annotated[int, Field(ge=1)] | None = None
    flood_limit: Annotated[int, Field(ge=1)] | None = None
    over_max_size: Literal["leave", "notice"] = "leave"
    keep: Retention = Keep.parse("forever")
    mailbox: Mailbox
    destination: Name = DEFAULT
    max_size: Annotated[Bytes, Field(ge=1)] = 256 * 1024 * 1024
    timeout: Seconds = 60.0
    enabled: bool = True
    oauth: OAuthSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _port_by_tls(cls, data: Any) -> Any:
        if isinstance(data, dict) and "poll_every" in data and "schedule" in data:
            raise ValueError("expected either poll_every or a schedule")
        if isinstance(data, dict) and "port" not in data:
            return {**data, "port": 995 if data.get("tls", "implicit") == "implicit" else 110}
        return data

    @model_validator(mode="after")
    def _fits_tls(self) -> AccountSettings:
        if self.tls == "none" and (self.tls_fingerprint or self.client_cert):
            raise ValueError('there is no certificate with tls = "none"')
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("there is a client_key, but no client_cert")
        return self

    @model_validator(mode="after")
    def _has_a_password(self) -> AccountSettings:
        if self.secret is None and self.oauth is None:
            expected = ", ".join(SOURCES)
            raise ValueError(f"there is no password: expected one of {expected}, or an oauth table")
        if self.secret is not None and self.oauth is not None:
            raise ValueError("there are a password and an oauth table: one of them is enough")
        # Which keys stand in the file nobody asks; of 50,000 accounts, it is 30 MiB.
        self.model_fields_set.clear()
        return self


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
    def remotes(self) -> tuple[_Remote, ...]:
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


_TABLES: Final[Mapping[tuple[str, ...], type[BaseModel]]] = {
    (): Settings,
    ("broker",): BrokerSettings,
    ("state",): StateSettings,
    ("spool",): SpoolSettings,
    ("delivery",): DestinationSettings,
    ("destinations", "*"): DestinationSettings,
    ("retry",): RetrySettings,
    ("limits",): LimitSettings,
    ("monitor",): MonitorSettings,
    ("oauth",): TokenKeySettings,
    ("account", "*"): AccountSettings,
    ("account", "*", "oauth"): OAuthSettings,
    ("destinations", "*", "oauth"): OAuthSettings,
    ("delivery", "oauth"): OAuthSettings,
}
_FILE_KEYS: Final = (
    *("password_file", "ca_file", "client_cert", "client_key", "providers_file"),
    *OAUTH_FILE_KEYS,
)
_IN_ACCOUNT: Final = 2
"""Parts of a key, such as ``("account", 0)``, that lead to the table of an account."""


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings in a file, with those in the environment laid over them.

    Args:
        path: a TOML file; None for the environment alone.
        environ: the environment; see ``shared.settings.source`` for the names in it.

    Raises:
        ConfigError: something is wrong with them; its text has one line for each problem.
    """
    source = SettingsSource(path, environ, _FILE_KEYS)
    document = {"data_dir": str(usual(environ)), **source.document}
    providers = providers_in(source)
    context = {
        "environ": environ,
        "file": path,
        "digest": source.digest,
        "providers": providers,
    }
    wrong = _wrong_defaults(document.get(DEFAULTS), context)
    if wrong:  # told once, and not once more for each account
        document["account"] = []
    wrong += fill_in(document, providers)
    if isinstance(document.get(DEFAULTS), dict):
        del document[DEFAULTS]
    try:
        settings = Settings.model_validate(document, context=context)
    except ValidationError as error:
        found = wrong + findings(error, _TABLES)
    else:
        found = [*wrong, *_contradictions(settings)]
        if settings.uses_data_dir and "data_dir" not in source.document:
            found += _two_places(holding(environ))
        if not found:
            return settings
    # Raised outside the handler: pydantic's error holds the input, which may hold a secret.
    homes = dict.fromkeys((_home(source, key), what) for key, what in found)
    raise WrongSettings([Problem(source.where(key), what) for key, what in homes])


def known_providers(path: Path | None, environ: Mapping[str, str]) -> Providers:
    """Return the providers that a configuration knows, whatever else is wrong with it.

    Args:
        path: a TOML file; None for the environment alone.
        environ: the environment.

    Raises:
        ConfigError: it cannot be read, or what it says of providers is wrong.
    """
    return providers_in(SettingsSource(path, environ, _FILE_KEYS))()


def _wrong_defaults(defaults: object, context: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """Return what is wrong with the defaults of accounts, by an account that has nothing else."""
    if not isinstance(defaults, dict):
        return []
    found: list[tuple[KeyPath, str]] = [
        ((DEFAULTS, key), "each account has its own: write it below [[account]]")
        for key in defaults
        if key in ITS_OWN
    ]
    other = {key: value for key, value in defaults.items() if key not in ITS_OWN}
    login = {} if "oauth" in other else {"password": "x"}
    known = {"name": "x", "host": "x", "username": "x", "mailbox": "x", **login}
    try:
        AccountSettings.model_validate({**known, **other}, context=context)
    except ValidationError as error:
        found += (
            ((DEFAULTS, *key[2:]), what)
            for key, what in findings(error, _TABLES, ("account", 0))
            # The provider of each account may make such a table complete.
            if key[2:] != ("oauth",) or not isinstance(other["oauth"], dict)
        )
    return found


def _home(source: SettingsSource, key: KeyPath) -> KeyPath:
    """Return where a key of an account stands: among the defaults, if it is not below its own."""
    of_defaults = (DEFAULTS, *key[2:])
    is_filled_in = key[:1] == ("account",) and len(key) > _IN_ACCOUNT
    own = key[: _IN_ACCOUNT + 1]  # a table of its own takes nothing from that of the defaults
    if is_filled_in and not source.has(own) and source.has(of_defaults):
        return of_defaults
    return key


def _two_places(holding_data: Sequence[Path]) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem where data lies in two places: with the wrong ledger all comes again."""
    if len(holding_data) > 1:
        found = " and ".join(str(place.absolute()) for place in holding_data)
        yield ("data_dir",), f"there is data of the connector in {found}; write which one counts"


def _contradictions(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong between tables that are right by themselves."""
    if DEFAULT in settings.destinations:
        yield (
            ("destinations", DEFAULT),
            f"the name {DEFAULT!r} stands for [delivery]; choose another",
        )
    counts = Counter(account.name for account in settings.accounts)
    known = settings.every_destination
    for index, account in enumerate(settings.accounts):
        if counts[account.name] > 1:
            yield ("account", index, "name"), "another account has this name; names are unique"
        if account.destination in known:
            continue
        if account.destination == DEFAULT:
            yield ("account", index), "nowhere to deliver to: expected [delivery] with a url"
        else:
            what = f"no such destination; {hint(account.destination, known)}"
            yield ("account", index, "destination"), what
