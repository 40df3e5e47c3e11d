"""From the entries of a fetchmailrc to accounts.

Where fetchmail hands mail to a mail server, so do we, with the same recipient. It decides by the
message whose it is where an entry has several local names (multidrop): we do not, so such an
account is written disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.postmaster.moving import deliveries
from services.postmaster.moving.fetchmail.entries import NO, Entry, User, entries
from services.postmaster.moving.found import (
    Found,
    FoundAccount,
    FoundDestination,
    Home,
    Maildrop,
    Option,
    Place,
)
from services.postmaster.moving.options import (
    TOKEN,
    Keys,
    NotCarried,
    Row,
    apply,
    file_at,
    key,
    lost,
    names,
    nothing,
    number,
    seconds,
    shown,
    unless,
    without_tls,
)

_AUTOMATIC: Final = ("", "auto")
_POP3: Final = ("pop3", "apop", *_AUTOMATIC)
_SERVICES: Final = {"pop3": 110, "pop3s": 995}
_AUTH: Final = {
    "any": nothing,
    "password": nothing,
    "cram": key("auth", lambda _: "cram-md5"),
    "cram-md5": key("auth"),
    "ntlm": key("auth"),
    "oauthbearer": TOKEN,
    "xoauth2": TOKEN,
}
_UNCHANGED: Final = lost("messages are delivered as they are; leave it out")
_BY_MESSAGE: Final = lost(
    "whose a message is is not decided by its header: ask the provider for a maildrop for each, or"
    " let your mail server sort"
)
_RUNS_NOTHING: Final = lost("no commands are run around a poll: use a service, a timer or a tunnel")


def _auth(text: str) -> Keys:
    if (row := _AUTH.get(text)) is None:
        raise NotCarried("there is no such login here: auth of the account has a list")
    return row(text)


def _limit(text: str) -> Keys:
    limit = key("max_size", number)(text)
    return limit if limit["max_size"] else {}


def _unless_denied(row: Row) -> Row:
    return unless(NO, row)


def _if_denied(row: Row) -> Row:
    return lambda text: row(text) if text == NO else {}


ROWS: Final[Mapping[str, Row]] = {
    "keep": lambda text: {"keep": "delete" if text == NO else "forever"},
    "timeout": key("timeout", seconds),
    "limit": _limit,
    "authenticate": _auth,
    "sslcertfile": key("ca_file", file_at),
    "sslcertck": _if_denied(
        lost("certificates are always verified: pin this one (tls_fingerprint), or set ca_file")
    ),
    "sslfingerprint": lost(
        'it is of MD5, which is not safe: write tls_fingerprint = "sha256:...", as openssl x509'
        " -noout -fingerprint -sha256 shows it"
    ),
    "sslcommonname": lost("certificates are verified by the name of the host"),
    "sslcertpath": lost("put the certificates of the authorities into one file: ca_file"),
    "sslcert": key("client_cert", file_at),
    "sslkey": key("client_key", file_at),
    "flush": _unless_denied(lost("nothing is deleted that was not fetched")),
    "limitflush": _unless_denied(lost("what is too large stays at the server")),
    "fetchall": nothing,
    "uidl": nothing,
    "fastuidl": nothing,
    "expunge": nothing,
    "batchlimit": nothing,
    "fetchlimit": lost("all that is new is fetched"),
    "fetchsizelimit": nothing,
    "warnings": lost("what is too large is told in the log and by accounts"),
    "stripcr": nothing,
    "forcecr": nothing,
    "pass8bits": nothing,
    "rewrite": _unless_denied(_UNCHANGED),
    "mimedecode": _unless_denied(_UNCHANGED),
    "dropstatus": _unless_denied(_UNCHANGED),
    "dropdelivered": _unless_denied(_UNCHANGED),
    "idle": nothing,
    "folder": lost("POP3 has no folders"),
    "antispam": lost("what the mail server refuses goes to Failed Mail"),
    "preconnect": _RUNS_NOTHING,
    "postconnect": _RUNS_NOTHING,
    "plugin": _RUNS_NOTHING,
    "plugout": _RUNS_NOTHING,
    "interface": lost("accounts are polled whatever the network is: run it where that is there"),
    "monitor": lost("accounts are polled whatever the network does"),
    "principal": lost("there is no Kerberos here"),
    "properties": nothing,
    "tracepolls": nothing,
    "bad-header": nothing,
    "dns": nothing,
    "checkalias": nothing,
    "sdps": _BY_MESSAGE,
    "envelope": _unless_denied(_BY_MESSAGE),
    "qvirtual": _BY_MESSAGE,
    "localdomains": _BY_MESSAGE,
    "fetchdomains": _BY_MESSAGE,
    "aka": nothing,
}
"""What options of servers and users become; those below are looked at together."""

_TOGETHER: Final = names(
    """
    via protocol service ssl sslproto interval password smtphost lmtp smtpaddress smtpname
    mda bsmtp esmtpname esmtppassword
    """
)
_GLOBAL: Final[Mapping[str, Row]] = {
    "daemon": nothing,
    "idfile": nothing,
    "pidfile": nothing,
    "logfile": nothing,
    "syslog": nothing,
    "invisible": nothing,
    "showdots": nothing,
    "properties": nothing,
    "postmaster": lost("what cannot be delivered goes to Failed Mail, and to nobody's mailbox"),
    "bouncemail": nothing,
    "spambounce": unless(NO, lost("nothing is sent back to senders")),
    "softbounce": nothing,
}


def read(path: Path, text: str, home: Home) -> Found:
    """Return what a fetchmailrc configures.

    Args:
        path: of it.
        text: all of it.
        home: of the user who runs fetchmail.

    Raises:
        Wrong: it is none.
    """
    servers, options = entries(text, path.name)
    found = Found()
    nobody = FoundAccount(Place(path.name, 1), Maildrop((), 0, ""))
    for option in options.values():
        apply(_GLOBAL, option, nobody, found)
    for entry in servers:
        for user in entry.users:
            _Account(entry, user, options, home, found, path).add()
    return found


class _Account:
    """One user of one server."""

    def __init__(
        self,
        entry: Entry,
        user: User,
        options: Mapping[str, Option],
        home: Home,
        found: Found,
        path: Path,
    ) -> None:
        self._entry = entry
        self._user = user
        self._globals = options
        self._home = home
        self._found = found
        self._options = {**entry.options, **user.options}
        self._place = Place(path.name, user.line)
        self._folder = path.absolute().parent
        self._host = self._text("via") or entry.name

    def add(self) -> None:
        """Add the account to what was found."""
        protocol = self._text("protocol").lower()
        if protocol not in _POP3:
            self._leave("protocol", "only POP3 is polled: ask the provider for it")
            return
        keys: dict[str, object] = {"host": self._host, **self._tls()}
        account = FoundAccount(self._place, self._maildrop(keys), keys)
        keys["username"] = account.maildrop.user
        if protocol == "apop":
            keys["auth"] = "apop"
        keys["keep"] = "delete"
        for option in self._options.values():
            if option.name not in _TOGETHER:
                apply(ROWS, option, account, self._found)
        without_tls(keys)
        if keys["keep"] == "forever" and self._is_on("fetchall"):
            self._leave("fetchall", "what was fetched is not fetched again")
        keys.update(self._poll_every())
        keys.update(self._password(account.maildrop.user))
        account.delivery = self._delivery()
        keys["mailbox"] = deliveries.mailbox(self._mailbox(account))
        if self._entry.skip:
            keys["enabled"] = False
        if protocol in _AUTOMATIC:
            account.note = "fetchmail chooses between POP3 and IMAP here"
        self._found.accounts.append(account)

    def _text(self, name: str) -> str:
        option = self._options.get(name)
        return "" if option is None or option.value == NO else option.value

    def _is_on(self, flag: str) -> bool:
        return flag in self._options and self._options[flag].value != NO

    def _leave(self, name: str, advice: str, what: str = "") -> None:
        option = self._options.get(name)
        place = self._place if option is None else option.place
        self._found.leave(place, what or (name if option is None else shown(option)), advice)

    def _maildrop(self, keys: Keys) -> Maildrop:
        user = self._user.remote or self._home.user
        idfile = self._globals.get("idfile")
        records = [self._home.path / ".fetchids", self._folder / ".fetchids"]
        if idfile is not None:
            records = [self._home.expanded(idfile.value)]
        usual = 995 if keys["tls"] == "implicit" else 110
        port = keys.get("port", usual)
        hosts = tuple(dict.fromkeys((self._host, self._entry.name)))
        return Maildrop(hosts, port if isinstance(port, int) else usual, user, tuple(records))

    def _tls(self) -> Keys:
        proto = self._options.get("sslproto")
        if self._is_on("ssl"):
            tls = "implicit"
        elif proto is not None and not proto.value:
            tls = "none"
        else:
            tls = "starttls"
            if proto is None or proto.value == "auto":
                self._leave(
                    "sslproto",
                    "fetchmail goes on in clear where the server does not offer STLS: tls ="
                    ' "starttls" does not; where it has no TLS at all, write tls = "none"',
                    what="no ssl, and no sslproto",
                )
        service = self._text("service")
        if not service:
            return {"tls": tls}
        port = int(service) if service.isdecimal() else _SERVICES.get(service)
        if port is None:
            self._leave("service", "write the number of the port")
            return {"tls": tls}
        return {"port": port, "tls": tls}

    def _poll_every(self) -> Keys:
        daemon = self._globals.get("daemon")
        interval = self._text("interval")
        if daemon is None or not daemon.value.isdecimal() or not int(daemon.value):
            if interval:
                self._leave("interval", "no set daemon says of what: write poll_every")
            return {}
        times = int(interval) if interval.isdecimal() else 1
        return {"poll_every": f"{int(daemon.value) * max(1, times)}s"}

    def _password(self, user: str) -> Keys:
        if password := self._text("password"):
            return {"password": password}
        for name in dict.fromkeys((self._entry.name, self._host)):
            known = self._home.password(name)
            if known is not None and known[0] in ("", user):
                return {"password": known[1]}
        self._found.leave(
            self._place, "no password", "fetchmail asks for it: see Passwords in the docs"
        )
        return {}

    def _delivery(self) -> FoundDestination | None:
        try:
            return self._chosen_delivery()
        except NotCarried as why:
            name = next(n for n in ("bsmtp", "mda", "smtphost", "lmtp") if n in self._options)
            self._leave(name, str(why))
            return None

    def _chosen_delivery(self) -> FoundDestination:
        if self._text("bsmtp"):
            raise NotCarried("batch files are not written: choose a destination")
        if command := self._text("mda"):
            raise deliveries.program(command)
        hosts = self._text("smtphost").split()
        if len(hosts) > 1:
            self._leave(
                "smtphost",
                "the first one is tried again, and no other: put one name"
                " over several servers (DNS)",
            )
        host, _, port = (hosts[0] if hosts else "localhost").partition("/")
        lmtp = self._is_on("lmtp")
        if not host:
            if lmtp:
                return deliveries.lmtp(hosts[0], None, self._home)
            raise NotCarried("a socket is known for LMTP alone: lmtp+unix:///path")
        if port and not port.isdecimal():
            raise NotCarried("write the number of the port")
        at = int(port) if port else None
        made = deliveries.lmtp(host, at, self._home) if lmtp else deliveries.smtp(host, at)
        return made._replace(login=self._login())

    def _login(self) -> tuple[tuple[str, str], ...]:
        name, password = self._text("esmtpname"), self._text("esmtppassword")
        return (("username", name), ("password", password)) if name and password else ()

    def _mailbox(self, account: FoundAccount) -> str:
        """Return the recipient that fetchmail gives to the mail server (rcpt_address in sink.c)."""
        local = self._user.local
        if len(local) > 1 or any("=" in name or "*" in name for name in local):
            account.keys["enabled"] = False
            account.note = "whose a message is: fetchmail looks into it (multidrop), we do not"
            self._found.leave(
                self._place,
                f"is {' '.join(local)}",
                "all mail of an account goes to one mailbox: ask the provider for a maildrop for"
                " each, or let your mail server sort; it is written disabled",
            )
        if name := self._text("smtpname"):
            return name
        first = (local[0] if local else self._home.user).rpartition("=")[2].strip("*")
        first = first or self._home.user
        if "@" in first:
            return first
        host = (self._text("smtphost").split() or ["localhost"])[0].partition("/")[0]
        return f"{first}@{self._text('smtpaddress') or host or 'localhost'}"
