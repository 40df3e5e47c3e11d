"""Servers that repeat a password which is not the connection's own: of others, or a former one."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogues.book import Lying
from tests.dialogues.script import Rule
from tests.dialogues.server import Server
from tests.flow.connector import Connector
from tests.flow.forked import ForkedConnector
from tests.flow.place import account
from tests.flow.test_destination_faults import Destination, destination

OTHERS = {"info": "n3ighbour&more", "boss": "Tr0ub4dor", "away": "sm7p&secret"}
FORMS = tuple(
    form
    for secret in OTHERS.values()
    for form in (
        secret,
        secret.upper(),
        secret.replace("&", "%26"),
        secret.encode().hex(),
        base64.b64encode(f"\0info\0{secret}".encode()).decode(),
    )
)
EVERYTHING = " ".join(FORMS)


class Maildrops(Server):
    """The server of a dialogue, which tells where it is as others do."""

    host = "127.0.0.1"

    @property
    def pop3(self) -> int:
        return self.port

    def refuse(self, command: str, text: str) -> None:
        self.rules.insert(0, Rule(command, False, [f"-ERR {text}\r\n".encode()]))


@pytest.fixture
def maildrops() -> Iterator[Maildrops]:
    with Maildrops().serving() as server:
        assert isinstance(server, Maildrops)
        yield server


@pytest.fixture
def local() -> Iterator[Destination]:
    with destination() as made:
        yield made


def kept(product: Connector) -> str:
    """Return all that the product has written and keeps, but for its configuration."""
    files = [p for p in product.folder.rglob("*") if p.is_file() and p != product.config]
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def shown(product: Connector) -> str:
    """Return what an operator is shown of accounts and Failed Mail."""
    commands = (["accounts", "sales"], ["accounts", "--json"], ["failed", "list", "--json"])
    return "\n".join(done.stdout + done.stderr for done in (product.cli(*c) for c in commands))


def none_of(secrets: tuple[str, ...], text: str) -> None:
    """Make sure that none of them is in a text."""
    found = [secret for secret in secrets if secret.rstrip("=").lower() in text.lower()]
    assert not found, found


def test_passwords_of_others_are_shown_nowhere(
    product: ForkedConnector, maildrops: Maildrops, local: Destination, tmp_path: Path
) -> None:
    """What a server says of a message, of a login, and of a recipient; told for debugging, too."""
    maildrops.maildrop = [Lying(name, f"u-{name}", b"Subject: x\r\n\r\nx\r\n") for name in "AB"]
    maildrops.refuse("RETR B", f"no B, and {EVERYTHING}")
    local.server.rule = lambda to, _: f"550 5.1.1 no {EVERYTHING}" if "RCPT" in to else None
    boss = account(maildrops, "boss", password=OTHERS["boss"], tls="starttls")
    maildrops.refuse("STLS", EVERYTHING)
    product.configure(
        [
            account(maildrops, "sales"),
            account(maildrops, "info", password=OTHERS["info"], enabled=False),
            boss,
        ],
        f"smtp://127.0.0.1:{local.server.port}?pipelining=none",
        None,
        **{"destinations.away": {"url": f"smtp://away:{OTHERS['away'].replace('&', '%26')}@away"}},
    )
    told = product.cli("--debug", "run", "--once", "--json")
    assert told.stdout, told.stderr
    assert json.loads(told.stdout)["failed"] == 1
    assert "no B, and *** *** ***" in told.stderr
    assert "STLS is refused: *** *** ***" in told.stderr
    reasons = [message["reason"] for message in product.json("failed", "list")]
    assert len(reasons) == 1 and "550 5.1.1 no *** ***" in reasons[0]
    assert "RETR is refused: no B, and *** ***" in shown(product)
    none_of(FORMS, told.stdout + told.stderr + shown(product) + kept(product))


def test_a_former_password_is_shown_no_more(
    product: ForkedConnector, maildrops: Maildrops, tmp_path: Path
) -> None:
    """It was changed while the process runs; the server goes on telling the old one."""
    old, new = "sunshine", "w1nter-time"
    file = tmp_path / "password"
    file.write_text(old)
    maildrops.refuse("PASS", f"[AUTH] it is not {old}")
    sales = account(maildrops, "sales", password_file=str(file))
    del sales["password"]
    product.configure([sales], f"maildir://{tmp_path}/mail/{{local}}")
    product.start("run")
    product.wait(lambda: product.count("run", "account failed") > 0, "a first refusal")
    file.write_text(new)
    with contextlib.suppress(ValueError):
        maildrops.rules.pop(0)
    maildrops.refuse("PASS", f"[AUTH] it is not {new}, and it was {old} before")

    def again() -> bool:
        product.clock.advance(7_200)
        return "and it was" in (product.folder / "run.log").read_text()

    product.wait(again, "a second refusal")
    assert product.stop("run") == 0
    assert "it is not ***, and it was *** before" in shown(product)
    none_of((old, new), shown(product) + kept(product))
