"""A private OpenSMTPD that delivers to Maildirs of corp.example; see ``tests.servers.chroot``.

It bounces a message that has a Delivered-To with one of its recipients, after it has taken it; and
it takes 100 messages in one session, then answers MAIL with 421.
"""

import contextlib
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

_PROGRAMS = ("/usr/sbin/smtpd", "/usr/sbin/smtpctl", "/usr/libexec/opensmtpd/*", "/bin/sh")
_USERS = {"opensmtpd": 101, "opensmtpq": 102}

_CONFIGURATION = """\
listen on 127.0.0.1 port {port} hostname mail.corp.example
action "local" maildir "/home/%{{user.username}}/Maildir"
match from any for domain "{domain}" action "local"
"""


@contextlib.contextmanager
def opensmtpd(mailboxes: Sequence[str] = ("sales",)) -> Iterator[LocalServer]:
    """Run a private OpenSMTPD until the block ends.

    Args:
        mailboxes: the local parts of corp.example that exist.
    """
    owners = mailbox_owners(mailboxes)
    with root_of("opensmtpd", _PROGRAMS, {**_USERS, **owners}) as root:
        server = LocalServer(free_port(), root)
        configuration = _CONFIGURATION.format(port=server.port, domain=DOMAIN)
        (root / "etc" / "smtpd.conf").write_text(configuration)
        (root / "etc" / "mailname").write_text("mail.corp.example\n")
        for folder in ("var/lib/opensmtpd/empty", "var/run"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for mailbox, owner in owners.items():
            make_maildir(root, mailbox, owner)
        command = inside(root, "/usr/sbin/smtpd", "-d")
        with running(command, root / "smtpd.out", lambda: accepts(server.port), SEARCH):
            yield server
