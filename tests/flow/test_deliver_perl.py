"""The deliverer against Perl's Net::Server::Mail: LMTP with less PIPELINING than is offered."""

from pathlib import Path

from services.deliverer.courier import MailObject
from services.deliverer.destinations import courier_for
from tests.servers.net_server_mail import net_server_mail
from tests.unit.deliverer.content import ANNA, BERT, CARL, PREFIX, SENDER, content, told


async def test_no_command_ends_in_anybodys_mail(tmp_path: Path) -> None:
    texts = [
        b"Subject: %d\r\n\r\nto %s\r\n" % (n, r.encode()) for n, r in enumerate((ANNA, BERT, CARL))
    ]
    posts = [
        MailObject(content(text), SENDER, [r])
        for text, r in zip(texts, (ANNA, BERT, CARL), strict=True)
    ]
    with net_server_mail(tmp_path) as server:
        lmtp = courier_for("local", f"lmtp://127.0.0.1:{server.port}", connections=1)
        delivered = await told(lmtp, posts)
        await lmtp.close()
        found = server.messages
    assert not [each for each in delivered if isinstance(each, Exception)]
    assert found == [PREFIX + text for text in texts]
