"""Mail servers other than Dovecot: what each of them is strict about costs no message.

Postfix by local(8) and by pipe(8), OpenSMTPD and Courier bounce as a loop what has a Delivered-To
with its recipient, after they have taken it; and the sender is a stranger.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from tests.flow.forked import ForkedConnector
from tests.flow.place import ONCE, Place, account
from tests.servers.courier import courier, courier_pop3
from tests.servers.exim import exim
from tests.servers.opensmtpd import opensmtpd
from tests.servers.postfix import postfix
from tests.servers.process import wait_until


class Local(Protocol):
    """A mail server with a mailbox ``sales@corp.example``."""

    @property
    def url(self) -> str: ...
    def messages(self, mailbox: str, /) -> list[bytes]: ...


SERVERS: dict[str, Callable[[], AbstractContextManager[Local]]] = {
    "postfix-local": lambda: postfix(mailboxes=("sales",), agent="local"),
    "postfix-pipe": lambda: postfix(mailboxes=("sales",), agent="pipe"),
    "exim": exim,
    "opensmtpd": opensmtpd,
    "courier": lambda: courier(per_ip=40),
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Local]:
    with request.param() as running:
        yield running


def message(mark: str, *fields: str) -> bytes:
    """Return a message whose body is its mark."""
    lines = (
        "Return-Path: <stranger@example.net>",
        *fields,
        "From: stranger@example.net",
        "To: sales@corp.example",
        "Date: Thu, 1 Jan 2026 00:00:00 +0000",
        f"Message-ID: <{mark}@example.net>",
        f"Subject: {mark}",
        "",
        mark,
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


MESSAGES = {
    "plain": message("plain"),
    "of-the-provider": message("of-the-provider", "Delivered-To: sales@corp.example"),
    "in-capitals": message("in-capitals", "DELIVERED-TO: Sales@Corp.Example"),
    "folded": message("folded", "Delivered-To:", " sales@corp.example"),
    "of-somebody-else": message("of-somebody-else", "Delivered-To: info@provider.example"),
    "twice": message("twice", *["Delivered-To: sales@corp.example"] * 2),
}


def marks(server: Local) -> Counter[str]:
    """Return the last line of each message that has arrived."""
    return Counter(raw.rstrip().rpartition(b"\n")[2].decode() for raw in server.messages("sales"))


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS, indirect=True)
def test_no_message_is_bounced_for_where_it_was_delivered_before(
    place: Place, server: Local
) -> None:
    place.provider.put_all("sales", list(MESSAGES.values()))
    place.product.configure([place.account("sales")], server.url)
    status, summary = place.once()
    assert (status, summary["delivered"]) == (0, len(MESSAGES))
    wait_until(lambda: marks(server).total() >= len(MESSAGES), f"{len(MESSAGES)} messages", 30)
    assert marks(server) == Counter(list(MESSAGES))


FEW: dict[str, Callable[[], AbstractContextManager[Local]]] = {
    "exim-3-per-host": lambda: exim(per_host=3),
    "courier-4-per-ip": lambda: courier(per_ip=4),
    "opensmtpd-100-per-session": opensmtpd,
}


@pytest.mark.parametrize("server", FEW.values(), ids=FEW, indirect=True)
def test_a_limit_of_connections_or_messages_delays_none(place: Place, server: Local) -> None:
    count = 300
    place.provider.put_all("sales", [message(str(n)) for n in range(count)])
    place.product.configure([place.account("sales")], server.url)
    status, summary = place.once()
    assert (status, summary["delivered"], summary["retrying"]) == (0, count, 0)
    assert not [e for e in place.product.events(ONCE) if "left alone" in str(e.get("reason"))]
    wait_until(lambda: marks(server).total() >= count, f"{count} messages", 60)
    assert marks(server) == Counter(map(str, range(count)))


def test_courier_hands_out_the_message_itself_and_no_stub(
    product: ForkedConnector, tmp_path: Path
) -> None:
    """RFC 6856: without UTF8, what has 8-bit bytes in its header is replaced by a notice."""
    raw = b"From: a@example.net\nSubject: Gr\xfc\xdfe\n\nbody\n"
    with courier_pop3() as provider:
        provider.put("sales", "1.eight-bit", raw)
        keys = account(provider, "sales")
        product.configure([keys], f"maildir://{tmp_path}/mail")
        product.start(ONCE)
        assert product.processes.pop(ONCE).wait(60) == 0, product.tail()
        (stored,) = (tmp_path / "mail" / "new").iterdir()
        assert stored.read_bytes().endswith(b"\n" + raw)
        assert provider.files("sales") == []
