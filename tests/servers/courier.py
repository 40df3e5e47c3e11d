"""A private Courier: its mail server for corp.example, and its POP3; see ``tests.servers.chroot``.

The mail server bounces a message that has a Delivered-To with its recipient, after it has taken it,
and serves a few connections of one address at a time. The POP3 server offers UTF8, and hands out a
stub in place of a message with raw 8-bit bytes in its header to clients who have not asked for it.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.chroot import (
    DOMAIN,
    SEARCH,
    LocalServer,
    inside,
    mailbox_owners,
    maildir,
    make_maildir,
    root_of,
)
from tests.servers.process import accepts, free_port, running

PASSWORD = "secret"

_COURIER = 101
_LIB = "/usr/lib/courier/courier"
_AUTHENTICATION = "/usr/lib/courier/courier-authlib/authdaemond"
_USERDBPW = "/usr/sbin/userdbpw"
_MAKEDAT = "/usr/lib/courier/courier-authlib/makedatprog"
_COMMON = (
    "/bin/sh",
    "/usr/sbin/couriertcpd",
    "/usr/lib/courier-authlib/libauthuserdb.so.0",
    _AUTHENTICATION,
    _MAKEDAT,
    _USERDBPW,
)
_POP3 = (f"{_LIB}/courierpop3login", f"{_LIB}/courierpop3d")
_MTA = tuple(
    f"{_LIB}/{name}"
    for name in (
        "courierd",
        "submit",
        "modules/esmtp/courieresmtpd",
        "modules/esmtp/courieresmtp",
        "modules/local/courierlocal",
        "modules/local/courierdeliver",
        "modules/dsn/courierdsn",
    )
)
_HASHED = "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"
"""The password, for crypt(3)."""

_SETTINGS = {
    "me": "mail.corp.example",
    "locals": DOMAIN,
    "defaultdomain": DOMAIN,
    "dsnfrom": f"postmaster@{DOMAIN}",
    "esmtpacceptmailfor": DOMAIN,
}
_DELIVERY = {"SHELL": "/bin/sh", "DYNAMICDELIVERIES": "1", "DEFAULTDELIVERY": "./Maildir"}
_SMTP = {"BOFHCHECKDNS": "0", "TARPIT": "0", "NOADDMSGID": "1", "NOADDDATE": "1"}
_POP3_SETTINGS = {"MIME_UNICODE_MESSAGE_TYPE": "message/global"}
_COURIER_TLS = "/usr/bin/couriertls"
_TLS_SETTINGS = {
    "POP3_STARTTLS": "YES",
    "COURIERTLS": _COURIER_TLS,
    "TLS_CERTFILE": "/etc/courier/both.pem",
    "TLS_VERIFYPEER": "NONE",
}
_HMACS = ("hmac-md5", "hmac-sha1", "hmac-sha256")


@dataclass(frozen=True)
class CourierPop3:
    """A running POP3 server.

    Attributes:
        pop3: the port where it listens, in clear, and with STLS.
        pop3s: the one with TLS from the first byte on.
        root: all that it has.
        certificates: its own, and who vouches for it.
    """

    pop3: int
    pop3s: int
    root: Path
    certificates: Certificates
    host: str = "127.0.0.1"

    def put(self, user: str, name: str, raw: bytes) -> None:
        """Put a message, its lines ended by LF, into the maildrop of a user."""
        new = maildir(self.root, user) / "new"
        with (new.parent / "tmp" / name).open("wb") as file:
            file.write(raw)
            os.fchown(file.fileno(), new.stat().st_uid, new.stat().st_gid)
        (new.parent / "tmp" / name).rename(new / name)

    def files(self, user: str) -> list[Path]:
        """Return what lies in the maildrop of a user."""
        return [p for name in ("new", "cur") for p in (maildir(self.root, user) / name).iterdir()]


@contextlib.contextmanager
def courier_pop3(
    users: Sequence[str] = ("sales",), per_ip: int = 4, mechanisms: str = ""
) -> Iterator[CourierPop3]:
    """Run a private POP3 server until the block ends; every password is ``PASSWORD``.

    Args:
        users: their maildrops are Maildirs with nothing in them yet.
        per_ip: how many connections it takes of one address.
        mechanisms: of AUTH; it offers none as it is packaged.
    """
    with _root("courier-pop", (*_COMMON, *_POP3, _COURIER_TLS), users) as root:
        folder = root / "etc" / "courier"
        server = CourierPop3(free_port(), free_port(), root, make_certificates(folder))
        both = folder / "both.pem"
        both.write_bytes(
            server.certificates.key.read_bytes() + server.certificates.cert.read_bytes()
        )
        _own(root)
        offered = {"POP3AUTH": mechanisms, "POP3AUTH_TLS": mechanisms}
        environment = {**SEARCH, **_POP3_SETTINGS, **_TLS_SETTINGS, **offered}
        clear = _listening(server.pop3, per_ip, *_POP3, "Maildir")
        within = (_COURIER_TLS, "-server", "-tcpd", *_POP3, "Maildir")
        hidden = _listening(server.pop3s, per_ip, *within)
        log, ready = root / "pop3.out", lambda: accepts(server.pop3)
        with (
            running(inside(root, *clear), log, ready, environment),
            running(inside(root, *hidden), log, lambda: accepts(server.pop3s), environment),
        ):
            yield server


@contextlib.contextmanager
def courier(mailboxes: Sequence[str] = ("sales",), per_ip: int = 5) -> Iterator[LocalServer]:
    """Run a private mail server until the block ends.

    Args:
        mailboxes: the local parts of corp.example that exist.
        per_ip: how many connections it takes of one address; 5 as it is packaged.
    """
    with _root("courier-mta", (*_COMMON, *_MTA), mailboxes) as root:
        server = LocalServer(free_port(), root)
        for name, value in _SETTINGS.items():
            (root / "etc" / "courier" / name).write_text(f"{value}\n")
        _database(root, "aliases", {})
        for name in ("tmp", "msgs", "msgq/0", "track", "filters", "allfilters"):
            (root / "var" / "lib" / "courier" / name).mkdir(parents=True, exist_ok=True)
        _own(root)
        own = ("-user=courier", "-group=courier", "-stderr=/tmp/esmtpd.out")
        command = inside(
            root, *_listening(server.port, per_ip, "/usr/sbin/courieresmtpd", options=own)
        )
        ready = root / "var" / "lib" / "courier" / "tmp" / "trigger"
        daemon = inside(root, f"{_LIB}/courierd")
        with (
            running(daemon, root / "courierd.out", ready.exists, {**SEARCH, **_DELIVERY}),
            running(command, root / "esmtp.out", lambda: accepts(server.port), {**SEARCH, **_SMTP}),
        ):
            yield server


@contextlib.contextmanager
def _root(package: str, programs: Sequence[str], users: Sequence[str]) -> Iterator[Path]:
    """Make a root with these users, and run Courier's authentication in it."""
    owners = mailbox_owners(users)
    with root_of(package, programs, {"courier": _COURIER, **owners}) as root:
        homes = {u: f"uid={n}|gid={n}|home=/home/{u}|shell=/bin/sh" for u, n in owners.items()}
        _database(root, "userdb", homes)
        known = "|".join([f"systempw={_HASHED}", *_hmacs(root)])
        _database(root, "userdbshadow", dict.fromkeys(owners, known))
        for user, owner in owners.items():
            make_maildir(root, user, owner)
        _edit(root / "etc" / "courier" / "authdaemonrc", authmodulelist="authuserdb", daemons="2")
        (root / "run" / "courier" / "authdaemon").mkdir(parents=True, exist_ok=True)
        _own(root)
        command = inside(root, _AUTHENTICATION)
        socket = root / "run" / "courier" / "authdaemon" / "socket"
        with running(command, root / "auth.out", socket.exists, SEARCH):
            yield root


def _listening(
    port: int, per_ip: int, *command: str, options: Sequence[str] = ()
) -> tuple[str, ...]:
    limits = ("-maxprocs=40", f"-maxperip={per_ip}", f"-maxperc={per_ip}")
    # Versions up to 1.2 ask for the ident of each client as well, which nobody answers here.
    listen = ("-address=127.0.0.1", "-nodnslookup")
    return ("/usr/sbin/couriertcpd", *listen, *limits, *options, str(port), *command)


def _hmacs(root: Path) -> Iterator[str]:
    """Yield what CRAM-MD5 and its like need to know of the password."""
    if (root / _USERDBPW.lstrip("/")).exists():
        for kind in _HMACS:
            command = inside(root, _USERDBPW, f"-{kind}")
            done = subprocess.run(
                command, input=f"{PASSWORD}\n", capture_output=True, text=True, check=True
            )
            yield f"{kind}pw={done.stdout.strip()}"


def _database(root: Path, name: str, rows: Mapping[str, str]) -> None:
    text = "".join(f"{key}\t{value}\n" for key, value in rows.items()) + ".\n"
    command = inside(root, _MAKEDAT, "-", "/tmp/new.dat", f"/etc/courier/{name}.dat")
    subprocess.run(command, input=text, text=True, check=True)


def _edit(path: Path, **settings: str) -> None:
    """Set some keys of a file that has ``key=value`` lines."""
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in settings]
    path.write_text("\n".join([*kept, *(f'{k}="{v}"' for k, v in settings.items()), ""]))


def _own(root: Path) -> None:
    for top in ("var/lib/courier", "etc/courier", "run/courier"):
        for path in [root / top, *(root / top).rglob("*")]:
            os.chown(path, _COURIER, _COURIER, follow_symlinks=False)
