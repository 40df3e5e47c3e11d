"""Providers and networks that fail in the middle of a session: nothing lost, nothing altered."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.audit import Tally
from tests.flow.place import Place
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.process import accepts, running, wait_until
from tests.servers.proxy import Proxy, proxy

MANY = [f"user{n:02}" for n in range(50)]
NEVER = 10_000.0
"""Seconds after which no test still runs."""

SMALL = sample_messages(150, seed=1, max_size=20_000)
LAST_IS_LARGE = sample_messages(20, seed=2)
CUTS = {
    "small": (SMALL, sum(map(len, SMALL[:100]))),
    "large": (LAST_IS_LARGE, sum(map(len, LAST_IS_LARGE)) - 100_000),
}
"""Messages by user, and the bytes after which they are cut off: in one of many that are underway,
and in the middle of one that streams into the spool."""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    # One session for each mailbox at a time.
    users = dict.fromkeys(
        (*MANY, *CUTS, "short", "tls", "slow", "mute", "busy", "direct"), "secret"
    )
    folder = tmp_path_factory.mktemp("provider")
    with dovecot(folder, users, extra="mail_max_userip_connections = 1") as server:
        yield server


@pytest.fixture
def network(provider: Dovecot) -> Iterator[Proxy]:
    with proxy(provider.pop3) as between:
        yield between


@pytest.mark.parametrize("user", CUTS)
def test_a_network_that_is_cut_in_the_middle_of_a_message(
    place: Place, network: Proxy, user: str
) -> None:
    messages, network.cut_after = CUTS[user]
    place.put(user, messages)
    place.configure(place.account(user, port=network.port))
    status, summary = place.once()
    # The message at which it was cut comes with the next poll; without QUIT, nothing is deleted.
    left = len(place.provider.files(user))
    assert network.cuts >= 1
    assert 0 < summary["fetched"] == summary["delivered"] < len(messages)
    assert left >= len(messages) - summary["fetched"]
    assert left == (len(messages) - summary["fetched"] if status == 0 else len(messages))
    assert place.blobs() == []
    network.cut_after = None
    assert place.once()[0] == 0
    assert place.all_well()
    assert place.provider.files(user) == []


def test_a_network_that_cuts_every_session_short(place: Place, network: Proxy) -> None:
    """Each session brings some of the messages; the last ones, with none to fetch, delete."""
    place.put("short", sample_messages(40, seed=7, max_size=20_000))
    place.configure(place.account("short", port=network.port))
    network.cut_after = 60_000
    while place.provider.files("short"):
        place.once()
        assert network.connections < 40
    assert network.cuts > 2
    assert place.all_well()


def test_bytes_that_are_altered_under_tls(place: Place) -> None:
    place.put("tls", LAST_IS_LARGE)
    with proxy(place.provider.pop3s) as network:
        ca_file = str(place.provider.ca_file)
        place.configure(
            # An altered length may leave both sides waiting for the other.
            place.account("tls", port=network.port, tls="implicit", ca_file=ca_file, timeout="3s")
        )
        for at in (1_000, 150_000):  # in the handshake, in the large message
            network.corrupt_at = at
            place.once()
            tally = place.tally()
            left = len(place.provider.files("tls"))
            assert left >= len(LAST_IS_LARGE) - tally.delivered > 0
            assert (tally.strangers, tally.duplicates) == (0, 0)
            assert tally.delivered < len(LAST_IS_LARGE)
        network.corrupt_at = None
        assert place.once()[0] == 0
    assert place.all_well()
    assert place.provider.files("tls") == []


def test_a_network_that_is_late_and_slow(place: Place, network: Proxy) -> None:
    place.put("slow", sample_messages(40, seed=3))
    place.configure(place.account("slow", port=network.port))
    network.latency, network.rate = 0.1, 500_000
    assert place.once()[0] == 0
    assert place.all_well()
    assert place.provider.files("slow") == []


def test_a_network_that_passes_nothing_on_delays_no_other_account(
    place: Place, network: Proxy
) -> None:
    for user in ("mute", "direct"):
        place.put(user, sample_messages(5, seed=len(user)))
    mute = place.account("mute", port=network.port, timeout="1s")
    place.configure(mute, place.account("direct"))
    network.latency = NEVER
    assert place.once()[0] == 1
    assert [reason for reason in place.reasons() if "1 seconds" not in reason] == []
    assert place.tally() == Tally(10, 5, lost=5)
    assert len(place.provider.files("mute")) == 5
    network.latency = 0.0
    assert place.once()[0] == 0
    assert place.all_well()


def test_a_server_that_is_restarted_in_the_middle_of_a_session(
    place: Place, tmp_path: Path
) -> None:
    with dovecot(tmp_path, {"restart": "secret"}) as server, proxy(server.pop3) as network:
        place.provider = server
        messages = sample_messages(150, seed=4)
        place.put("restart", messages)
        place.configure(place.account("restart", port=network.port))
        network.rate = 1_000_000
        middle = sum(map(len, messages)) // 2
        place.product.start("run --once")
        process = place.product.processes.pop("run --once")
        wait_until(lambda: network.passed > middle, "the middle of the session")
        with restarted(server):
            process.wait(60)
            network.rate = 0
            assert place.once()[0] == 0
            assert place.all_well()
            assert server.files("restart") == []


@contextlib.contextmanager
def restarted(server: Dovecot) -> Iterator[None]:
    """Kill a Dovecot with all its sessions, and run it again until the block ends."""
    base = server.home.parent
    pid_file = base / "run" / "master.pid"
    os.killpg(int(pid_file.read_text()), signal.SIGKILL)
    pid_file.unlink()  # nobody has waited for that process yet, so it looks alive
    wait_until(lambda: not accepts(server.pop3), "Dovecot to end")
    command = ["dovecot", "-F", "-c", str(base / "dovecot.conf")]
    with running(command, server.log, lambda: accepts(server.pop3)):
        yield


def test_a_maildrop_that_another_client_holds(place: Place) -> None:
    place.put("busy", sample_messages(3, seed=5))
    place.put("direct", sample_messages(3, seed=6))
    place.configure(place.account("busy"), place.account("direct"))
    product = place.product
    with client(place.provider, "busy"):
        product.start("run")
        product.wait(lambda: place.tally().delivered == 3, "the mail of the other account")
        product.wait(lambda: product.count("run", "account failed") > 1, "refusals")
        refused = [e for e in product.events("run") if e["event"] == "account failed"]
        assert {e["account"] for e in refused} == {"busy"}
        assert {e["again_in"] for e in refused} == {0}  # not backed off: that client leaves soon
        # Dovecot 2.4 says it without the response code.
        said = ("[IN-USE]", "Maximum number of connections")
        reasons = [e["reason"] for e in refused]
        assert [r for r in reasons if not any(words in r for words in said)] == []
        assert len(place.provider.files("busy")) == 3
    product.wait(place.all_well, "all mail")
    assert product.stop("run") == 0


@contextlib.contextmanager
def client(server: Dovecot, user: str) -> Iterator[None]:
    """Hold a POP3 session until the block ends."""
    with socket.create_connection((server.host, server.pop3), timeout=30) as connection:
        stream = connection.makefile("rwb")
        for line in (b"", b"USER %s\r\n" % user.encode(), b"PASS secret\r\n"):
            stream.write(line)
            stream.flush()
            assert stream.readline().startswith(b"+OK")
        yield
        stream.write(b"QUIT\r\n")
        stream.flush()
        assert stream.read().startswith(b"+OK")


def test_a_wrong_password_on_one_account_of_fifty(place: Place) -> None:
    for n, user in enumerate(MANY):
        place.put(user, sample_messages(2, seed=100 + n, max_size=5_000))
    accounts = [place.account(user) for user in MANY]
    accounts[17]["password"] = "wrong"
    place.configure(*accounts)
    status, summary = place.once()
    assert (status, summary["accounts"]) == (1, 50)
    (reason,) = place.reasons()
    assert "[AUTH]" in reason
    assert place.tally() == Tally(100, 98, lost=2)
    assert {user for user in MANY if place.provider.files(user)} == {MANY[17]}
    accounts[17]["password"] = "secret"
    place.configure(*accounts)
    assert place.once()[0] == 0
    assert place.all_well()
