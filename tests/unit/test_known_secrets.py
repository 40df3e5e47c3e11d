"""Passwords of others, and former ones: what is hidden of them, and what is left alone."""

import base64
import random
import string
from pathlib import Path

import pytest

from shared.redaction.known_secrets import LONGEST, MOST, KnownSecrets
from shared.redaction.redaction import Redaction
from shared.settings.written_secrets import secrets_in
from tests.unit.configurations import MINIMAL, loaded

SECRET = "Sw0rd&fish ä"
WORDS = (
    *("message", "mailbox", "password", "user", "login", "auth", "error", "locked", "sunshine"),
    *("123456", "12345678", "Hello", "denied", "in-use", "sys/temp", "wrong", "in"),
)
SAID = (
    "[IN-USE] Mailbox is locked by 12345678: wrong password, login denied (user unknown).",
    "[SYS/TEMP] error 123456: message size=99, hello",
    "[AUTH] in error: denied",
)


def knowing(*secrets: str, owner: str = "") -> KnownSecrets:
    known = KnownSecrets()
    for secret in secrets:
        known.learn(secret, owner)
    return known


@pytest.mark.parametrize("size", [8, 9, 10, 11, 25])
@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "abcdefg"])
def test_a_long_one_is_hidden_wherever_it_stands(size: int, before: str) -> None:
    secret = "Tr0ub4dor&3,correct-horse,battery"[:size]
    known = knowing("n3ighbour", secret)
    for form in (secret, secret.upper(), secret.lower()):
        assert known.hidden(f"{before}{form}yz, {form}") == f"{before}***yz, ***"
        assert known.within(f"{before}{form}yz")
    assert known.hidden(secret[:-1]) == secret[:-1]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("s%770rd%26fish+ä, =53w0rd&amp;fish ä", "***, ***"),
        (r"\x53w0rd\&fish \u00e4 &#83;w0rd&fish ä", "*** ***"),
        (SECRET.encode().decode("latin-1"), "***"),
        (f"<{SECRET.encode().hex()}> 0{SECRET.encode().hex()}", "<***> ***"),
        (base64.b64encode(f"\0anna\0{SECRET}".encode()).decode(), "***"),
        (base64.urlsafe_b64encode(f"\xff\xfe>{SECRET}".encode("latin-1")).decode(), "***"),
        ("AUTH+" + base64.b64encode(SECRET.encode()).decode().rstrip("="), "***"),
    ],
)
def test_it_is_found_in_other_writings(said: str, shown: str) -> None:
    known = knowing(SECRET) if "ÿ" not in said else knowing("Sw0rd&fish")
    assert known.hidden(f"no: {said} (at all)").replace("\xff", "") == f"no: {shown} (at all)"


def test_a_short_one_is_hidden_where_it_stands_by_itself() -> None:
    known = knowing("x7-k9q", "abc")
    assert known.hidden("no x7-k9q, 'X7-K9Q' (x7-k9q) p=x7-k9q.") == "no ***, '***' (***) p=***."
    assert known.hidden(base64.b64encode(b"\0anna\0x7-k9q").decode()) == "***"
    assert known.hidden("ax7-k9q abc") == "ax7-k9q abc"


@pytest.mark.parametrize("said", SAID)
def test_words_that_are_somebodys_password_are_left_to_those_that_say_them(said: str) -> None:
    known = knowing(*WORDS, owner="mail:110\0other")
    assert known.hidden(said, "mail:110\0anna") == said


def test_a_word_that_is_pointed_at_is_hidden_and_on_its_own_connections_in_any_case() -> None:
    known = knowing("sunshine", "123456", owner="mail:110\0anna")
    assert known.hidden("user=a pass=sunshine, '123456' sunshine") == (
        "user=a pass=***, '***' sunshine"
    )
    assert known.hidden("not sunshine", "mail:110\0anna") == "not ***"


def test_a_former_password_is_hidden_as_the_present_one_is() -> None:
    known = KnownSecrets()
    Redaction("sunshine", "anna", "mail:110", known)
    now = Redaction("w1nter-time", "anna", "mail:110", known)
    assert now.hidden("not w1nter-time, but sunshine") == "not ***, but ***"
    assert not now.holds("sunshine-17")
    now = Redaction("again", "anna", "mail:110", known)
    assert now.holds("u-W1NTER-time-17")  # as a UIDL


def test_a_text_without_end_is_cut_and_nothing_of_a_secret_is_left() -> None:
    known = knowing("n3ighbour", "x7-k9q")
    for text in ("n3ighbour" * 2_000, "x7-k9q " * 5_000, " n3ighbour" * 3_000, "a" * 100_000):
        found = known.hidden(text)
        assert len(found) <= LONGEST
        assert "n3i" not in found and "x7" not in found


def test_as_many_as_a_hoster_has_are_found_each() -> None:
    choose = random.Random(7)
    letters = string.ascii_letters + string.digits + "-!&"
    secrets = ["".join(choose.choices(letters, k=choose.randint(6, 20))) for _ in range(50_000)]
    known = knowing(*secrets)
    for secret in choose.sample(secrets, 500):
        assert known.hidden(f"wrong {secret} given") == "wrong *** given"
    for said in SAID:
        assert known.hidden(said) == said


def test_it_is_bounded() -> None:
    known = KnownSecrets()
    for number in range(MOST + 10):
        known.learn(f"s3cret-{number:06d}")
    assert known.hidden("s3cret-200009") == "***"
    assert known.hidden("s3cret-000000") == "s3cret-000000"


def test_what_stands_in_the_configuration_is_known(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + """
    [[account]]
    name = "info"
    host = "pop.example.net"
    username = "info"
    password_file = "/nowhere"
    mailbox = "info@corp.example"
    proxy = "socks5://user:pr0xy-pass@host:1080"
    [broker]
    url = "amqp://user:br0ker%2Fpass@host"
    [state]
    url = "postgresql+psycopg://user@host/db"
    username = "user"
    password = "d4tabase-pass"
    [destinations.away]
    url = "smtp://user:aw4y-pass@host"
    [spool]
    url = "s3://bucket"
    options = { key = "AKIA12345678", secret = "s3+secret/key", endpoint_url = "http://s3:9000" }
    """
    )
    known = secrets_in(loaded(tmp_path, text))
    for secret in (
        "hunter2",
        "pr0xy-pass",
        "br0ker/pass",
        "d4tabase-pass",
        "aw4y-pass",
        "s3+secret/key",
    ):
        assert known.hidden(f"no {secret}") == "no ***"
    for other in ("AKIA12345678", "http://s3:9000", "/nowhere"):
        assert known.hidden(f"no {other}") == f"no {other}"


def test_the_passwords_of_every_node_of_a_cluster_are_known(tmp_path: Path) -> None:
    nodes = '[broker]\nurls = ["amqp://user:0ne-node@a", "amqp://user:0ther-node@b"]\n'
    known = secrets_in(loaded(tmp_path, f"{MINIMAL}\n{nodes}"))
    assert known.hidden("no 0ne-node, no 0ther-node") == "no ***, no ***"
