"""What --debug shows of the dialogue with a mail server, and what it never shows."""

import base64
import ssl
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from services.deliverer.courier import MailObject
from services.deliverer.destinations import courier_for
from tests.servers.certificates import make_certificates
from tests.servers.smtp import DROP, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, MESSAGE, SENDER, content, told


class Log(defaultdict[int, list[str]]):
    """The lines of each connection."""

    def __init__(self) -> None:
        super().__init__(list)

    def listen(self, number: int) -> Callable[[str], None]:
        return self[number].append


@pytest.mark.parametrize("chunks", [None, [MESSAGE[:9], MESSAGE[9:-1], MESSAGE[-1:]]])
async def test_commands_and_replies_are_told_and_mail_is_counted(
    chunks: list[bytes] | None,
) -> None:
    log = Log()
    async with smtp_server(extensions=("PIPELINING",)) as server:
        made = courier_for("local", f"{server.url}?tls=none", listen=log.listen)
        server.answer(f"RCPT {BERT}", "550-5.1.1 no such\x1b[31m\r\n550 5.1.1 user")
        await told(made, [MailObject(content(chunks=chunks), SENDER, [ANNA, BERT])])
        await made.close()
    ((port, lines),) = log.items()
    assert port > 0
    assert lines == [
        f"# connected to 127.0.0.1:{server.port}",
        "S: 220 mail.corp.example ready",
        "C: EHLO [127.0.0.1]",
        "S: 250-mail.corp.example",
        "S: 250 PIPELINING",
        f"C: MAIL FROM:<{SENDER}>",
        f"C: RCPT TO:<{ANNA}>",
        f"C: RCPT TO:<{BERT}>",
        "C: DATA",
        "S: 250 2.1.0 sender ok",
        "S: 250 2.1.5 recipient ok",
        "S: 550-5.1.1 no such\\x1b[31m",
        "S: 550 5.1.1 user",
        "S: 354 go on",
        f"C: <bytes {len(server.received[0].raw) + len(b'.') + 2}>",
        "S: 250 2.0.0 taken",
        "C: QUIT",
    ]


async def test_what_goes_with_the_end_of_a_message_is_told_and_no_message_is() -> None:
    log = Log()
    posts = [MailObject(content(id_=str(n)), SENDER, [ANNA]) for n in range(2)]
    async with smtp_server(lmtp=True, extensions=("PIPELINING",)) as server:
        url = f"{server.url}?tls=none&pipelining=full"
        made = courier_for("local", url, connections=1, listen=log.listen)
        await told(made, posts)
        await made.close()
    (lines,) = log.values()
    size = len(server.received[0].raw) + 3
    end = lines.index(f"C: <bytes {size}>")
    assert lines[end + 1] == f"C: MAIL FROM:<{SENDER}>"
    assert lines.count(f"C: <bytes {size}>") == 2
    assert not [line for line in lines if "Dear Anna" in line or "Subject" in line]


@pytest.mark.parametrize("text", [b"", b"Subject: x\r\n\r\n.\r\n.\r\n", b".\r\n"])
async def test_a_message_that_looks_like_its_end_is_still_one(text: bytes) -> None:
    log = Log()
    async with smtp_server() as server:
        made = courier_for("local", f"{server.url}?tls=none", listen=log.listen)
        await told(made, [MailObject(content(text, prefix=b""), SENDER, [ANNA])])
        await made.close()
    (lines,) = log.values()
    assert f"C: <bytes {len(server.received[0].raw) + 3}>" in lines


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN"])
async def test_no_secret_is_told(mechanisms: str, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    log, login = Log(), ("anna", "s3cret")
    async with smtp_server(context=context, login=login, mechanisms=mechanisms) as server:
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}"
        made = courier_for("local", f"smtp://anna:s3cret@{at}", listen=log.listen)
        await told(made, [MailObject(content(), SENDER, [ANNA])])
        await made.close()
    (lines,) = log.values()
    assert len(server.received) == 1
    assert [line for line in lines if line.startswith("C: AUTH")] == [
        "C: AUTH PLAIN ***" if mechanisms == "PLAIN" else "C: AUTH LOGIN"
    ]
    secrets = ["s3cret", base64.b64encode(b"s3cret").decode()]
    secrets.append(base64.b64encode(b"\0anna\0s3cret").decode())
    assert not [line for line in lines if any(secret in line for secret in secrets)]


async def test_how_a_connection_ended_is_told() -> None:
    log = Log()
    async with smtp_server() as server:
        server.answer("GREETING", DROP)
        made = courier_for("local", server.url, listen=log.listen)
        await told(made, [MailObject(content(), SENDER, [ANNA])])
        await made.close()
    (lines,) = log.values()
    assert lines[1:] == ["# it closed the connection"]
