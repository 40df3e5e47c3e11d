"""Senders as providers write them, at real servers: none keeps a message from its mailbox."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest

from services.deliverer.courier import Courier, CourierResult, MailObject, PutAside
from services.deliverer.destinations import courier_for
from tests.flow.test_other_servers import Local
from tests.servers.courier import courier
from tests.servers.exim import exim
from tests.servers.opensmtpd import opensmtpd
from tests.servers.postfix import postfix
from tests.servers.process import wait_until
from tests.unit.deliverer.content import content, told

SERVERS: dict[str, Callable[[], AbstractContextManager[Local]]] = {
    "postfix": lambda: postfix(mailboxes=("sales",), agent="local"),
    "exim": exim,
    "opensmtpd": opensmtpd,
    "courier": lambda: courier(per_ip=40),
}
SENDERS = (
    "foo@example..net",  # the first thing a server hears: is it the pipelining, or the sender?
    "unknown",
    "foo@example.net",
    "",
    "a@b@example.net",
    '"john smith"@example.net',
    "-foo@example.net",
    "foo@[192.0.2.1]",
    "foo,bar@example.net",
    "foo(x)bar@example.net",
    "foo;bar@example.net",
    "jürgen@example.net",
    "foo@müller.example",
    "x" * 200 + "@" + "y" * 60 + ".example.net",
    "foo@localhost",
    "@",
)


async def taken(courier: Courier, posts: Sequence[MailObject]) -> list[CourierResult]:
    """Return what was told of each message; what a server is too slow for is sent again later."""
    found: list[CourierResult] = [PutAside("not tried yet", 0.0)] * len(posts)
    while aside := [at for at, one in enumerate(found) if isinstance(one, PutAside)]:
        for at, one in zip(aside, await told(courier, [posts[at] for at in aside]), strict=True):
            found[at] = one
    return found


@pytest.mark.parametrize("start", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("pipelining", ["commands", "none"])
async def test_no_sender_keeps_a_message_from_its_mailbox(
    start: Callable[[], AbstractContextManager[Local]], pipelining: str
) -> None:
    box = "sales@corp.example"
    texts = [b"Subject: n%d\r\n\r\nx\r\n" % number for number in range(len(SENDERS))]
    posts = [
        MailObject(content(text, prefix=b""), sender, [box])
        for text, sender in zip(texts, SENDERS, strict=True)
    ]
    with start() as server:
        url = f"{server.url.partition('?')[0]}?tls=none&pipelining={pipelining}"
        smtp = courier_for("local", url, connections=1)
        delivered = await taken(smtp, posts)
        await smtp.close()
        verdicts = [d if isinstance(d, Exception) else d[box].verdict for d in delivered]
        assert verdicts == ["delivered"] * len(posts)
        wait_until(lambda: len(server.messages("sales")) == len(posts), "every message")
        found = b"".join(server.messages("sales"))
    assert [found.count(b"Subject: n%d\n" % number) for number in range(len(posts))] == [1] * len(
        posts
    )
