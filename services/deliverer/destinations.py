"""From the URL of a destination to its courier: one table of schemes.

    smtp://[user:password@]host[:25]      SMTP; STARTTLS by ``tls``
    smtps://[user:password@]host[:465]    SMTP over TLS from the first byte
    lmtp://host[:24]                      LMTP
    lmtp+unix:///path/of/socket           LMTP over a local socket
    maildir:///path/{mailbox}             Maildirs; {mailbox} is the recipient, {local}, {domain}
    pickup:///path/PickUp                 the PickUp folder of the SMTP service of IIS
    replay:///path/Replay                 the Replay directory of Exchange 2007 and later
    imap://user:password@host[:143]/Folder   a folder at an IMAP server; STARTTLS
    imaps://user:password@host[:993]/Folder  the same over TLS from the first byte

Mail servers take options after a ``?``: ``tls=none``, ``opportunistic`` or ``required`` (see
``Target``), ``ca_file=/path`` of the authority to verify by instead of the system's, ``helo=name``,
what to call ourselves, ``pipelining=none``, ``commands`` or ``full`` (likewise), what may be sent
together, ``delivered_to=keep`` (see the module of that name), and ``auth=cram-md5`` or another
mechanism to log in by, in place of the strongest that is offered. IMAP takes ``tls`` (``required``,
or ``none`` to this machine itself), ``ca_file``, ``auth``, ``flags=seen,flagged,keyword`` and
Gmail's ``labels=one,two``; {mailbox}, {local} and {domain} may stand in its folder. Folders from
which a server takes files have ``staging=/path``, where these grow. Without ``tls``, SMTP takes TLS
where it is offered, whatever the certificate, as mail servers do among each other; a ``ca_file`` or
a password makes it required and verified. Nothing in a URL is trusted: what is unknown is an error
that says what is expected.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from services.deliverer.courier import Courier
from services.deliverer.files.durable_files import FileStore
from services.deliverer.files.maildir import MaildirCourier
from services.deliverer.files.pickup import (
    PickupCourier,
    WriteEnvelope,
    pickup_envelope,
    replay_envelope,
)
from services.deliverer.placeholders import PLACEHOLDERS, unknown_placeholders
from services.deliverer.servers.courier import ServerCourier
from services.deliverer.servers.fair_share import DeliverySlots
from services.deliverer.servers.promise import WEEK, Promise
from services.deliverer.smtp.promises import Promises
from services.deliverer.smtp.protocol import SmtpProtocol
from services.deliverer.smtp.target import Pipelining, SmtpLogin, Target
from shared.authentication import ntlm
from shared.authentication.choice import AUTO, SETTINGS
from shared.authentication.tokens import AccessTokens
from shared.clock import Clock, SystemClock
from shared.errors import ConfigError
from shared.network.dialogue import TraceFor
from shared.network.tls import unverified, verifying
from shared.redaction.known_secrets import KnownSecrets

_Tls: TypeAlias = Literal["none", "opportunistic", "required"]
_TLS: Final[tuple[_Tls, ...]] = get_args(_Tls)
_AUTH: Final = tuple(name for name in SETTINGS if name not in ("user", "apop"))
_PIPELINING: Final[tuple[Pipelining, ...]] = get_args(Pipelining)
_Word = TypeVar("_Word", bound=str)


@dataclass(frozen=True, slots=True)
class _DestinationUrl:
    """What was asked for: the parts of a URL, and what else a courier needs."""

    name: str
    url: SplitResult = field(repr=False)
    options: Mapping[str, str]
    clock: Clock
    connections: int
    patience: float
    listen: TraceFor | None
    slots: DeliverySlots
    known: KnownSecrets | None
    tokens: AccessTokens | None

    def wrong(self, what: str) -> ConfigError:
        """Return the error that tells what is wrong with the URL."""
        return ConfigError(f"the url of destination {self.name!r}", what)


def courier_for(
    name: str,
    url: str,
    *,
    clock: Clock | None = None,
    connections: int = 8,
    patience: float = 1.0,
    listen: TraceFor | None = None,
    slots: DeliverySlots | None = None,
    known: KnownSecrets | None = None,
    tokens: AccessTokens | None = None,
) -> Courier:
    """Return the courier for a destination. It connects to nothing before its first delivery.

    Args:
        name: of the destination, for errors.
        url: as in this module's docstring; it may hold a password.
        clock: the time; the machine's own if None.
        connections: how many may be open to a mail server at once.
        patience: what the timeouts of RFC 5321 section 4.5.3.2 are multiplied by.
        listen: takes the dialogues with a mail server, each by itself; None where nobody listens.
        slots: what may be in hand, shared with other destinations; its own if None.
        known: passwords that a mail server is not quoted with, beside that of its own login.
        tokens: where access tokens come from to log in with in place of a password, at a mail
            server.

    Raises:
        ConfigError: the URL is wrong. The password is not in the text.
    """
    try:
        parts = urlsplit(url)
        given = parts.query
        query = parse_qsl(given, keep_blank_values=True, strict_parsing=True) if given else []
    except ValueError as error:
        raise ConfigError(f"the url of destination {name!r}", f"cannot be read: {error}") from None
    wanted = _DestinationUrl(
        name,
        parts,
        dict(query),
        clock or SystemClock(),
        connections,
        patience,
        listen,
        slots or DeliverySlots(),
        known,
        tokens,
    )
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        raise wanted.wrong(f"expected one of {', '.join(f'{s}://' for s in _KINDS)}")
    for option in wanted.options:
        if option not in kind.options:
            raise wanted.wrong(_unknown_option(option, kind.options))
    return kind.make(wanted)


def _unknown_option(option: str, known: Sequence[str]) -> str:
    if not known:
        return f"unknown option {option!a}; there are none for this kind of destination"
    close = difflib.get_close_matches(option, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
    return f"unknown option {option!a}; {hint}"


def _server(
    wanted: _DestinationUrl, *, port: int, lmtp: bool = False, implicit: bool = False
) -> Courier:
    host, port = _host(wanted, port)
    if wanted.url.path.strip("/"):
        raise wanted.wrong(f"expected {wanted.url.scheme}://host:{port}, and no path")
    credentials = _credentials(wanted)
    tls = "implicit" if implicit else _tls(wanted, credentials)
    context = _context(wanted, verified=tls != "opportunistic") if tls != "none" else None
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = Target(
        server, host, port, lmtp=lmtp, tls=tls, context=context, credentials=credentials
    )
    return _courier(wanted, target)


def _host(wanted: _DestinationUrl, port: int) -> tuple[str, int]:
    try:
        host, port = wanted.url.hostname or "", wanted.url.port or port
    except ValueError as error:
        raise wanted.wrong(f"cannot be read: {error}") from None
    if not host:
        raise wanted.wrong(f"expected {wanted.url.scheme}://host:{port}")
    if "{" in host or "}" in host:
        raise wanted.wrong("placeholders stand in a path alone, not in a host")
    return host, port


def _lmtp_socket(wanted: _DestinationUrl) -> Courier:
    path = _path(wanted)
    return _courier(wanted, Target(path, "localhost", path, lmtp=True, tls="none"))


def _courier(wanted: _DestinationUrl, target: Target) -> Courier:
    """Return the courier for a mail server, once the options that all of them take are added."""
    target = replace(
        target,
        hello=_hello(wanted),
        pipelining=_one_of(wanted, "pipelining", _PIPELINING),
        quirks=Promises(wanted.clock),
        listen=wanted.listen,
        patience=wanted.patience,
        keep_delivered_to=_keeps_delivered_to(wanted),
        known=wanted.known,
        tokens=wanted.tokens,
    )
    return ServerCourier(SmtpProtocol(target), wanted.clock, wanted.connections, wanted.slots)


def _maildir(wanted: _DestinationUrl) -> Courier:
    template = _path(wanted)
    if unknown := unknown_placeholders(template):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise wanted.wrong(f"unknown placeholder {unknown[0]}; expected one of {known}")
    return MaildirCourier(template, FileStore(wanted.name))


def _folder(wanted: _DestinationUrl, envelope: WriteEnvelope) -> Courier:
    staging = wanted.options.get("staging")
    if staging is not None and (not staging.startswith("/") or "\0" in staging):
        raise wanted.wrong(f"staging={staging!a}: expected an absolute path")
    if staging is not None and staging.rstrip("/") == _path(wanted):
        raise wanted.wrong("staging: expected another folder than that of the path")
    return PickupCourier(_path(wanted), FileStore(wanted.name), envelope, staging)


def _imap(wanted: _DestinationUrl, *, port: int, implicit: bool = False) -> Courier:
    from services.deliverer.imap import mailbox_url  # loaded where it is used
    from services.deliverer.imap.protocol import ImapProtocol
    from services.deliverer.imap.target import ImapTarget

    host, port = _host(wanted, port)
    login = _mailbox_login(wanted)
    tls = "implicit" if implicit else mailbox_url.tls(wanted.options, host, wanted.wrong)
    target = ImapTarget(
        server=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        host=host,
        port=port,
        tls=tls,
        context=None if tls == "none" else _context(wanted, verified=True),
        user=login.user,
        password=login.password,
        auth=login.auth,
        tokens=wanted.tokens,
        folder=mailbox_url.folder(wanted.url.path, wanted.wrong),
        flags=mailbox_url.flags(wanted.options, wanted.wrong),
        labels=mailbox_url.labels(wanted.options, wanted.wrong),
        listen=wanted.listen,
        patience=wanted.patience,
        known=wanted.known,
        covert_login=Promise(wanted.clock, WEEK),
        finds=Promise(wanted.clock, WEEK),
    )
    return ServerCourier(ImapProtocol(target), wanted.clock, wanted.connections, wanted.slots)


def _mailbox_login(wanted: _DestinationUrl) -> SmtpLogin:
    """Return whose mailbox it is, and the password; none where there are access tokens."""
    login = _credentials(wanted)
    if login is None:
        raise wanted.wrong(f"expected {wanted.url.scheme}://user@host/Folder, and a password")
    return login


def _by_token(wanted: _DestinationUrl) -> SmtpLogin:
    """Return whom to log in as where there are access tokens; there is no password yet."""
    if not wanted.url.username or wanted.url.password is not None:
        raise wanted.wrong("expected a user name, and no password beside OAuth")
    return SmtpLogin(unquote(wanted.url.username), "", _auth(wanted))


def _path(wanted: _DestinationUrl) -> str:
    path = unquote(wanted.url.path).rstrip("/")
    if wanted.url.netloc or not path.startswith("/") or "\0" in path:
        raise wanted.wrong(f"expected an absolute path: {wanted.url.scheme}:///path")
    return path


def _credentials(wanted: _DestinationUrl) -> SmtpLogin | None:
    user, password = wanted.url.username, wanted.url.password
    if wanted.tokens is not None:
        return _by_token(wanted)
    if user is None and password is None:
        if "auth" in wanted.options:
            raise wanted.wrong("auth goes with a user name and a password")
        return None
    if not user or password is None:
        raise wanted.wrong("expected both a user name and a password, or neither")
    user, password = unquote(user), unquote(password)
    if re.search(r"[\r\n\0]", user + password):
        raise wanted.wrong("there is a line break or NUL in user name or password")
    if wanted.known is not None:
        wanted.known.learn(password)
    return SmtpLogin(user, password, _auth(wanted))


def _auth(wanted: _DestinationUrl) -> str:
    auth = wanted.options.get("auth", AUTO)
    if auth not in _AUTH:
        raise wanted.wrong(f"auth={auth!a}: expected one of {', '.join(_AUTH)}")
    if auth == "ntlm" and not ntlm.is_there():
        raise wanted.wrong(ntlm.LACKING)
    return auth


def _tls(wanted: _DestinationUrl, credentials: SmtpLogin | None) -> _Tls:
    must = credentials is not None or "ca_file" in wanted.options
    asked = _one_of(wanted, "tls", _TLS)
    if must and asked not in (None, "required"):
        raise wanted.wrong("a password or a ca_file goes with tls=required alone")
    return asked or ("required" if must else "opportunistic")


def _one_of(wanted: _DestinationUrl, option: str, words: Sequence[_Word]) -> _Word | None:
    """Return the word that was given for an option, None where it was not given."""
    asked = wanted.options.get(option)
    found = next((word for word in words if word == asked), None)
    if asked is not None and found is None:
        raise wanted.wrong(f"{option}={asked!a}: expected one of {', '.join(words)}")
    return found


def _context(wanted: _DestinationUrl, *, verified: bool) -> ssl.SSLContext:
    ca_file = wanted.options.get("ca_file")
    if not verified:
        return unverified()
    try:
        return verifying(ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise wanted.wrong(f"ca_file={ca_file!a} cannot be used: {error.strerror}") from error


def _keeps_delivered_to(wanted: _DestinationUrl) -> bool:
    asked = wanted.options.get("delivered_to", "rename")
    if asked not in ("rename", "keep"):
        raise wanted.wrong(f"delivered_to={asked!a}: expected rename or keep")
    return asked == "keep"


def _hello(wanted: _DestinationUrl) -> str | None:
    name = wanted.options.get("helo")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,255}", name):
        raise wanted.wrong(f"helo={name!a}: expected a host name")
    return name


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of destination: how to make its courier, and the options it takes."""

    make: Callable[[_DestinationUrl], Courier]
    options: tuple[str, ...] = ()


_OF_SERVERS: Final = ("helo", "pipelining", "delivered_to")
_OVER_TCP: Final = ("ca_file", "auth", *_OF_SERVERS)
_OF_MAILBOXES: Final = ("ca_file", "auth", "flags", "labels")

_KINDS: Final[Mapping[str, _Kind]] = {
    "smtp": _Kind(partial(_server, port=25), ("tls", *_OVER_TCP)),
    "smtps": _Kind(partial(_server, port=465, implicit=True), _OVER_TCP),
    "lmtp": _Kind(partial(_server, port=24, lmtp=True), ("tls", *_OVER_TCP)),
    "lmtp+unix": _Kind(_lmtp_socket, _OF_SERVERS),
    "imap": _Kind(partial(_imap, port=143), ("tls", *_OF_MAILBOXES)),
    "imaps": _Kind(partial(_imap, port=993, implicit=True), _OF_MAILBOXES),
    "maildir": _Kind(_maildir),
    "pickup": _Kind(partial(_folder, envelope=pickup_envelope), ("staging",)),
    "replay": _Kind(partial(_folder, envelope=replay_envelope), ("staging",)),
}
