"""What ``account test`` has found, and how it is told: for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.fetcher.pop3.listing import login_delay
from services.fetcher.worklist import Worklist
from services.postmaster import show
from shared.ledger import AccountStanding
from shared.log import printable
from shared.words import counted

SHOWN: Final = 10
"""Messages of a kind that are shown one by one; JSON has all."""

_CAPABILITIES: Final = ("UIDL", "TOP", "PIPELINING", "UTF8", "RESP-CODES", "SASL", "STLS")
"""Capabilities that matter for what a poll costs, and can do."""


@dataclass(slots=True)
class Named:
    """A message in the maildrop.

    Attributes:
        about: From, Subject and Date, where its header block was looked at.
    """

    number: int
    uidl: str | None
    size: int | None
    about: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Return it as plain values."""
        return {"number": self.number, "uidl": self.uidl, "size": self.size, **self.about}

    def __str__(self) -> str:
        """Return it on a line."""
        size = "size unknown" if self.size is None else show.size(self.size)
        uidl = "no UIDL" if self.uidl is None else f"UIDL {printable(self.uidl, 80)}"
        said = [self.about[name] for name in ("from", "subject") if name in self.about]
        return "; ".join([f"message {self.number}, {uidl}, {size}", *said])


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        failed: why it came to no end, None where it did.
        state: what holds a poll up, or comes first with it; None where nothing does.
        mechanism: of the login.
        known: messages that are recorded as fetched.
        adopted: messages that count as delivered, and that the next poll reads for their identity.
        fetch, delete: what the next poll would fetch, and delete.
        internal: what looks like a mail server's own state.
        notes: what cannot be done as it should be.
    """

    account: str
    server: str
    tls: str
    failed: str | None = None
    state: str | None = None
    mechanism: str = ""
    capabilities: list[str] = field(default_factory=list)
    login_delay: float = 0.0
    expire: str | None = None
    messages: int = 0
    known: int = 0
    adopted: int = 0
    fetch: list[Named] = field(default_factory=list)
    delete: list[Named] = field(default_factory=list)
    too_large: list[Named] = field(default_factory=list)
    left_alone: list[Named] = field(default_factory=list)
    internal: list[Named] = field(default_factory=list)
    more: bool = False
    notes: list[str] = field(default_factory=list)

    def note_standing(self, standing: AccountStanding, *, skips: bool) -> None:
        """Note how the account stands, and whether its first poll skips what is there."""
        if standing.choice is not None:
            self.state = f"the next poll follows what was chosen: {standing.choice}"
        elif standing.held is not None:
            self.state = f"it is held: {standing.held}"
        elif skips and not standing.polled:
            self.state = "with the first poll, what is there counts as seen (skip_existing)"

    def note_login(self, mechanism: str, offered: Mapping[str, tuple[str, ...]]) -> None:
        """Note how the login went, and what the server offers after it."""
        self.mechanism = mechanism
        self.capabilities = [
            " ".join((name, *offered[name])) for name in _CAPABILITIES if name in offered
        ]
        self.login_delay = login_delay(offered)
        self.expire = " ".join(offered["EXPIRE"]) if "EXPIRE" in offered else None

    def note_listing(self, work: Worklist, notes: Sequence[str]) -> None:
        """Note what is there."""
        self.messages, self.more, self.notes = work.found, work.more, [*notes]
        self.known = 0 if work.more else work.found - len(work.fetch)

    def record(self) -> dict[str, object]:
        """Return all of it as plain values, without secrets."""
        lists = ("fetch", "delete", "too_large", "left_alone", "internal")
        return {
            "account": self.account,
            "ok": self.failed is None,
            "failed": self.failed,
            "state": self.state,
            "server": self.server,
            "tls": self.tls,
            "mechanism": self.mechanism or None,
            "capabilities": self.capabilities,
            "login_delay": self.login_delay or None,
            "expire": self.expire,
            "messages": self.messages,
            "known": self.known,
            "adopted": self.adopted,
            **{name: [named.record() for named in getattr(self, name)] for name in lists},
            "notes": self.notes,
        }

    def report(self) -> None:
        """Print it for a person."""
        show.entry("account", printable(self.account))
        show.entry("server", f"{printable(self.server)}, tls {self.tls}")
        if self.state is not None:
            show.entry("state", printable(self.state, 1000))
        if self.mechanism:
            show.entry("logged in by", self.mechanism)
            show.entry("capabilities", printable(", ".join(self.capabilities)) or "not said")
            self._report_limits()
            self._report_listing()

    def _report_limits(self) -> None:
        if self.login_delay:
            show.entry("LOGIN-DELAY", f"{self.login_delay:g} seconds between two logins")
        if self.expire == "0":
            show.entry("EXPIRE", "0: the server deletes what was retrieved, whatever keep says")
        elif self.expire is not None:
            show.entry("EXPIRE", printable(f"{self.expire}: days that the server keeps mail"))

    def _report_listing(self) -> None:
        show.entry("messages", str(self.messages))
        show.entry("known", "not counted" if self.more else str(self.known))
        if self.adopted:
            show.entry("adopted", f"{self.adopted}, read once for what they are")
        self._report_kind("would fetch", self.fetch)
        self._report_kind("would delete", self.delete)
        self._report_kind("too large", self.too_large)
        self._report_kind("left alone", self.left_alone)
        self._report_kind("no mail", self.internal)
        for note in self.notes:
            show.entry("note", printable(note, 1000))

    def _report_kind(self, title: str, messages: Sequence[Named]) -> None:
        more = ", or more" if self.more and messages is self.fetch else ""
        if not messages and messages not in (self.fetch, self.delete):
            return
        show.entry(title, f"{counted(len(messages), 'message')}{more}")
        for named in messages[:SHOWN]:
            show.entry("", str(named))
        if len(messages) > SHOWN:
            show.entry("", f"and {len(messages) - SHOWN} more (--json has all)")
