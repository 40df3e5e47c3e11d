"""A private Cyrus: POP3 and LMTP, with passwords in a sasldb; see ``tests.servers.chroot``.

It offers every mechanism of passwords that Cyrus SASL has, NTLM included, and APOP. A maildrop is
made at the first login.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.chroot import SEARCH, inside, require_unpacked, root_of
from tests.servers.cyrus import CYRUS, LIB, furnish, own
from tests.servers.process import accepts, free_port, running

USER = "sales"
MECHANISMS = "PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256 NTLM"

_SASL = "/usr/lib/x86_64-linux-gnu/sasl2"
_PLUGINS = ("sasldb", "plain", "login", "crammd5", "digestmd5", "scram", "ntlm")
_PROGRAMS = (
    *(f"{LIB}/{name}" for name in ("master", "pop3d", "lmtpd", "ctl_cyrusdb")),
    *(f"{_SASL}/lib{name}.so" for name in _PLUGINS),
)

_IMAPD_CONF = """\
configdirectory: /var/lib/cyrus
partition-default: /var/spool/cyrus/mail
defaultpartition: default
servername: mail.corp.example
admins: cyrus
lmtp_admins: sales
zoneinfo_dir: /usr/share/zoneinfo
allowplaintext: {plain}
allowapop: {plain}
failedloginpause: 0
autocreate_quota: 0
autocreate_users: anyone
tls_server_cert: /var/lib/cyrus/server.pem
tls_server_key: /var/lib/cyrus/server.key
tls_versions: {versions}
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: /var/lib/cyrus/sasldb2
sasl_mech_list: {mechanisms}
"""

_CYRUS_CONF = """\
START {{
  recover cmd="ctl_cyrusdb -r"
}}
SERVICES {{
  pop3 cmd="pop3d" listen="127.0.0.1:{pop3}" prefork=0 maxchild=40
  pop3s cmd="pop3d -s" listen="127.0.0.1:{pop3s}" prefork=0 maxchild=40
  lmtp cmd="lmtpd" listen="127.0.0.1:{lmtp}" prefork=0 maxchild=40
}}
EVENTS {{
}}
"""


@dataclass(frozen=True)
class CyrusPop3:
    """A running server; its one user is ``USER``.

    Attributes:
        pop3: the port where it listens, in clear, and with STLS.
        pop3s: the one with TLS from the first byte on.
        lmtp: where it takes LMTP with STARTTLS, from who has logged in as ``USER``.
        root: all that it has.
        certificates: its own, and who vouches for it.
    """

    pop3: int
    pop3s: int
    lmtp: int
    root: Path
    certificates: Certificates
    host: str = "127.0.0.1"


@contextlib.contextmanager
def cyrus_pop3(
    password: str,
    mechanisms: str = MECHANISMS,
    versions: str = "tls1_2 tls1_3",
    *,
    plain: bool = True,
) -> Iterator[CyrusPop3]:
    """Run a private Cyrus until the block ends.

    Args:
        password: of ``USER``.
        mechanisms: what it offers.
        versions: of TLS, as Cyrus calls them.
        plain: whether it takes a password in clear without TLS, and APOP.
    """
    with root_of("cyrus-pop3d", _PROGRAMS, {"cyrus": CYRUS}) as root:
        folder = root / "var/lib/cyrus"
        folder.mkdir(parents=True, exist_ok=True)
        server = CyrusPop3(free_port(), free_port(), free_port(), root, make_certificates(folder))
        settings = _IMAPD_CONF.format(
            mechanisms=mechanisms, versions=versions, plain="yes" if plain else "no"
        )
        listening = _CYRUS_CONF.format(pop3=server.pop3, pop3s=server.pop3s, lmtp=server.lmtp)
        furnish(root, settings, listening)
        set_password(folder / "sasldb2", password)
        own(root)
        command = inside(root, f"{LIB}/master", "-D")
        with running(command, root / "master.out", lambda: accepts(server.pop3), SEARCH):
            yield server


def set_password(database: Path, password: str, realm: str = "mail.corp.example") -> None:
    """Write the password of ``USER`` into a sasldb."""
    unpacked = require_unpacked("sasl2-bin")
    subprocess.run(
        [unpacked / "usr/sbin/saslpasswd2", "-c", "-p", "-f", database, "-u", realm, USER],
        input=password.encode(),
        check=True,
        env={**SEARCH, "LD_LIBRARY_PATH": f"{unpacked}/usr/lib/x86_64-linux-gnu"},
    )
