"""Mail servers that want a login: every mechanism that each offers, and by itself the strongest.

Postfix by the SASL of Dovecot and by that of Cyrus, Exim by its own; Cyrus over LMTP.
"""

import functools
import poplib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.errors import Unreachable
from tests.servers.cyrus_pop3 import cyrus_pop3, set_password
from tests.servers.dovecot import dovecot
from tests.servers.exim import exim
from tests.servers.postfix import postfix
from tests.unit.deliverer.content import SENDER, content, courier

USER, PASSWORD, RECIPIENT = "sales", "secret", "sales@corp.example"
DOVECOT = "plain login cram-md5 scram-sha-1 scram-sha-256"
CYRUS = f"{DOVECOT} ntlm"


@dataclass(frozen=True)
class Server:
    """A mail server.

    Attributes:
        at: host and port, with the authority of its certificate.
        methods: returns how it was logged in to, in its own words, once for each time.
        scheme: of its URL.
    """

    at: str
    methods: Callable[[], list[str]]
    scheme: str = "smtp"

    def url(self, auth: str, password: str = PASSWORD) -> str:
        return f"{self.scheme}://{USER}:{password}@{self.at}&auth={auth}"


@contextmanager
def postfix_by(cyrus_sasl: str = "", **sasl: str) -> Iterator[Server]:
    options = {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
        "smtpd_tls_auth_only": "yes",
        **sasl,
    }
    with postfix(mailboxes=(USER,), options=options, cyrus_sasl=cyrus_sasl) as running:

        def methods() -> list[str]:
            log = running.log() if (running.root / "log").exists() else ""
            return re.findall(r"sasl_method=([\w-]+)", log)

        yield Server(f"127.0.0.1:{running.port}?ca_file={running.certificates.ca}", methods)


@contextmanager
def postfix_by_dovecot(folder: Path) -> Iterator[Server]:
    socket = folder / "auth"
    listening = f"service auth {{\n unix_listener {socket} {{\n mode = 0666\n }}\n}}"
    extra = f"auth_mechanisms = {DOVECOT}\n{listening}"
    with (
        dovecot(folder, {USER: PASSWORD}, extra=extra),
        postfix_by(smtpd_sasl_type="dovecot", smtpd_sasl_path=str(socket)) as server,
    ):
        yield server


@contextmanager
def postfix_by_cyrus(folder: Path) -> Iterator[Server]:
    database = folder / "sasldb2"
    set_password(database, PASSWORD, realm="corp.example")
    shutil.chown(database, "postfix")
    told = f"sasldb_path: {database}\nmech_list: {CYRUS.upper()}\n"
    told += "pwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
    with postfix_by(
        told, smtpd_sasl_type="cyrus", smtpd_sasl_local_domain="corp.example"
    ) as server:
        yield server


@contextmanager
def exim_by_itself(folder: Path) -> Iterator[Server]:
    with exim(login=(USER, PASSWORD)) as running:
        log = running.root / "var/log/exim4/main"

        def methods() -> list[str]:
            found = re.findall(r" A=(\w+):sales", log.read_text())
            return [method.replace("_", "-").upper() for method in found]

        ca_file = running.root / "etc/exim4/ca.pem"
        yield Server(f"127.0.0.1:{running.port}?ca_file={ca_file}", methods)


@contextmanager
def cyrus_by_lmtp(folder: Path) -> Iterator[Server]:
    with cyrus_pop3(PASSWORD) as running:
        first = poplib.POP3(running.host, running.pop3)  # makes the mailbox
        first.user(USER)
        first.pass_(PASSWORD)
        first.quit()
        at = f"127.0.0.1:{running.lmtp}?ca_file={running.certificates.ca}"
        yield Server(at, list, "lmtp")


START: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "postfix-dovecot": postfix_by_dovecot,
    "postfix-cyrus": postfix_by_cyrus,
    "exim": exim_by_itself,
    "cyrus-lmtp": cyrus_by_lmtp,
}
MECHANISMS = {
    "postfix-dovecot": DOVECOT,
    "postfix-cyrus": CYRUS,
    "exim": "plain login cram-md5",
    "cyrus-lmtp": CYRUS,
}
STRONGEST = {"exim": "CRAM-MD5"}
CASES = [(name, auth) for name, all_ in MECHANISMS.items() for auth in all_.split()]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Start each server when it is first wanted, and stop them all at the end."""

    def started(name: str) -> Server:
        # Not pytest's tmp_path: that one is closed to the users that servers run as.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logins-")))
        folder.chmod(0o755)
        return stack.enter_context(START[name](folder))

    with ExitStack() as stack:
        yield functools.cache(started)


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)


@pytest.mark.parametrize(("server", "auth"), CASES, indirect=["server"])
async def test_each_mechanism_that_it_offers(server: Server, auth: str) -> None:
    before = len(server.methods())
    async with courier(server.url(auth)) as smtp:
        results = await smtp.deliver(content(), SENDER, [RECIPIENT])
    assert results[RECIPIENT].verdict == "delivered"
    assert server.methods()[before:] in ([], [auth.upper()])
    async with courier(server.url(auth, "wrong")) as smtp:
        with pytest.raises(Unreachable, match="said to AUTH"):
            await smtp.deliver(content(), SENDER, [RECIPIENT])


@pytest.mark.parametrize("server", START, indirect=True)
async def test_by_itself_the_strongest(server: Server, request: pytest.FixtureRequest) -> None:
    async with courier(server.url("auto")) as smtp:
        results = await smtp.deliver(content(), SENDER, [RECIPIENT])
    assert results[RECIPIENT].verdict == "delivered"
    name = request.node.callspec.params["server"]
    assert server.methods()[-1:] in ([], [STRONGEST.get(name, "SCRAM-SHA-256")])
    async with courier(server.url("auto", "wrong")) as smtp:  # Cyrus: "501 undefined error!"
        with pytest.raises(Unreachable, match=r"5\d\d .*said to AUTH"):
            await smtp.deliver(content(), SENDER, [RECIPIENT])
