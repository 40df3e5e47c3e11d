"""POP3 servers for the users of a machine, as inetd starts them: see ``tests.servers.chroot``.

popa3d knows USER and PASS, and no CAPA; solid-pop3d APOP as well; that of GNU mailutils has STLS
besides. Each connection is a process of its own. ``pop3s`` is a proxy before them that does TLS, as
stunnel is elsewhere.
"""

import contextlib
import os
import pty
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.chroot import SEARCH, inside, root_of
from tests.servers.process import free_port
from tests.servers.proxy import proxy

PASSWORD = "secret"
USER = "sales"

_OWNER = 1001
_HASHED = "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"
"""The password, for crypt(3)."""

_PAM_MODULES = "/lib/x86_64-linux-gnu/security"
_PAM = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n"


_MAILUTILS = """\
logging {
  syslog no;
};
auth {
  authentication "generic:system:pam";
  authorization "system";
};
mailbox {
  mailbox-pattern "/var/mail/${user}";
};
apop-database-file "/etc/apop.db";
tls-mode ondemand;
tls {
  ssl-certificate-file "/etc/server.pem";
  ssl-key-file "/etc/server.key";
};
"""


@dataclass(frozen=True)
class SystemPop3:
    """A running server; its one user is ``USER``.

    Attributes:
        pop3: the port where it listens, in clear.
        pop3s: the one with TLS from the first byte on.
        root: all that it has.
        certificates: its own, and who vouches for it.
    """

    pop3: int
    pop3s: int
    root: Path
    certificates: Certificates
    host: str = "127.0.0.1"

    def put(self, raw: bytes) -> None:
        """Put a message, its lines ended by LF, into the mailbox."""
        mbox = self.root / "var" / "mail" / USER
        with mbox.open("ab") as file:
            file.write(b"From a@example.net Thu Jan  1 00:00:00 2026\n" + raw + b"\n")
        os.chown(mbox, _OWNER, _OWNER)


@contextlib.contextmanager
def popa3d() -> Iterator[SystemPop3]:
    """Run a private popa3d until the block ends."""
    with _root("popa3d", ["/usr/sbin/popa3d"]) as root:
        (root / "var" / "lib" / "popa3d").mkdir(parents=True, exist_ok=True)
        with _inetd(root, "/usr/sbin/popa3d") as server:
            yield server


@contextlib.contextmanager
def solid_pop3d() -> Iterator[SystemPop3]:
    """Run a private solid-pop3d until the block ends."""
    with _root("solid-pop3d", ["/usr/sbin/solid-pop3d", "/usr/bin/pop_auth"]) as root:
        _set_apop_secret(root)
        with _inetd(root, "/usr/sbin/solid-pop3d") as server:
            yield server


@contextlib.contextmanager
def mailutils_pop3d() -> Iterator[SystemPop3]:
    """Run a private pop3d of GNU mailutils until the block ends."""
    with _root("mailutils-pop3d", ["/usr/sbin/pop3d", "/usr/bin/popauth"]) as root:
        (root / "etc" / "pop3d.conf").write_text(_MAILUTILS)
        make = inside(root, "/usr/bin/popauth", "--create", "--output=/etc/apop.db")
        subprocess.run(make, input=f"{USER} {PASSWORD}\n", text=True, check=True, env=SEARCH)
        with _inetd(root, "/usr/sbin/pop3d", "--inetd", "--config-file=/etc/pop3d.conf") as server:
            yield server


@contextlib.contextmanager
def _root(package: str, programs: Sequence[str]) -> Iterator[Path]:
    modules = [f"{_PAM_MODULES}/{name}.so" for name in ("pam_unix", "pam_deny")]
    with root_of(
        package, [*programs, *modules], {USER: _OWNER, "mail": 8, "popa3d": 990, "spop3d": 991}
    ) as root:
        shadow = root / "etc" / "shadow"
        shadow.write_text(f"{USER}:{_HASHED}:19000:0:99999:7:::\n")
        shadow.chmod(0o600)
        with (root / "etc" / "nsswitch.conf").open("a") as switch:
            switch.write("shadow: files\n")
        (root / "etc" / "pam.d").mkdir(exist_ok=True)
        for service in (package, "other", "gnu-mailutils"):
            (root / "etc" / "pam.d" / service).write_text(_PAM)
        make_certificates(root / "etc")
        (root / "var" / "mail").mkdir(exist_ok=True)
        (root / "var" / "mail").chmod(0o1777)
        yield root


def _set_apop_secret(root: Path) -> None:
    """Have solid-pop3d's pop_auth write the secret, which it asks for twice at a terminal."""
    owner = f"--userspec={_OWNER}:{_OWNER}"
    ours, its = pty.openpty()
    command = ["chroot", owner, str(root), "/usr/bin/pop_auth"]
    with subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=its, stdout=its, stderr=its, env=SEARCH
    ) as asking:
        os.close(its)
        for question in (b"Enter", b"Reenter"):
            said = b""
            while question not in said or not said.endswith(b": "):
                said += os.read(ours, 1_000)
            os.write(ours, f"{PASSWORD}\n".encode())
        assert asking.wait(20) == 0
    os.close(ours)


@contextlib.contextmanager
def _inetd(root: Path, *command: str) -> Iterator[SystemPop3]:
    """Start a program for each connection, with that as its input and output."""
    children: list[subprocess.Popen[bytes]] = []

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError), (root / "inetd.out").open("ab") as log:
            while True:
                connection, _ = listening.accept()
                with connection:
                    children.append(
                        subprocess.Popen(
                            inside(root, *command),
                            stdin=connection.fileno(),
                            stdout=connection.fileno(),
                            stderr=log,
                            env=SEARCH,
                        )
                    )

    certificates = Certificates(
        *(root / "etc" / f"{n}" for n in ("ca.pem", "server.pem", "server.key"))
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            with proxy(port, context) as front:
                yield SystemPop3(port, front.port, root, certificates)
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for child in children:
                child.kill()
                child.wait()
