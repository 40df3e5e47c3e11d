"""Mail by access tokens: a real Dovecot that asks the authorization server about each of them."""

import contextlib
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.connector import ROOT
from tests.flow.forked import ForkedConnector
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.oauth import CLIENT, SECRET, OAuthServer, oauth_server

_PASSDB = """
auth_mechanisms = plain xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {file}
}}
"""
_INTROSPECTION = """
introspection_mode = post
introspection_url = http://127.0.0.1:{port}/introspect
username_attribute = username
active_attribute = active
active_value = true
"""
MESSAGES = sample_messages(3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OAuthServer]:
    with oauth_server(tmp_path) as running:
        yield running


@pytest.fixture
def provider(tmp_path: Path, server: OAuthServer) -> Iterator[Dovecot]:
    folder = tmp_path / "provider"
    folder.mkdir()
    file = folder / "dovecot-oauth2.conf.ext"
    file.write_text(_INTROSPECTION.format(port=server.url.rpartition(":")[2]))
    with dovecot(folder, {"sales": "x"}, extra=_PASSDB.format(file=file)) as running:
        yield running


@pytest.fixture
def product(tmp_path: Path) -> Iterator[ForkedConnector]:
    (tmp_path / "product").mkdir()
    with contextlib.closing(ForkedConnector(tmp_path / "product")) as installation:
        yield installation


@pytest.fixture
def place(tmp_path: Path, product: ForkedConnector, provider: Dovecot) -> Place:
    return Place(product, provider, tmp_path / "mail")


def account(place: Place, server: OAuthServer, **oauth: object) -> dict[str, object]:
    keys = place.account("sales") | {"host": "localhost"}
    del keys["password"]
    table = {
        "flow": "code",
        "client_id": CLIENT,
        "client_secret": SECRET,
        "token_url": server.token_url,
        "authorize_url": f"{server.url}/authorize",
        "device_url": f"{server.url}/device",
        "scope": "pop offline_access",
        **oauth,
    }
    return keys | {f"oauth.{key}": value for key, value in table.items()}


class Person:
    """Who runs ``account authorize``, and has a browser."""

    def __init__(self, place: Place, whose: str = "sales", *options: str) -> None:
        command = [sys.executable, "-m", "services", "--config", str(place.product.config)]
        self._process = subprocess.Popen(
            [*command, "account", "authorize", whose, *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._killer = threading.Timer(120, self._process.kill)
        self._killer.start()
        self.said = ""

    def read_until(self, beginning: str) -> str:
        """Return the first line that begins so."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            self.said += line
            if line.strip().startswith(beginning):
                return line.strip()
        raise AssertionError(self.said + self.end()[1])

    def browse(self) -> str:
        """Open the address that is printed, and go where it leads; return the page."""
        with urllib.request.urlopen(self.read_until("http://"), timeout=30) as page:
            text: str = page.read().decode()
        return text

    def end(self, pasted: str = "") -> tuple[int, str]:
        """Return the exit status, and all that was printed."""
        out, err = self._process.communicate(pasted, timeout=120)
        self._killer.cancel()
        return self._process.returncode, self.said + out + err


@pytest.mark.parametrize("auth", ["auto", "xoauth2", "oauthbearer"])
def test_a_client_by_its_own_secret_has_one_token_for_many_polls(
    place: Place, server: OAuthServer, auth: str
) -> None:
    place.put("sales", MESSAGES[:1])
    place.configure(account(place, server, flow="client_credentials") | {"auth": auth})
    status, summary = place.once()
    assert (status, summary["delivered"]) == (0, 1), place.product.tail()
    place.put("sales", MESSAGES[1:2])
    assert place.once()[1]["delivered"] == 1
    assert server.outcomes() == ["tokens"]
    server.revoke()  # refused before its time, it is renewed in the same poll
    place.put("sales", MESSAGES[2:])
    assert place.once()[1]["delivered"] == 1
    assert server.outcomes() == ["tokens", "tokens"]
    assert place.all_well()
    database = (place.product.folder / "data" / "state.db").read_bytes()
    assert b"access-" not in database
    assert SECRET.encode() not in database


def test_a_person_authorizes_in_a_browser_and_mail_comes_from_then_on(
    place: Place, server: OAuthServer
) -> None:
    place.put("sales", MESSAGES)
    place.configure(account(place, server))
    status, summary = place.once()
    assert (status, summary["accounts_failed"]) == (1, 1)
    said = " ".join(place.product.cli("accounts", "sales").stdout.split())
    assert "nobody has authorized it yet. Run: pop3-connector account authorize sales" in said
    person = Person(place)
    assert "go back to the terminal" in person.browse()
    status, said = person.end()
    assert status == 0, said
    assert "account sales is authorized" in said
    assert "http://localhost:" in said
    (asked,) = server.log("/authorize")
    assert (asked["scope"], asked["login_hint"]) == ("pop offline_access", "sales")
    assert place.once()[1]["delivered"] == len(MESSAGES)
    assert place.all_well()
    for entry in server.log():
        assert entry.get("code_verifier", "x") not in said
        assert entry.get("client_secret") == SECRET


def test_where_the_browser_runs_elsewhere_its_address_is_pasted(
    place: Place, server: OAuthServer
) -> None:
    place.configure(account(place, server))
    person = Person(place)
    address = person.read_until("http://")

    class Elsewhere(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    with pytest.raises(urllib.error.HTTPError) as stopped:
        urllib.request.build_opener(Elsewhere).open(address, timeout=30)
    shown = stopped.value.headers["Location"]
    other = shown.replace("state=", "state=x")
    status, said = person.end(f"hello\n\n{other}\n{shown}\n")
    assert status == 0, said
    assert said.count("That is not the answer") == 2
    assert "account sales is authorized" in said


def test_the_device_flow_waits_for_the_person(place: Place, server: OAuthServer) -> None:
    place.configure(account(place, server, flow="device"))
    person = Person(place)
    person.read_until("WDJB-MJHT")
    server.decide()
    status, said = person.end()
    assert (status, "account sales is authorized" in said) == (0, True), said
    assert server.outcomes()[-1] == "tokens"
    assert set(server.outcomes()[:-1]) <= {"authorization_pending"}


@pytest.mark.parametrize(("say", "expected"), [("denied", "access_denied"), ("expired", "expired")])
def test_the_device_flow_that_is_refused_offers_the_other(
    place: Place, server: OAuthServer, say: str, expected: str
) -> None:
    place.configure(account(place, server, flow="device"))
    person = Person(place)
    person.read_until("WDJB-MJHT")
    server.decide(say)
    status, said = person.end()
    assert status == 1
    assert expected in said
    assert "Many tenants block the device flow" in said
    assert "--flow code" in said


def test_a_person_who_refuses_is_told_so(place: Place, server: OAuthServer) -> None:
    server.set(deny=True)
    place.configure(account(place, server))
    person = Person(place)
    assert "The terminal says why" in person.browse()
    status, said = person.end()
    assert status == 1
    assert "account sales: localhost:" in said
    assert "access_denied: the person said no" in said


def test_an_authorization_that_would_end_within_the_hour_is_none(
    place: Place, server: OAuthServer
) -> None:
    server.set(refresh=False)
    place.configure(account(place, server))
    person = Person(place)
    person.browse()
    status, said = person.end()
    assert status == 1
    assert "it gave no refresh token" in said
    assert "offline_access" in said


def test_an_app_in_testing_is_warned_of(place: Place, server: OAuthServer) -> None:
    server.set(refresh_expires_in=7 * 86_400)
    place.configure(account(place, server))
    person = Person(place)
    person.browse()
    status, said = person.end()
    assert status == 0
    assert "warning: account sales: its authorization ends on" in said
    assert "Testing" in said
    for command in (["accounts"], ["accounts", "sales"], ["check-config", "--connect"]):
        shown = place.product.cli(*command)
        assert "its authorization ends on" in shown.stdout + shown.stderr, command


def test_what_is_revoked_is_one_alarm_and_mail_comes_at_once_when_authorized_anew(
    place: Place, server: OAuthServer
) -> None:
    place.configure(account(place, server, flow="code"))
    person = Person(place)
    person.browse()
    assert person.end()[0] == 0
    server.revoke(grants=True)
    place.put("sales", MESSAGES)
    product = place.product
    product.start("run")
    product.wait(lambda: product.count("run", "account failed") == 1, "the refusal")
    (failed,) = [e for e in product.events("run") if e["event"] == "account failed"]
    assert "Run: pop3-connector account authorize sales" in failed["reason"]
    asked = len(server.log())
    product.wait(lambda: product.count("run", "account failed") == 1, "no other")
    person = Person(place)
    person.browse()
    assert person.end()[0] == 0
    product.wait(lambda: product.count("run", "delivered") == len(MESSAGES), "the mail")
    assert product.stop("run") == 0
    assert len(server.log()) == asked + 1  # the code of the person: nothing was asked in between
    assert place.all_well()
    log = (product.folder / "run.log").read_text()
    for entry in server.log():
        for key in ("refresh_token", "client_secret", "code"):
            assert json.dumps(entry.get(key, "\0"))[1:-1] not in log


def test_a_token_that_the_mail_server_does_not_take_is_renewed_once_in_a_poll(
    place: Place, server: OAuthServer
) -> None:
    place.configure(account(place, server))
    person = Person(place)
    person.browse()
    assert person.end()[0] == 0
    server.set(username="somebody else")
    status, summary = place.once()
    assert (status, summary["accounts_failed"]) == (1, 1)
    assert server.outcomes() == ["tokens", "tokens"]  # of the person, and the renewal
    (reason,) = place.reasons()
    assert "localhost" in reason
    assert "access-" not in reason


def test_mail_goes_into_a_mailbox_elsewhere_by_access_tokens(
    place: Place, server: OAuthServer
) -> None:
    keys = account(place, server, flow="client_credentials")
    url = f"imap://localhost:{place.provider.imap}/Old?tls=none"
    table: dict[str, object] = {"url": url, "username": "sales"}
    table |= {key: value for key, value in keys.items() if key.startswith("oauth.")}
    sales = place.account("sales", password="x", destination="away")
    place.configure(sales, url=None, **{"destinations.away": table})
    folder = place.provider.maildir("sales") / ".Old" / "new"
    for count, message in enumerate(MESSAGES, 1):
        place.put("sales", [message])
        status, summary = place.once()
        assert (status, summary["delivered"]) == (0, 1), place.product.tail()
        assert len(list(folder.iterdir())) == count
        server.revoke()  # refused before its time, it is renewed in the same delivery
    assert set(server.outcomes()) == {"tokens"}


def test_a_destination_that_a_person_authorizes_gets_mail_by_imap(
    place: Place, server: OAuthServer
) -> None:
    oauth = {k: v for k, v in account(place, server).items() if k.startswith("oauth.")}
    url = f"imap://localhost:{place.provider.imap}/Arrived?tls=none"
    away = {"url": url, "username": "sales", **oauth}
    keys = place.account("sales", destination="away", password="x")
    place.configure(keys, url=None, **{"destinations.away": away})
    place.put("sales", MESSAGES)
    person = Person(place, "away", "--destination")
    person.browse()
    status, said = person.end()
    assert (status, "destination away is authorized" in said) == (0, True), said
    status, summary = place.once()
    assert (status, summary["delivered"]) == (0, len(MESSAGES)), place.product.tail()
    arrived = [path.read_bytes() for path in place.provider.maildir("sales").glob(".Arrived/*/*")]
    assert sum(b"X-POP3-Connector-Id" in message for message in arrived) == len(MESSAGES)
    assert "reached imap://localhost" in place.product.cli("check-config", "--connect").stdout


def test_what_a_poll_would_do_is_told_by_a_login_with_a_token(
    place: Place, server: OAuthServer
) -> None:
    place.put("sales", MESSAGES)
    place.configure(account(place, server, flow="client_credentials"))
    done = place.product.cli("account", "test", "sales")
    assert done.returncode == 0, done.stderr
    assert "xoauth2" in done.stdout.lower()
