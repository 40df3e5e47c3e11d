"""A private Cyrus: IMAP in clear, with mailboxes that are made at the first login.

Its namespace is the one that it has by default: a user's folders are below ``INBOX.``, with dots
between them. It offers LOGIN alone. See ``tests.servers.chroot``.
"""

import contextlib
import os
import socketserver
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.chroot import SEARCH, inside, root_of
from tests.servers.process import accepts, free_port, running

PASSWORD = "secret"

CYRUS, _MAIL = 104, 8
LIB = "/usr/lib/cyrus/bin"
_PROGRAMS = tuple(f"{LIB}/{name}" for name in ("master", "imapd", "ctl_cyrusdb"))

_IMAPD_CONF = """\
configdirectory: /var/lib/cyrus
partition-default: /var/spool/cyrus/mail
defaultpartition: default
servername: mail.corp.example
admins: cyrus
unixhierarchysep: no
altnamespace: no
zoneinfo_dir: /usr/share/zoneinfo
allowplaintext: yes
autocreate_quota: 0
autocreate_users: anyone
{extra}
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: /run/saslauthd
sasl_mech_list: PLAIN
"""

_CYRUS_CONF = """\
START {{
  recover cmd="ctl_cyrusdb -r"
}}
SERVICES {{
  imap cmd="imapd" listen="127.0.0.1:{port}" prefork=0 maxchild=40
}}
EVENTS {{
}}
"""


@dataclass(frozen=True)
class Cyrus:
    """A running server; every user name is one, with ``PASSWORD``.

    Attributes:
        imap: the port where it listens, in clear.
        root: all that it has.
    """

    imap: int
    root: Path
    host: str = "127.0.0.1"


@contextlib.contextmanager
def cyrus(extra: str = "") -> Iterator[Cyrus]:
    """Run a private Cyrus until the block ends; skip the test where there is none.

    Args:
        extra: more lines for imapd.conf.
    """
    with root_of("cyrus-imapd", _PROGRAMS, {"cyrus": CYRUS}) as root:
        server = Cyrus(free_port(), root)
        settings = _IMAPD_CONF.format(extra=extra)
        furnish(root, settings, _CYRUS_CONF.format(port=server.imap))
        own(root)
        with _passwords(root / "run" / "saslauthd"):
            command = inside(root, f"{LIB}/master", "-D")
            log = root / "master.out"
            with running(command, log, lambda: accepts(server.imap), SEARCH):
                yield server


def furnish(root: Path, settings: str, services: str) -> None:
    """Write the configuration of a Cyrus, and make its folders.

    Args:
        root: all that it has.
        settings: its imapd.conf.
        services: its cyrus.conf.
    """
    with (root / "etc" / "group").open("a") as group:
        group.write(f"mail:x:{_MAIL}:cyrus\n")
    (root / "etc" / "imapd.conf").write_text(settings)
    (root / "etc" / "cyrus.conf").write_text(services)
    zones = root / "usr/share/zoneinfo"  # without any, it does not start
    zones.mkdir(parents=True, exist_ok=True)
    (zones / "zones.tab").write_text("+513030 -0000731 Europe/London\n")
    for name in ("db", "socket", "proc", "log", "msg", "ptclient", "lock"):
        (root / "var/lib/cyrus" / name).mkdir(parents=True, exist_ok=True)
    for name in ("var/spool/cyrus/mail", "run/cyrus/socket"):
        (root / name).mkdir(parents=True, exist_ok=True)


def own(root: Path) -> None:
    """Give a Cyrus what it writes to."""
    for top in ("var/lib/cyrus", "var/spool/cyrus", "run/cyrus"):
        for path in [root / top, *(root / top).rglob("*")]:
            os.chown(path, CYRUS, _MAIL, follow_symlinks=False)


@contextlib.contextmanager
def _passwords(path: Path) -> Iterator[None]:
    """Say which passwords are right, as saslauthd does: counted strings in, one out."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, password, _, _ = [self._counted() for _ in range(4)]
            said = b"OK" if password == PASSWORD.encode() else b"NO"
            self.wfile.write(struct.pack(">H", len(said)) + said)

        def _counted(self) -> bytes:
            (length,) = struct.unpack(">H", self.rfile.read(2))
            return self.rfile.read(length)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Answer) as server:
        path.chmod(0o777)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
