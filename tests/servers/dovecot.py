"""A private Dovecot (2.3 or 2.4): POP3, IMAP, both in clear and over TLS; LMTP into Maildirs.

Messages put into a maildrop are stored byte for byte, so POP3 gives exactly them; the exceptions
are Dovecot's: a bare LF is sent as CRLF, NUL as 0x80, and a last line without CRLF gets one.
LMTP stores with LF line ends and adds nothing but Return-Path.
"""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.process import accepts, free_port, require, running

_CONF = "dovecot.conf"

_SERVICES = """\
base_dir = {base}/run
state_dir = {base}/state
log_path = /dev/stderr
listen = 127.0.0.1
protocols = pop3 lmtp imap
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
default_process_limit = 200
default_client_limit = 2000
default_vsz_limit = 2 G
first_valid_uid = 1
ssl = yes
auth_failure_delay = 0
mail_fsync = never
mail_max_userip_connections = 1000
lmtp_add_received_header = no
lmtp_hdr_delivery_address = none
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
  {chroot}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
  {chroot}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
  {chroot}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
  {unprivileged}
}}
"""

_CONF_2_3 = """\
auth_username_format = %u
mail_location = maildir:~/Maildir
disable_plaintext_auth = no
ssl_cert = <{cert}
ssl_key = <{key}
passdb {{
  driver = passwd-file
  args = username_format=%u {passwd}
}}
passdb {{
  driver = passwd-file
  args = username_format=%n {passwd}
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {passwd}
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {passwd}
}}
"""

_CONF_2_4 = """\
auth_username_format = %{{user}}
mail_driver = maildir
mail_path = ~/Maildir
mail_inbox_path = ~/Maildir
auth_allow_cleartext = yes
ssl_server_cert_file = {cert}
ssl_server_key_file = {key}
passdb full {{
  driver = passwd-file
  passwd_file_path = {passwd}
  auth_username_format = %{{user}}
}}
passdb local {{
  driver = passwd-file
  passwd_file_path = {passwd}
  auth_username_format = %{{user | username}}
}}
userdb full {{
  driver = passwd-file
  passwd_file_path = {passwd}
  auth_username_format = %{{user}}
}}
userdb local {{
  driver = passwd-file
  passwd_file_path = {passwd}
  auth_username_format = %{{user | username}}
}}
"""

_QUOTA_2_3 = """\
mail_plugins = quota
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage={size}
  quota_grace = 0
}}
"""

_QUOTA_2_4 = """\
mail_plugins {{
  quota = yes
}}
quota "User quota" {{
  driver = maildir
  quota_storage_size = {size}
  quota_storage_grace = 0
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """One server. ``start`` and ``stop`` as often as wanted.

    Attributes:
        pop3: the port of POP3 in clear, which offers STLS.
        pop3s: the port of POP3 with implicit TLS.
        imap: the port of IMAP in clear, which offers STARTTLS.
        imaps: the port of IMAP with implicit TLS.
        lmtp: the port of LMTP; it knows ``name`` and ``name@any.domain`` for each user.
        ca_file: the authority that its certificate (localhost, 127.0.0.1) is from.
        log: what it printed.
    """

    host: str
    pop3: int
    pop3s: int
    imap: int
    imaps: int
    lmtp: int
    ca_file: Path
    log: Path
    home: Path
    uid: int
    gid: int
    _stored: dict[str, int] = field(default_factory=dict)
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """Start it; return when it answers."""
        command = ["dovecot", "-F", "-c", str(self.home.parent / _CONF)]
        self._running.enter_context(running(command, self.log, lambda: _answers(self)))

    def stop(self) -> None:
        """Shut it down; whoever is connected is cut off. Its mail stays, and ``start`` goes on."""
        self._running.close()

    def maildir(self, user: str) -> Path:
        """Return the Maildir of a user (tmp, new, cur)."""
        return self.home / user / "Maildir"

    def renumber(self, user: str) -> None:
        """Give every message of a maildrop another UIDL, as a provider that moves house does."""
        maildir = self.maildir(user)
        for path in maildir.glob("dovecot.index*"):
            path.unlink()
        # The UIDVALIDITY is a part of each UIDL; a new file would get the time, in seconds.
        uidlist = maildir / "dovecot-uidlist"
        text, count = re.subn(
            rb"\bV(\d+)", lambda v: b"V%d" % (int(v[1]) + 1), uidlist.read_bytes(), count=1
        )
        assert count == 1
        uidlist.write_bytes(text)

    def put(self, user: str, *messages: bytes) -> None:
        """Add messages to a user's maildrop; POP3 numbers them in this order."""
        self.put_all(user, messages)

    def put_all(self, user: str, messages: Iterable[bytes]) -> None:
        """Add many messages, with their sizes in the file names, as Dovecot itself names them."""
        maildir = self.maildir(user)
        first = self._stored.get(user, 0)
        for number, raw in enumerate(messages, first):
            bare = raw.count(b"\n") - raw.count(b"\r\n")
            name = f"{1_700_000_000 + number}.M{number:09d}.test,S={len(raw)},W={len(raw) + bare}"
            path = maildir / "tmp" / name
            path.write_bytes(raw)
            os.chown(path, self.uid, self.gid)
            path.rename(maildir / "new" / name)
            self._stored[user] = number + 1

    def messages(self, user: str) -> list[bytes]:
        """Return the messages in a user's Maildir as they are stored, in order of their names."""
        while True:
            # Dovecot moves files from new to cur, and deletes them: then look again.
            with contextlib.suppress(FileNotFoundError):
                return [path.read_bytes() for path in self.files(user)]

    def files(self, user: str) -> list[Path]:
        """Return the files of the messages in a user's Maildir, in order of their names."""
        maildir = self.maildir(user)
        found = [p for folder in ("new", "cur") for p in (maildir / folder).iterdir()]
        return sorted(found, key=lambda path: path.name)


def version() -> tuple[int, int]:
    """Return the version of the Dovecot that is installed, as (2, 3) or (2, 4)."""
    said = subprocess.run(["dovecot", "--version"], check=True, capture_output=True, text=True)
    found = re.match(r"(\d+)\.(\d+)", said.stdout)
    assert found, said.stdout
    return int(found[1]), int(found[2])


def quota(size: str) -> str:
    """Return configuration by which each user's mail has a limit, such as 10K."""
    return (_QUOTA_2_4 if version() >= (2, 4) else _QUOTA_2_3).format(size=size)


@contextlib.contextmanager
def dovecot(
    tmp_path: Path,
    users: Mapping[str, str],
    *,
    extra: str = "",
) -> Iterator[Dovecot]:
    """Run a Dovecot of our own until the block ends; skip the test where there is none.

    Args:
        tmp_path: for its log; its files lie in a directory that its own users can enter.
        users: passwords by user name.
        extra: more lines for its configuration, in the syntax of the version installed.
    """
    require("dovecot", "pop3", "lmtp", "imap")
    base = Path(tempfile.mkdtemp(prefix="dovecot-"))
    base.chmod(0o755)
    try:
        certificates = make_certificates(base)
        server = _prepare(base, tmp_path / "dovecot.log", certificates.ca, users)
        (base / _CONF).write_text(_configuration(base, server, certificates) + f"\n{extra}\n")
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _answers(server: Dovecot) -> bool:
    return all(accepts(port) for port in (server.pop3, server.pop3s, server.imap, server.lmtp))


def _prepare(base: Path, log: Path, ca_file: Path, users: Mapping[str, str]) -> Dovecot:
    mail = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    server = Dovecot(
        host="127.0.0.1",
        pop3=free_port(),
        pop3s=free_port(),
        imap=free_port(),
        imaps=free_port(),
        lmtp=free_port(),
        ca_file=ca_file,
        log=log,
        home=base / "home",
        uid=mail.pw_uid,
        gid=mail.pw_gid,
    )
    for user in users:
        for folder in ("tmp", "new", "cur"):
            (server.maildir(user) / folder).mkdir(parents=True)
        for path in (server.home / user, *(server.home / user).rglob("*")):
            os.chown(path, server.uid, server.gid)
    (base / "passwd").write_text("".join(_passwd(server, *user) for user in users.items()))
    return server


def _passwd(server: Dovecot, user: str, password: str) -> str:
    secret = password.encode().hex()
    return f"{user}:{{PLAIN.HEX}}{secret}:{server.uid}:{server.gid}::{server.home / user}::\n"


def _configuration(base: Path, server: Dovecot, certificates: Certificates) -> str:
    root = os.geteuid() == 0
    me = pwd.getpwuid(os.geteuid()).pw_name
    newer = version() >= (2, 4)
    head = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n" if newer else ""
    text = head + _SERVICES + (_CONF_2_4 if newer else _CONF_2_3)
    return text.format(
        base=base,
        internal="dovecot" if root else me,
        internal_group="dovecot" if root else "",
        login="dovenull" if root else me,
        chroot="" if root else "chroot =",
        unprivileged="" if root else f"user = {me}",
        pop3=server.pop3,
        pop3s=server.pop3s,
        imap=server.imap,
        imaps=server.imaps,
        lmtp=server.lmtp,
        cert=certificates.cert,
        key=certificates.key,
        passwd=base / "passwd",
    )
