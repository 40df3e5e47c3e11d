"""A process that is killed while a server that has lost count is answering: no message is lost.

The server says one reply twice, among pipelined ones about messages of one size, so that each
message passes for the one after it. Before that is seen, the process is killed, keeping the mail at
the server: what had been recorded by then would never be asked for again.
"""

import contextlib
from pathlib import Path

import pytest

from shared.failpoint import VARIABLE
from tests.dialogues.book import Lying
from tests.dialogues.script import CAPABILITIES, Act, Rule
from tests.dialogues.server import Server
from tests.flow.connector import below_prefix, lf
from tests.flow.forked import ForkedConnector

MANY = 150
"""More than are recorded together."""

RAW = {f"m{n:03}": b"Subject: %03d\r\n\r\none size\r\n" % n for n in range(MANY)}


@pytest.mark.parametrize("at", ["fetcher.before-ledger", "fetcher.after-ledger"])
def test_a_kill_before_it_is_seen_that_replies_are_mixed_up(tmp_path: Path, at: str) -> None:
    mail = tmp_path / "mail"
    product = ForkedConnector(tmp_path)
    server = Server(
        maildrop=[Lying(name, f"u-{name}", raw) for name, raw in RAW.items()],
        capabilities=CAPABILITIES,
        rules=[Rule("RETR m004", once=True, steps=[Act("book"), Act("book")])],
    )
    with server.serving(), contextlib.closing(product):
        account = {"name": "box", "host": "127.0.0.1", "port": server.port, "tls": "none"}
        account |= {"username": "box", "password": "secret", "mailbox": "box@corp.example"}
        product.configure([account], f"maildir://{mail}")
        product.start("run --once", **{VARIABLE: at})
        assert product.processes.pop("run --once").wait(60) == -9
        product.start("run --once#2")
        product.processes["run --once#2"].wait(60)
        # What the dead process had claimed to deliver waits until its claim is over.
        product.clock.advance(3_600)
        product.start("run --once#3")
        assert product.processes["run --once#3"].wait(60) == 0
    came = sorted(below_prefix(path.read_bytes()) for path in mail.glob("new/*"))
    assert came == sorted(lf(raw) for raw in RAW.values())
