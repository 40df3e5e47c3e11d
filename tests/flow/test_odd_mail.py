"""Odd mail through the whole product: unharmed, or in quarantine with a reason; none lost."""

import socket
from pathlib import Path

from tests.corpus.messages import sample_messages
from tests.flow.connector import Connector, below_prefix, digests, lf
from tests.flow.place import account
from tests.servers.dovecot import Dovecot
from tests.unit.test_cpython_messages import SAME_KINDS, SHIPPED


def on_the_wire(provider: Dovecot, count: int) -> list[bytes]:
    """Return the messages of the maildrop as the server sends them, by a client of few lines."""
    messages = []
    with socket.create_connection((provider.host, provider.pop3), timeout=30) as connection:
        stream = connection.makefile("rwb")
        stream.readline()
        for command in (b"USER sales", b"PASS secret"):
            stream.write(command + b"\r\n")
            stream.flush()
            assert stream.readline().startswith(b"+OK")
        for number in range(1, count + 1):
            stream.write(b"RETR %d\r\n" % number)
            stream.flush()
            assert stream.readline().startswith(b"+OK")
            body = b"\r\n"
            while not body.endswith(b"\r\n.\r\n"):
                body += stream.readline()
            messages.append(body[:-3].replace(b"\r\n..", b"\r\n.")[2:])
        stream.write(b"QUIT\r\n")
        stream.flush()
        stream.readline()
    return messages


def test_none_is_lost_and_none_blocks_the_next(
    product: Connector, provider: Dovecot, broker: str | None, tmp_path: Path
) -> None:
    odd = [*SHIPPED.values(), *SAME_KINDS.values()]
    plain = sample_messages(len(odd), max_size=3_000)
    sent = [m for pair in zip(odd, plain, strict=True) for m in pair]
    provider.put_all("sales", sent)
    offered = on_the_wire(provider, len(sent))
    product.configure([account(provider)], f"maildir://{tmp_path}/mail/{{local}}", broker)
    status, summary = product.once()
    quarantined = product.json("quarantine", "list")
    exported = []
    for index, kept in enumerate(quarantined):
        out = product.folder / f"{index}.eml"
        done = product.cli("quarantine", "export", kept["id"], "-o", str(out))
        assert done.returncode == 0, done.stderr
        exported.append(out.read_bytes())
    stored = [p.read_bytes() for p in (tmp_path / "mail" / "sales" / "new").iterdir()]
    left = provider.files("sales")

    assert status == 1
    assert summary["fetched"] == summary["delivered"] + summary["quarantined"] == len(sent)
    assert summary["quarantined"] == len(quarantined) > 0
    assert all(kept["reason"].endswith(".") for kept in quarantined)
    assert left == []
    arrived = [below_prefix(message) for message in stored]
    assert digests([*arrived, *map(lf, exported)]) == digests(map(lf, offered))
    assert digests(lf(m) for m in plain) - digests(arrived) == digests([])
