"""A private Exim that delivers to Maildirs of corp.example; see ``tests.servers.chroot``.

It runs no queue: what it cannot deliver at once stays where it is. One that wants a login offers
CRAM-MD5, PLAIN and LOGIN, within TLS.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

from tests.servers.certificates import make_certificates
from tests.servers.chroot import (
    DOMAIN,
    SEARCH,
    LocalServer,
    inside,
    mailbox_owners,
    make_maildir,
    root_of,
)
from tests.servers.process import accepts, free_port, running

_EXIM = 101

_CONFIGURATION = """\
primary_hostname = mail.corp.example
domainlist local_domains = {domain}
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
{tls}
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 100
smtp_accept_max_per_host = {per_host}
smtp_accept_queue_per_connection = 0
log_file_path = /var/log/exim4/%s
keep_environment =
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = accept
begin acl
acl_rcpt:
{deny}
  accept domains = +local_domains
  deny message = relay not permitted
begin routers
users:
  driver = accept
  domains = +local_domains
  check_local_user
  transport = maildir
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = /home/$local_part_data/Maildir
  delivery_date_add
  envelope_to_add
  return_path_add
begin retry
* * F,1h,1m
{authenticators}
"""

_TLS = """\
tls_advertise_hosts = *
tls_certificate = /etc/exim4/server.pem
tls_privatekey = /etc/exim4/server.key
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
"""
_DENY = "  deny !authenticated = *"
_AUTHENTICATORS = """\
begin authenticators
cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{%(user)s}{%(password)s}fail}
  server_set_id = $auth1
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${if and{{eq{$auth2}{%(user)s}}{eq{$auth3}{%(password)s}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${if and{{eq{$auth1}{%(user)s}}{eq{$auth2}{%(password)s}}}}
  server_set_id = $auth1
"""


@contextlib.contextmanager
def exim(
    mailboxes: Sequence[str] = ("sales",), per_host: int = 0, login: tuple[str, str] | None = None
) -> Iterator[LocalServer]:
    """Run a private Exim until the block ends.

    Args:
        mailboxes: the local parts of corp.example that exist.
        per_host: smtp_accept_max_per_host; 0 for no limit.
        login: user name and password that it wants; None for none. Its certificate is then by the
            authority in ``etc/exim4/ca.pem``.
    """
    owners = mailbox_owners(mailboxes)
    users = {"Debian-exim": _EXIM, **owners}
    with root_of("exim4-daemon-light", ["/usr/sbin/exim4"], users) as root:
        server = LocalServer(free_port(), root)
        configuration = _CONFIGURATION.format(
            domain=DOMAIN,
            port=server.port,
            per_host=per_host or "",
            tls="tls_advertise_hosts =" if login is None else _TLS,
            deny="" if login is None else _DENY,
            authenticators=""
            if login is None
            else _AUTHENTICATORS % dict(zip(("user", "password"), login, strict=True)),
        )
        (root / "etc" / "exim4" / "exim4.conf").write_text(configuration)
        for path in vars(make_certificates(root / "etc" / "exim4")).values():
            os.chown(path, _EXIM, _EXIM)
        for name in ("log", "spool"):
            folder = root / "var" / name / "exim4"
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, _EXIM, _EXIM)
        for mailbox, owner in owners.items():
            make_maildir(root, mailbox, owner)
        command = inside(root, "/usr/sbin/exim4", "-bdf")
        with running(command, root / "exim.out", lambda: accepts(server.port), SEARCH):
            yield server
