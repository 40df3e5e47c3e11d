"""Each mechanism against the examples of its RFC, and against the server's side of a library."""

import base64
import json
import sys
from pathlib import Path

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism

from shared.authentication.bearer import oauthbearer, xoauth2
from shared.authentication.choice import KINDS
from shared.authentication.mechanism import (
    Binding,
    Credentials,
    Mechanism,
    MechanismFailed,
    require_sendable,
)
from shared.authentication.ntlm import Ntlm
from shared.authentication.passwords import (
    AuthLogin,
    CramMd5,
    Plain,
    apop_digest,
    apop_timestamp,
)
from shared.authentication.scram import Scram
from shared.errors import ConfigError

TIM = Credentials("tim", "tanstaaftanstaaf")
SASL = [kind for kind in KINDS if kind.make is not None]


def test_plain_sends_all_of_it_at_once() -> None:
    assert Plain(TIM).start() == b"\0tim\0tanstaaftanstaaf"  # RFC 4616 section 4


def test_login_answers_by_order_whatever_the_questions_are_called() -> None:
    login = AuthLogin(TIM)
    assert login.start() is None
    assert login.answer(b"Benutzer:") == b"tim"
    assert login.answer(b"") == b"tanstaaftanstaaf"
    with pytest.raises(MechanismFailed):
        login.answer(b"And now?")


def test_cram_md5_is_that_of_rfc_2195() -> None:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert CramMd5(TIM).answer(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_apop_is_that_of_rfc_1939() -> None:
    timestamp = apop_timestamp("POP3 server ready <1896.697170952@dbc.mtview.ca.us>")
    assert timestamp is not None
    assert apop_digest(timestamp, "tanstaaf") == "c4c9334bac560ecc979e58001b3e22fb"


@pytest.mark.parametrize(
    "greeting",
    [
        "POP3 ready",
        "ready <no-domain>",
        "ready <two@at@signs>",
        "ready <a b@host>",
        "ready <@host>",
        "ready <a@>",
        "ready <\x80\x81@host>",
        "ready <" + "a" * 300 + "@host>",
    ],
)
def test_a_banner_that_is_no_message_id_is_not_hashed(greeting: str) -> None:
    assert apop_timestamp(greeting) is None


def test_oauthbearer_is_that_of_rfc_7628() -> None:
    credentials = Credentials("user@example.com", "vF9dft4qmT", "server.example.com", 143)
    sent = oauthbearer(credentials).start()
    assert sent == (
        b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer vF9dft4qmT\1\1"
    )


def test_a_name_with_a_comma_is_escaped_for_oauthbearer() -> None:
    assert b"a=a=2Cb=3Dc," in (oauthbearer(Credentials("a,b=c", "t")).start() or b"")


def test_xoauth2_is_that_of_googles_page() -> None:
    sent = xoauth2(Credentials("someuser@example.com", "ya29.vF9dft4")).start()
    assert sent == b"user=someuser@example.com\1auth=Bearer ya29.vF9dft4\1\1"


@pytest.mark.parametrize(("kind", "goes_on"), [(xoauth2, b""), (oauthbearer, b"\1")])
def test_a_refused_token_is_put_into_words(kind: type[Mechanism], goes_on: bytes) -> None:
    bearer = kind(TIM)  # type: ignore[call-arg]
    bearer.start()
    said = {"status": "401", "schemes": "bearer", "scope": "https://mail.example\x1b[31m/"}
    assert bearer.answer(json.dumps(said).encode()) == goes_on
    assert bearer.explanation == "status 401, scope https://mail.example [31m/, schemes bearer"
    with pytest.raises(MechanismFailed):
        bearer.verify()
    with pytest.raises(MechanismFailed):
        bearer.answer(b"")


@pytest.mark.parametrize("said", [b"", b"nonsense", b"[]", b"\xff", b"[" * 5_000, b'{"status":{}}'])
def test_a_refusal_that_is_no_json_is_answered_all_the_same(said: bytes) -> None:
    bearer = xoauth2(TIM)
    assert bearer.answer(said) == b""
    assert bearer.explanation == ""


NAMES = ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"]
UNIQUE = Binding("tls-unique", b"the connection")


def scram_server(name: str, password: str, binding: Binding | None = UNIQUE):  # type: ignore[no-untyped-def]
    mechanism = ScramMechanism(name)
    known = mechanism.make_auth_info(password)
    wanted = binding if name.endswith("PLUS") else None
    return mechanism.make_server(lambda _: known, channel_binding=wanted)


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_prove_that_they_know_the_password(name: str) -> None:
    binding = UNIQUE if name.endswith("PLUS") else None
    server = scram_server(name, "pencil")
    client = Scram(Credentials("user", "pencil", binding=binding), name)
    server.set_client_first((client.start() or b"").decode())
    server.set_client_final(client.answer(server.get_server_first().encode()).decode())
    with pytest.raises(MechanismFailed, match="did not prove"):
        client.verify()
    assert client.answer(server.get_server_final().encode()) == b""
    client.verify()


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    server = scram_server("SCRAM-SHA-256", "another")
    client = Scram(Credentials("user", "pencil"), "SCRAM-SHA-256")
    server.set_client_first((client.start() or b"").decode())
    client.answer(server.get_server_first().encode())
    forged = base64.b64encode(b"\0" * 32)
    with pytest.raises(MechanismFailed, match="wrong"):
        client.answer(b"v=" + forged)
    with pytest.raises(MechanismFailed, match="did not prove"):
        client.verify()


def test_another_connection_is_noticed_by_its_binding() -> None:
    server = scram_server("SCRAM-SHA-256-PLUS", "pencil", Binding("tls-unique", b"another"))
    client = Scram(Credentials("user", "pencil", binding=UNIQUE), "SCRAM-SHA-256-PLUS")
    server.set_client_first((client.start() or b"").decode())
    last = client.answer(server.get_server_first().encode()).decode()
    with pytest.raises(Exception, match="channel binding"):
        server.set_client_final(last)


@pytest.mark.parametrize(
    "rounds", ["9999999", "9" * 10, "0", "-1", "1_0", "+1", "", "4096,i=9999999"]
)
def test_a_server_cannot_have_us_hash_for_hours(rounds: str) -> None:
    client = Scram(TIM, "SCRAM-SHA-256")
    nonce = (client.start() or b"").decode().rpartition("r=")[2]
    salt = base64.b64encode(b"0123456789abcdef").decode()
    with pytest.raises(MechanismFailed, match="rounds of hashing"):
        client.answer(f"r={nonce}x,s={salt},i={rounds}".encode())


def test_ntlm_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spnego", None)
    with pytest.raises(MechanismFailed, match="pip install"):
        Ntlm(TIM)


def test_ntlm_logs_in_where_the_password_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    users.write_text("DOMAIN:tim:tanstaaftanstaaf\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    client = Ntlm(Credentials("DOMAIN\\tim", "tanstaaftanstaaf"))
    challenge = server.step(client.start())
    server.step(client.answer(challenge or b""))
    assert server.complete
    assert server.client_principal == "DOMAIN\\tim"
    with pytest.raises(MechanismFailed):
        client.answer(b"more")


@pytest.mark.parametrize("kind", SASL, ids=lambda kind: kind.sasl)
@given(challenges=st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_no_challenge_makes_more_than_a_clear_error(kind, challenges: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    mechanism = kind.make(Credentials("tim", "secret", "host", 110, UNIQUE))
    mechanism.start()
    for challenge in challenges:
        try:
            mechanism.answer(challenge)
        except MechanismFailed as error:
            assert str(error).isprintable()
            break


@pytest.mark.parametrize(("username", "password"), [("a\udcff", "b"), ("a", "b\udcff")])
def test_what_is_no_text_is_refused_before_it_is_sent(username: str, password: str) -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        require_sendable("account x", username, password)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_whatever_may_be_sent_ends_no_command(username: str, password: str) -> None:
    try:
        require_sendable("account x", username, password)
    except ConfigError:
        assert set("\r\n\0") & set(username + password)
    else:
        assert Plain(Credentials(username, password)).start().count(b"\0") == 2  # type: ignore[union-attr]
