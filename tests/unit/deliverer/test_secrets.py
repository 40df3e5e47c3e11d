"""A mail server that repeats our password: none of it is in what is told, recorded or shown."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.deliverer.courier import Courier, MailObject, Result
from services.deliverer.destinations import courier_for
from shared.errors import ServerFault
from tests.servers.certificates import make_certificates
from tests.servers.smtp import SmtpServer, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, SENDER, content, told

PASSWORD = "s3cret-pass"
FORMS = (
    PASSWORD,
    base64.b64encode(PASSWORD.encode()).decode(),
    base64.b64encode(f"\0anna\0{PASSWORD}".encode()).decode(),
)
EVERYTHING = " ".join(FORMS)


def shows(text: str) -> bool:
    """Return whether the password is in a text."""
    return any(form.rstrip("=") in text for form in FORMS)


@pytest.fixture
def lines() -> list[str]:
    return []


@asynccontextmanager
async def courier(
    folder: Path, lines: list[str], *, mechanisms: str = "PLAIN"
) -> AsyncIterator[tuple[SmtpServer, Courier]]:
    """Yield a server that wants our login, and a courier to it whose dialogue goes to ``lines``."""
    certificates = make_certificates(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    login = ("anna", PASSWORD)
    async with smtp_server(context=context, login=login, mechanisms=mechanisms) as server:
        url = f"smtp://anna:{PASSWORD}@127.0.0.1:{server.port}?ca_file={certificates.ca}"
        made = courier_for("away", url, listen=lambda _: lines.append)
        try:
            yield server, made
        finally:
            await made.close()


async def outcome(made: Courier) -> dict[str, Result]:
    (delivered,) = await told(made, [MailObject(content(), SENDER, [ANNA, BERT])])
    assert isinstance(delivered, dict), delivered
    return delivered


async def test_replies_are_recorded_less_the_password(tmp_path: Path, lines: list[str]) -> None:
    async with courier(tmp_path, lines) as (server, made):
        server.answer(f"RCPT {BERT}", f"550 5.1.1 no {EVERYTHING}")
        server.answer("END", f"250 2.0.0 queued, {EVERYTHING}")
        results = await outcome(made)
    assert results[ANNA].verdict == "delivered"
    assert results[BERT].verdict == "permanent"
    assert results[ANNA].reply.startswith("250 2.0.0 queued, *** *** ***")
    assert results[BERT].reply.startswith("550 5.1.1 no *** *** ***")
    assert not shows("\n".join(lines))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((f"535-5.7.8 {EVERYTHING}\r\n535 5.7.8 dear",), "535 5.7.8 (said to AUTH): it does not"),
        ((f"454 4.7.0 {EVERYTHING}",), "454 4.7.0 (said to AUTH): it cannot check"),
        ((f"ERROR {EVERYTHING} whoops",), "it sent something that is not an SMTP reply"),
        ((f"334 {EVERYTHING}",), "AUTH PLAIN: its challenge is no base64"),
    ],
)
async def test_of_a_login_nothing_is_quoted_but_codes(
    tmp_path: Path, lines: list[str], answers: tuple[str, ...], said: str
) -> None:
    async with courier(tmp_path, lines) as (server, made):
        server.answer("AUTH", *answers)
        with pytest.raises(ServerFault) as caught:
            await made.probe([ANNA])
    assert said in str(caught.value)
    everything = "\n".join([str(caught.value), *lines])
    assert not shows(everything)
    assert "dear" not in everything
    assert "whoops" not in everything


@pytest.mark.parametrize("step", ["EHLO", "MAIL", "GREETING"])
async def test_refusals_of_any_step_are_told_less_the_password(
    tmp_path: Path, lines: list[str], step: str
) -> None:
    async with courier(tmp_path, lines) as (server, made):
        server.answer(step, *[f"554 5.3.0 {EVERYTHING} no"] * 3)
        (delivered,) = await told(made, [MailObject(content(), SENDER, [ANNA])])
    text = str(delivered)
    assert "5.3.0 *** *** *** no" in text
    assert not shows("\n".join([text, *lines]))


async def test_what_is_no_reply_is_told_less_the_password(tmp_path: Path, lines: list[str]) -> None:
    async with courier(tmp_path, lines) as (server, made):
        server.answer("MAIL", *[f"huh? {EVERYTHING}"] * 5)
        (delivered,) = await told(made, [MailObject(content(), SENDER, [ANNA])])
    assert "not an SMTP reply: huh? *** *** ***" in str(delivered)
    assert not shows("\n".join(lines))


async def test_a_password_that_is_a_word_of_the_protocol_changes_no_meaning(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    async with smtp_server(
        context=context, login=("anna", "quota"), mechanisms="PLAIN", extensions=("SIZE 1000000",)
    ) as server:
        server.answer(f"RCPT {BERT}", "550 over quota")
        url = f"smtp://anna:quota@127.0.0.1:{server.port}?ca_file={certificates.ca}"
        made = courier_for("away", url)
        results = await outcome(made)
        await made.close()
    assert results[BERT].verdict == "temporary"
    assert results[BERT].reply.startswith("550 over ***")
