"""What the accounts of an mpoprc become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postmaster.moving.found import Found, Wrong
from services.postmaster.moving.mpop import read as reader
from services.postmaster.moving.options import fingerprint
from tests.unit.postmaster.moving.reading import left, only, read, url

PLAIN = "account a\nhost pop.example.net\nuser x\npassword y\ndelivery maildir /m\n"


def found(text: str) -> Found:
    return read(reader, text)


def test_an_account_takes_over_what_defaults_and_others_say() -> None:
    text = """# mine
defaults
tls on
keep on

account provider
host pop.example.net
tls_starttls off
delivery maildir ~/Mail/in box
timeout 33

account work : provider
user "joe smith"
passwordeval gpg -d "~/.pw"

account home : provider, work
user ann@example.net
password secret
keep off
skipsize 20m
"""
    result = found(text)
    work, home = result.accounts
    assert work.keys == {
        "host": "pop.example.net",
        "tls": "implicit",
        "username": "joe smith",
        "keep": "forever",
        "timeout": "33s",
        "password_command": """sh -c '(gpg -d "~/.pw") | head -n 1'""",
        "mailbox": "joe-smith@pop.example.net",
    }
    assert work.delivery is not None
    assert work.delivery.url == "maildir:///home/ann/Mail/in%20box"
    assert (home.keys["keep"], home.keys["max_size"]) == ("delete", "20MiB")
    assert (home.keys["password"], home.keys["mailbox"]) == ("secret", "ann@example.net")
    assert left(result) == []
    assert [str(path) for path in home.maildrop.records] == [
        "/home/ann/.mpop_uidls/ann@example.net_at_pop.example.net",
        "/home/ann/.mpop_uidls",
    ]


@pytest.mark.parametrize(
    ("more", "tls"),
    [
        ("", "none"),
        ("tls off", "none"),
        ("tls", "starttls"),
        ("tls on\ntls_starttls", "starttls"),
        ("tls on\ntls_starttls off", "implicit"),
        ("tls_starttls off", "none"),
    ],
)
def test_tls(more: str, tls: str) -> None:
    assert only(found(f"{PLAIN}{more}\n")).keys["tls"] == tls


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        ("maildir ~/Mail/", "maildir:///home/ann/Mail"),
        ("exchange /srv/Pickup", "pickup:///srv/Pickup"),
        ("mbox ~/mbox", None),
        ("mda /usr/bin/procmail -d x", None),
        ("maildir /m{x}", None),
        ("maildir here", None),
    ],
)
def test_where_it_goes(delivery: str, expected: str | None) -> None:
    result = found(PLAIN.replace("maildir /m", delivery))
    assert url(result) == expected
    assert left(result) == ([] if expected else [f"rc:5: delivery {delivery.split()[0]} ..."])


def test_what_cannot_be_carried_over_is_told_with_its_line() -> None:
    text = f"""{PLAIN}filter grep x
only_new off
killsize 1m
tls_certcheck off
eval pass show x
ntlmdomain corp
pipelining auto
frobnicate 7
"""
    assert [line.split()[1] for line in left(found(text))] == [
        "filter",
        "only_new",
        "tls_certcheck",
        "eval",
        "ntlmdomain",
        "frobnicate",
        "killsize",
    ]


def test_of_commands_that_may_hold_secrets_nothing_is_told() -> None:
    result = found(f"{PLAIN}eval echo password hunter2\nfilter grep hunter2\n")
    assert left(result) == ["rc:6: eval", "rc:7: filter grep ..."]


def test_an_account_without_a_user_is_completed_by_hand() -> None:
    assert only(found(PLAIN.replace("user x\n", ""))).lacks == "a username"


def test_what_is_too_large_is_left_where_it_was_left_before() -> None:
    assert only(found(f"{PLAIN}keep on\nkillsize 30k\n")).keys["max_size"] == "30KiB"


def test_a_password_is_looked_for_in_netrc() -> None:
    text = PLAIN.replace("password y\n", "")
    assert only(found(text.replace("user x", "user sales"))).keys["password"] == "of netrc"
    assert left(found(text)) == ["rc:1: no password"]


def test_a_proxy_and_an_address_to_come_from() -> None:
    keys = only(found(f"{PLAIN}proxy_host tor\nproxy_port 9050\nsource_ip 192.0.2.1\n")).keys
    assert (keys["proxy"], keys["bind"]) == ("socks5://tor:9050", "192.0.2.1")


def test_logins_by_name() -> None:
    assert only(found(f"{PLAIN}auth scram-sha-256\n")).keys["auth"] == "scram-sha-256"
    assert "auth" not in only(found(f"{PLAIN}auth on\n")).keys
    for method in ("xoauth2", "gssapi"):
        assert left(found(f"{PLAIN}auth {method}\n")) == [f"rc:6: auth {method}"]


def test_what_goes_with_tls_alone_stays_behind_without_it() -> None:
    more = f"tls_cert_file /c\ntls_key_file /k\ntls_fingerprint {'AB:' * 31}CD\n"
    keys = {"client_cert", "client_key", "tls_fingerprint"}
    assert only(found(PLAIN + more)).keys.keys().isdisjoint(keys)
    assert only(found(f"{PLAIN}tls on\n{more}")).keys.keys() >= keys


def test_fingerprints_of_sha_256_alone_are_carried_over() -> None:
    assert fingerprint("AB:" * 31 + "CD") == f"sha256:{'ab' * 31}cd"
    with pytest.raises(ValueError, match="SHA-256"):
        fingerprint("AB:" * 15 + "CD")


@pytest.mark.parametrize(
    "text", ["host x\n", "account\n", "account a : b\n", "account a\naccount a\n"]
)
def test_a_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Wrong, match="rc:"):
        found(text)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    try:
        found(PLAIN + text)
    except Wrong:
        return
