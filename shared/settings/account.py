"""The table of an account: where its maildrop is, how it logs in, when it is polled, what stays.

What a provider is known for, and ``[defaults]``, are filled in before it is checked (see
``shared.settings.filling``).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from shared.settings.fields import (
    POLL_EVERY,
    Auth,
    Bytes,
    Host,
    Location,
    Mailbox,
    Name,
    Retention,
    Seconds,
    Username,
)
from shared.settings.oauth import OAuthSettings
from shared.settings.schedules import Rules, Zone
from shared.settings.secret import SOURCES
from shared.settings.table import LoginTable
from shared.settings.transport import BindAddress, Fingerprints, ProxyUrl
from shared.settings.values import Keep

DEFAULT: Final = "default"
"""The name of the destination that ``[delivery]`` describes."""


_WHICH_HOST: Final = (
    'expected host = "pop.example.net", as your provider says, or provider = "gmail" or another of'
    " those that `pop3-connector providers` lists; neither is needed where username is an address"
    " at one of these"
)


class AccountSettings(LoginTable):
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
