"""A private Exim that delivers to Maildirs of corp.example; see ``tests.servers.chroot``.

It runs no queue: what it cannot deliver at once stays where it is.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

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
tls_advertise_hosts =
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
"""


@contextlib.contextmanager
def exim(mailboxes: Sequence[str] = ("sales",), per_host: int = 0) -> Iterator[LocalServer]:
    """Run a private Exim until the block ends.

    Args:
        mailboxes: the local parts of corp.example that exist.
        per_host: smtp_accept_max_per_host; 0 for no limit.
    """
    owners = mailbox_owners(mailboxes)
    users = {"Debian-exim": _EXIM, **owners}
    with root_of("exim4-daemon-light", ["/usr/sbin/exim4"], users) as root:
        server = LocalServer(free_port(), root)
        configuration = _CONFIGURATION.format(
            domain=DOMAIN, port=server.port, per_host=per_host or ""
        )
        (root / "etc" / "exim4" / "exim4.conf").write_text(configuration)
        for name in ("log", "spool"):
            folder = root / "var" / name / "exim4"
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, _EXIM, _EXIM)
        for mailbox, owner in owners.items():
            make_maildir(root, mailbox, owner)
        command = inside(root, "/usr/sbin/exim4", "-bdf")
        with running(command, root / "exim.out", lambda: accepts(server.port), SEARCH):
            yield server
