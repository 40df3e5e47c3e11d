"""What the entries of a fetchmailrc become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postmaster.moving.fetchmail import accounts
from services.postmaster.moving.fetchmail.accounts import ROWS
from services.postmaster.moving.fetchmail.accounts import read as reader
from services.postmaster.moving.fetchmail.entries import _FLAGS, _MANY, _ONE
from services.postmaster.moving.found import Found, Wrong
from tests.unit.postmaster.moving.reading import left, only, read, url

PLAIN = 'poll pop.example.net proto pop3 user "x" pass "y" sslproto \'\''


def found(text: str) -> Found:
    return read(reader, text)


def test_an_entry_as_in_the_manual() -> None:
    text = """set daemon 60
poll pop.example.net proto pop3 interval 5
    user "jsmith" there with password "secret1" is "smith" here
    wants keep ssl
"""
    account = only(found(text))
    assert account.keys == {
        "host": "pop.example.net",
        "tls": "implicit",
        "username": "jsmith",
        "keep": "forever",
        "poll_every": "300s",
        "password": "secret1",
        "mailbox": "smith@localhost",
    }
    assert (url(found(text)), left(found(text)), account.lacks) == ("smtp://localhost:25", [], "")
    assert str(account.maildrop.records[0]) == "/home/ann/.fetchids"


@pytest.mark.parametrize(
    ("more", "key", "value"),
    [
        ("", "tls", "none"),
        ("ssl", "tls", "implicit"),
        ("sslproto tls1.2+", "tls", "starttls"),
        ("ssl limit 5000", "max_size", 5000),
        ("", "keep", "delete"),
        ("keep", "keep", "forever"),
        ("keep nokeep", "keep", "delete"),
        ("sslcertfile /etc/ca.pem", "ca_file", "/etc/ca.pem"),
        ("is joe", "mailbox", "joe@localhost"),
        ("is joe@corp.example", "mailbox", "joe@corp.example"),
        ("is joe smtphost mx/2525", "mailbox", "joe@mx"),
        ("is joe smtphost mx smtpaddress corp.example", "mailbox", "joe@corp.example"),
        ("is joe smtpname all@corp.example", "mailbox", "all@corp.example"),
        ("", "mailbox", "ann@localhost"),
        ("service 1100", "port", 1100),
        ("service pop3s", "port", 995),
        ("timeout 33", "timeout", "33s"),
        ("auth cram-md5", "auth", "cram-md5"),
        ("ssl sslcert /c sslkey /k", "client_key", "/k"),
    ],
)
def test_options_become_keys(more: str, key: str, value: object) -> None:
    account = only(found(f"{PLAIN} {more}"))
    assert account.keys[key] == value


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "smtp://localhost:25"),
        ("smtphost mx.corp.example/2525", "smtp://mx.corp.example:2525"),
        ("smtphost mx/24 lmtp", "lmtp://mx:24"),
        ("smtphost /run/dovecot/lmtp lmtp", "lmtp+unix:///run/dovecot/lmtp"),
        ('mda "/usr/bin/procmail -d %T"', None),
        ('bsmtp "/tmp/batch"', None),
        ("smtphost /run/smtp", None),
    ],
)
def test_where_it_goes(more: str, expected: str | None) -> None:
    result = found(f"{PLAIN}\n{more}")
    assert url(result) == expected
    assert (len(left(result)) == 1) == (expected is None)
    assert only(result).lacks == ("" if expected else "a destination")


def test_the_login_at_the_mail_server_goes_along() -> None:
    delivery = only(found(f"{PLAIN} esmtpname me esmtppassword pw")).delivery
    assert delivery is not None
    assert delivery.login == (("username", "me"), ("password", "pw"))


def test_a_program_is_told_what_to_use_in_its_place() -> None:
    (one,) = found(f'{PLAIN} mda "/usr/lib/dovecot/dovecot-lda -d x"').left
    assert "lmtp+unix:///run/dovecot/lmtp" in one.advice


def test_what_cannot_be_carried_over_is_told_with_its_line() -> None:
    text = f"""set postmaster root
{PLAIN}
  preconnect "ssh -f a"
  no sslcertck
  sslfingerprint "00:11"
  flush
  esmtppassword "secret"
"""
    assert left(found(text)) == [
        "rc:1: postmaster root",
        "rc:3: preconnect ssh ...",
        "rc:4: sslcertck no",
        "rc:5: sslfingerprint 00:11",
        "rc:6: flush",
    ]


def test_that_all_is_fetched_again_each_time_is_told() -> None:
    assert left(found(f"{PLAIN} keep fetchall")) == ["rc:1: fetchall"]
    assert left(found(f"{PLAIN} fetchall")) == []


def test_starttls_that_fetchmail_does_without_is_told() -> None:
    result = found("poll pop.example.net proto pop3 user x pass y")
    assert left(result) == ["rc:1: no ssl, and no sslproto"]
    assert only(result).keys["tls"] == "starttls"


@pytest.mark.parametrize("names", ["a b", "x=y", "*", "a *"])
def test_multidrop_is_written_disabled_and_told(names: str) -> None:
    result = found(f"{PLAIN} is {names} here")
    assert only(result).keys["enabled"] is False
    assert left(result) == [f"rc:1: is {names}"]


def test_a_server_that_is_skipped_is_disabled() -> None:
    assert only(found(PLAIN.replace("poll", "skip"))).keys["enabled"] is False


def test_other_protocols_become_no_account() -> None:
    result = found("poll imap.example.net proto imap user x pass y")
    assert (result.accounts, left(result)) == ([], ["rc:1: protocol imap"])


def test_a_password_is_looked_for_in_netrc() -> None:
    text = "poll work via pop.example.net proto pop3 user {} is x here ssl"
    assert only(found(text.format("sales"))).keys["password"] == "of netrc"
    result = found(text.format("other"))
    assert (only(result).lacks, left(result)) == ("a password", ["rc:1: no password"])


def test_records_are_looked_for_by_both_names_of_the_server() -> None:
    result = found('set idfile "~/ids"\n' + PLAIN.replace("poll ", "poll work via "))
    assert only(result).maildrop.hosts == ("pop.example.net", "work")
    assert [str(path) for path in only(result).maildrop.records] == ["/home/ann/ids"]


def test_every_option_has_its_place() -> None:
    known = set(ROWS) | set(accounts._TOGETHER)
    assert known >= (_ONE | _MANY | _FLAGS) - {"envelope"}


@pytest.mark.parametrize(
    "text",
    [
        "this is none",
        "poll",
        "poll a.net user",
        "poll a.net user x frobnicate",
        "poll a.net ssl user x",
    ],
)
def test_a_file_that_is_none_is_refused_and_not_quoted(text: str) -> None:
    try:
        assert found(text).accounts
    except Wrong as error:
        assert "frobnicate" not in str(error)


@given(st.text(alphabet="poluserkidnvt \"'\\=*#\n,1x\0é"))
def test_no_text_is_too_odd(text: str) -> None:
    try:
        found(f"poll a.net {text}")
    except Wrong:
        return


def test_a_limit_that_is_no_number_is_left() -> None:
    assert left(found(f"{PLAIN} limit 10k")) == ["rc:1: limit 10k"]
    assert "max_size" not in only(found(f"{PLAIN} limit 00")).keys


def test_a_file_in_the_home_of_nobody_is_left() -> None:
    text = "poll a.net proto pop3 user x pass y ssl sslcertfile ~nosuchuser/ca.pem"
    assert left(found(text)) == ["rc:1: sslcertfile ~nosuchuser/ca.pem"]
