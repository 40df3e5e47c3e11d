"""A private Postfix: smtpd on a free port, Maildirs for corp.example, a pipe for pipe.example.

It is the local mail server that the product delivers to. It adds its own lines at the top and does
not touch what is in a message (by default it drops Return-Path, Bcc and Content-Length, and adds
what is missing to mail from the machine itself). Everything it writes lies in a directory of its
own, logs included. Needs root, as Postfix does.
"""

import contextlib
import os
import shutil
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.process import accepts, free_port, require, running

DOMAIN = "corp.example"
PIPE_DOMAIN = "pipe.example"
MAILBOXES = ("sales", "info", "anna", "bert", "carl", "postmaster")
NOBODY = 65534

_MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {root}/log
maillog_file_prefixes = {root}
myhostname = mail.corp.example
mydestination = {pipe_domain}
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps = texthash:{root}/conf/aliases
alias_database =
local_recipient_maps = $alias_maps
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = texthash:{root}/conf/mailboxes
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_mailbox_limit = 0
mailbox_size_limit = 0
message_size_limit = {size_limit}
smtputf8_enable = yes
smtpd_recipient_restrictions =
  check_recipient_access socketmap:unix:{root}/answers:recipient, reject_unauth_destination
smtpd_sender_restrictions = check_sender_access socketmap:unix:{root}/answers:sender
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 10000
smtpd_soft_error_limit = 10000
in_flow_delay = 0
local_header_rewrite_clients =
message_drop_headers =
default_transport = error:this Postfix sends nothing away
smtpd_tls_security_level = {tls}
smtpd_tls_cert_file = {root}/conf/server.pem
smtpd_tls_key_file = {root}/conf/server.key
smtpd_tls_session_cache_database =
cyrus_sasl_config_path = {root}/conf/sasl
"""

_MASTER = """\
127.0.0.1:{port}  inet n - n - - smtpd
127.0.0.1:{smtps} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
error     unix - - n - - error
retry     unix - - n - - error
local     unix - n n - - local
virtual   unix - n n - - virtual
keep      unix - n n - - pipe flags=D user=nobody argv=/bin/sh {root}/keep.sh ${{user}}
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

_PIPE = """\
#!/bin/sh
# Keeps what Postfix's local(8) pipes in, under a name that is complete or absent.
set -e
name=$(mktemp {root}/piped/tmp.XXXXXXXX)
cat > "$name"
mv "$name" "{root}/piped/new.${{name##*.}}"
"""

_KEEP = """\
# Keeps what pipe(8) hands over in the Maildir of the user that it names.
set -e
box={root}/mail/$1
mkdir -p "$box/new" "$box/tmp"
name=$(mktemp "$box/tmp/XXXXXXXX")
cat > "$name"
mv "$name" "$box/new/"
"""

Agent = Literal["virtual", "local", "pipe"]

_AGENTS: Mapping[Agent, Mapping[str, str]] = {
    "virtual": {},
    "local": {"virtual_mailbox_domains": "", "mydestination": f"{PIPE_DOMAIN}, {DOMAIN}"},
    "pipe": {"virtual_transport": "keep", "keep_destination_recipient_limit": "1"},
}
"""What main.cf says of who delivers for corp.example.

local(8), and pipe(8) with ``flags=D``, bounce a message that has a Delivered-To with its recipient,
after smtpd has taken it; virtual(8) does not."""


@dataclass
class Postfix:
    """A running instance.

    Attributes:
        port: smtpd, plain or STARTTLS.
        smtps_port: smtpd with TLS from the first byte.
        root: the directory of everything it has.
        certificates: the authority that its certificate is signed by, and both.
        answers: what smtpd says to RCPT (or MAIL) for an address, e.g.
            ``answers["anna@corp.example"] = "450 4.2.0 come back later"``. It may be changed at
            any time and counts from the next command on.
        asked: the recipients and senders that smtpd looked up, in that order.
    """

    port: int
    smtps_port: int
    root: Path
    certificates: Certificates
    answers: dict[str, str]
    asked: list[str]

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def maildir(self, mailbox: str) -> list[Path]:
        """Return the files delivered for a mailbox of corp.example so far."""
        return sorted((self.root / "mail" / mailbox / "new").glob("*"))

    def messages(self, mailbox: str) -> list[bytes]:
        """Return what was delivered to a mailbox, without what Postfix put on top.

        Postfix stores LF line ends and prepends Return-Path, X-Original-To, Delivered-To and one
        Received field; all of it goes here.
        """
        return [_below_received(path.read_bytes()) for path in self.maildir(mailbox)]

    def piped(self) -> list[bytes]:
        """Return what came through the alias ``pipe@pipe.example``, without Postfix's fields."""
        return [
            _below_received(p.read_bytes()) for p in sorted((self.root / "piped").glob("new.*"))
        ]

    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")


def _below_received(message: bytes) -> bytes:
    lines = message.split(b"\n")
    at = next(i for i, line in enumerate(lines) if line.startswith(b"Received:")) + 1
    while lines[at][:1] in (b" ", b"\t"):
        at += 1
    return b"\n".join(lines[at:])


@contextlib.contextmanager
def postfix(
    *,
    mailboxes: tuple[str, ...] = MAILBOXES,
    size_limit: int = 100_000_000,
    tls: str = "may",
    port: int | None = None,
    options: Mapping[str, str] | None = None,
    agent: Agent = "virtual",
    cyrus_sasl: str = "",
) -> Iterator[Postfix]:
    """Run a private Postfix until the block ends.

    Args:
        mailboxes: the local parts of corp.example that exist; all others are answered 550 5.1.1.
        size_limit: message_size_limit, in bytes.
        tls: smtpd_tls_security_level: none, may or encrypt.
        port: where smtpd listens; any free port if None.
        options: further main.cf settings.
        agent: who delivers for corp.example.
        cyrus_sasl: what Cyrus SASL is told, where that checks logins.
    """
    require("postfix", "postconf")
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("Postfix starts as root only")
        pytest.skip("Postfix starts as root only")
    with _directory() as root:
        instance = Postfix(
            port or free_port(), free_port(), root, _prepare(root, mailboxes), {}, []
        )
        main = _MAIN.format(
            root=root,
            domain=DOMAIN,
            pipe_domain=PIPE_DOMAIN,
            nobody=NOBODY,
            size_limit=size_limit,
            tls=tls,
        )
        further = {**_AGENTS[agent], **(options or {})}
        main += "".join(f"{key} = {value}\n" for key, value in further.items())
        (root / "conf" / "main.cf").write_text(main)
        (root / "conf" / "sasl" / "smtpd.conf").write_text(cyrus_sasl)
        (root / "conf" / "master.cf").write_text(
            _MASTER.format(port=instance.port, smtps=instance.smtps_port, root=root)
        )
        with _answering(instance), _master(instance):
            yield instance


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    # Not pytest's tmp_path: that one is closed to the users postfix and nobody.
    root = Path(tempfile.mkdtemp(prefix="postfix-test-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _prepare(root: Path, mailboxes: tuple[str, ...]) -> Certificates:
    for name in ("conf", "conf/sasl", "queue", "data", "mail", "piped"):
        (root / name).mkdir()
    shutil.chown(root / "data", "postfix")
    for name in ("mail", "piped"):
        os.chown(root / name, NOBODY, NOBODY)
    (root / "conf" / "mailboxes").write_text(
        "".join(f"{box}@{DOMAIN} {box}/\n" for box in mailboxes)
    )
    (root / "pipe.sh").write_text(_PIPE.format(root=root))
    (root / "pipe.sh").chmod(0o755)
    (root / "keep.sh").write_text(_KEEP.format(root=root))
    # Those of the mailboxes are for local(8): an alias that is a folder is a Maildir.
    aliases = {"pipe": f"|{root}/pipe.sh"} | {box: f"{root}/mail/{box}/" for box in mailboxes}
    (root / "conf" / "aliases").write_text("".join(f"{a} {to}\n" for a, to in aliases.items()))
    for path in ("/etc/postfix/dynamicmaps.cf", "/etc/postfix/postfix-files"):
        if Path(path).exists():
            shutil.copy(path, root / "conf")
    return make_certificates(root / "conf", "mail.corp.example")


@contextlib.contextmanager
def _master(instance: Postfix) -> Iterator[None]:
    conf = str(instance.root / "conf")
    check = subprocess.run(["postfix", "-c", conf, "check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr + instance.log()
    daemons = subprocess.run(
        ["postconf", "-c", conf, "-h", "daemon_directory"], capture_output=True, text=True
    ).stdout.strip()
    command = [f"{daemons}/master", "-c", conf, "-s"]
    with running(command, instance.root / "master.out", lambda: accepts(instance.port)):
        yield


class _Answers(socketserver.StreamRequestHandler):
    """socketmap_table(5): netstrings ``map key`` in, ``OK value`` or ``NOTFOUND`` out."""

    server: "_AnswerServer"

    def handle(self) -> None:
        while length := self._length():
            query = self.rfile.read(length + 1)[:-1].decode()
            _, _, key = query.partition(" ")
            self.server.asked.append(key)
            found = self.server.answers.get(key)
            reply = b"NOTFOUND " if found is None else b"OK " + found.encode()
            self.wfile.write(b"%d:%b," % (len(reply), reply))

    def _length(self) -> int:
        digits = b""
        while (byte := self.rfile.read(1)).isdigit():
            digits += byte
        return int(digits or 0)


class _AnswerServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, instance: Postfix) -> None:
        super().__init__(str(path), _Answers)
        self.answers = instance.answers
        self.asked = instance.asked


@contextlib.contextmanager
def _answering(instance: Postfix) -> Iterator[None]:
    path = instance.root / "answers"
    with _AnswerServer(path, instance) as server:
        path.chmod(0o777)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
