"""Odd mail at real mail servers: each takes it, and whoever reads it there finds one header.

Below the lines of ours, Postfix and Dovecot see the message's own fields, and its body. What
neither may find is a field that the provider's filter did not see: CR alone makes none.
"""

import email
import email.policy
from collections.abc import Iterator
from email.message import Message
from typing import Protocol

import pytest

from tests.corpus.messages import fields, sound_messages
from tests.servers.dovecot import dovecot
from tests.servers.postfix import postfix
from tests.servers.process import wait_until
from tests.unit.deliverer.content import content, courier
from tests.unit.rewriter.envelopes import addressed, parsed
from tests.unit.rewriter.test_rewrite import REWRITER

SALES = "sales@corp.example"
SOUND = sound_messages()
PLAIN = fields("odd")
INJECTED = b"Subject: Offer odd\rBcc: victim@other.example\rX-Injected: yes\r\n"

ODD: dict[str, bytes] = {
    **{name: SOUND[name] for name in SOUND if name.endswith(" first")},
    **{name: SOUND[name] for name in ("CR CR LF", "CR CR LF in header", "bare CR in header")},
    **{name: SOUND[name] for name in ("NUL in header", "NUL in body", "bare CR in body")},
    "header of 300 KB": PLAIN
    + b"".join(b"X-Filler-%d: %s\r\n" % (n, b"f" * 200) for n in range(1400))
    + b"\r\nbody\r\n",
    "CR makes fields": PLAIN.replace(b"Subject: Offer odd\r\n", INJECTED) + b"\r\nbody\r\n",
    "provider's Delivered-To": b"Delivered-To: sales@corp.example\r\n" + PLAIN + b"\r\nbody\r\n",
}


class Server(Protocol):
    """A mail server with a mailbox ``sales@corp.example``."""

    def messages(self, mailbox: str, /) -> list[bytes]: ...


@pytest.fixture(scope="module")
def at_postfix() -> Iterator[tuple[Server, str]]:
    with postfix(mailboxes=("sales",), agent="local") as server:
        yield server, server.url


@pytest.fixture(scope="module")
def at_dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    with dovecot(tmp_path_factory.mktemp("dovecot"), {"sales": "x"}) as server:
        yield server, f"lmtp://{server.host}:{server.lmtp}"


@pytest.mark.parametrize("at", ["at_postfix", "at_dovecot"])
async def test_a_server_takes_it_and_finds_one_header(
    at: str, request: pytest.FixtureRequest
) -> None:
    server, url = request.getfixturevalue(at)
    async with courier(url) as to:
        for name, raw in ODD.items():
            mail = addressed(REWRITER.handle(parsed(raw, uidl=name)))
            own = raw[mail.skip :]
            for at_once in (True, False):
                chunks = None if at_once else [own[: len(own) // 3], own[len(own) // 3 :]]
                given = content(own, prefix=mail.prefix, chunks=chunks, id_=name)
                results = await to.deliver(given, "a@example.net", [SALES])
                assert results[SALES].verdict == "delivered", (name, results)
    count = 2 * len(ODD)
    wait_until(lambda: len(server.messages("sales")) == count, f"{count} messages")
    stored = [email.message_from_bytes(m) for m in server.messages("sales")]
    for name in ODD:
        mine = [m for m in stored if m["X-POP3-Connector-UIDL"].replace("\\x20", " ") == name]
        assert len(mine) == 2, name
        for message in mine:
            check(name, message)


def check(name: str, message: Message) -> None:
    assert str(message["Subject"]).startswith("Offer odd"), name
    assert message["From"] == '"A. Sender" <a.sender@example.org>', name
    assert message["Message-ID"] == "<odd@example.org>", name
    assert message["Bcc"] is None, name
    assert message["X-Injected"] is None, name
    body = str(message.get_payload()).replace("\0", "")
    assert body in BODIES.get(name, ("body\n",)), (name, body)


BODIES = {
    "NUL in body": ("onetwo\n",),
    "bare CR in body": ("one\ntwo\n",),
    "mbox line first": ("b\n",),
    "quoted mbox line first": ("b\n",),
}


async def test_the_same_bytes_without_the_connector_would_be_misread() -> None:
    """What is done about these has a reason still: the day it has none, it can go."""
    with postfix(mailboxes=("sales",), agent="local") as server:
        async with courier(f"{server.url}?delivered_to=keep") as to:
            own = ODD["provider's Delivered-To"]
            await to.deliver(content(own, prefix=b"X-Ours: yes\r\n"), "", [SALES])
        wait_until(lambda: "mail forwarding loop" in server.log(), "a bounce")
        assert server.messages("sales") == []
