"""Mail servers other than Dovecot: what each of them is strict about costs no message."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from tests.flow.forked import ForkedConnector
from tests.flow.place import ONCE, Place, account
from tests.servers.courier import courier_pop3
from tests.servers.exim import exim
from tests.servers.process import wait_until


class Local(Protocol):
    """A mail server with a mailbox ``sales@corp.example``."""

    @property
    def url(self) -> str: ...
    def messages(self, mailbox: str, /) -> list[bytes]: ...


SERVERS: dict[str, Callable[[], AbstractContextManager[Local]]] = {"exim": exim}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Local]:
    with request.param() as running:
        yield running


def letter(mark: str, *fields: str) -> bytes:
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


LETTERS = {"plain": letter("plain")}


def marks(server: Local) -> Counter[str]:
    """Return the last line of each message that has arrived."""
    return Counter(raw.rstrip().rpartition(b"\n")[2].decode() for raw in server.messages("sales"))


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS, indirect=True)
def test_what_is_for_a_mailbox_arrives(place: Place, server: Local) -> None:
    place.provider.put_all("sales", list(LETTERS.values()))
    place.product.configure([place.account("sales")], server.url)
    status, summary = place.once()
    assert (status, summary["delivered"]) == (0, len(LETTERS))
    wait_until(lambda: marks(server).total() >= len(LETTERS), f"{len(LETTERS)} messages", 30)
    assert marks(server) == Counter(list(LETTERS))


def test_courier_hands_out_the_message_itself_and_no_stub(
    forked: ForkedConnector, tmp_path: Path
) -> None:
    """RFC 6856: without UTF8, what has 8-bit bytes in its header is replaced by a notice."""
    raw = b"From: a@example.net\nSubject: Gr\xfc\xdfe\n\nbody\n"
    with courier_pop3() as provider:
        provider.put("sales", "1.eight-bit", raw)
        keys = account(provider, "sales")
        forked.configure([keys], f"maildir://{tmp_path}/mail")
        forked.start(ONCE)
        assert forked.processes.pop(ONCE).wait(60) == 0, forked.tail()
        (stored,) = (tmp_path / "mail" / "new").iterdir()
        assert stored.read_bytes().endswith(b"\n" + raw)
        assert provider.files("sales") == []
