"""What an rc file of getmail becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postmaster.moving.found import Found, Wrong
from services.postmaster.moving.getmail import oldmail
from services.postmaster.moving.getmail import read as reader
from tests.unit.postmaster.moving.reading import left, only, read, url

RETRIEVER = """[retriever]
type = SimplePOP3SSLRetriever
server = pop.example.net
username = joe
password = se cret
"""
MAILDIR = "[destination]\ntype = Maildir\npath = ~/Mail/\n"


def found(text: str) -> Found:
    return read(reader, text)


def test_a_file_as_in_the_manual() -> None:
    text = f"""{RETRIEVER}{MAILDIR}
[options]
delete_after = 14
read_all = false
verbose = 2
max_message_size = 9000
message_log = ~/.getmail/log
"""
    account = only(found(text))
    assert account.keys == {
        "host": "pop.example.net",
        "tls": "implicit",
        "username": "joe",
        "keep": "14d",
        "max_size": 9000,
        "password": "se cret",
        "mailbox": "joe@pop.example.net",
    }
    assert (url(found(text)), left(found(text))) == ("maildir:///home/ann/Mail", [])
    assert account.maildrop.records[0].name == "oldmail-pop.example.net-995-joe"


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ("", "forever"),
        ("delete = true", "delete"),
        ("delete = True\ndelete_after = 3", "delete"),
        ("delete_after = 3", "3d"),
        ("delete = false\ndelete_after: 0", "forever"),
    ],
)
def test_what_stays_at_the_server(options: str, keep: str) -> None:
    assert only(found(f"{RETRIEVER}{MAILDIR}[options]\n{options}\n")).keys["keep"] == keep


@pytest.mark.parametrize(
    ("destination", "expected", "mailbox"),
    [
        ("type = MDA_lmtp\nhost = mx\nport = 2424", "lmtp://mx:2424", "joe@pop.example.net"),
        ("type = MDA_lmtp\nhost = /run/lmtp\noverride = ann", "lmtp+unix:///run/lmtp", "ann"),
        ("type = MDA_external\npath = /usr/bin/maildrop", None, "joe@pop.example.net"),
        ("type = Mboxrd\npath = ~/mbox", None, "joe@pop.example.net"),
        ("type = MultiDestination\ndestinations = ('~/M/',)", "maildir:///home/ann/M", None),
        ("type = MultiDestination\ndestinations = ('[x]',)\n[x]\ntype=Maildir\npath=/m/",
         "maildir:///m", None),
        ("type = MultiDestination\ndestinations = ('/a/', '/b/')", None, None),
        ("type = MultiDestination\ndestinations = (open('x'),)", None, None),
        ("type = MultiDestination\ndestinations = ('[y]',)", None, None),
        ("type = MultiSorter\ndefault = /m/", None, None),
    ],
)  # fmt: skip
def test_where_it_goes(destination: str, expected: str | None, mailbox: str | None) -> None:
    result = found(f"{RETRIEVER}[destination]\n{destination}\n")
    assert url(result) == expected
    assert len(left(result)) == (expected is None)
    if mailbox is not None:
        assert only(result).keys["mailbox"] == mailbox


def test_certificates() -> None:
    digest = "AB:" * 31 + "CD"
    text = f"{RETRIEVER}certfile = /c\nkeyfile = ~/k\nca_certs = /ca\n"
    keys = only(found(f"{text}ssl_fingerprints = ('{digest}',)\n{MAILDIR}")).keys
    assert (keys["client_cert"], keys["ca_file"]) == ("/c", "/ca")
    assert keys["tls_fingerprint"] == f"sha256:{'ab' * 31}cd"
    plain = f"{text}{MAILDIR}".replace("SimplePOP3SSL", "SimplePOP3")
    assert "client_cert" not in only(found(plain)).keys


def test_a_command_for_the_password_is_one_for_us() -> None:
    text = RETRIEVER.replace("password = se cret", 'password_command = ("pass", "show", "my mail")')
    assert only(found(text + MAILDIR)).keys["password_command"] == "pass show 'my mail'"


def test_a_password_is_looked_for_in_netrc() -> None:
    text = RETRIEVER.replace("password = se cret\n", "") + MAILDIR
    keys = only(found(f"{text}[options]\nuse_netrc = true\n")).keys
    assert (keys["username"], keys["password"]) == ("sales", "of netrc")
    assert left(found(text)) == ["rc:2: no password"]


def test_what_cannot_be_carried_over_is_told_with_its_line() -> None:
    text = f"""{RETRIEVER}keyfile = /k
certfile = /c
ssl_cert_hostname = x
{MAILDIR}user = joe
[filter-1]
type = Filter_external
path = /bin/spam
[options]
read_all = true
delete_bigger_than = 5
received = false
"""
    assert sorted(left(found(text))) == [
        "rc:12: user joe",
        "rc:14: [filter-1]",
        "rc:17: read_all true",
        "rc:18: delete_bigger_than 5",
        "rc:19: received false",
        "rc:8: ssl_cert_hostname x",
    ]


@pytest.mark.parametrize(
    ("kind", "what"),
    [("MultidropPOP3Retriever", "enabled"), ("BrokenUIDLPOP3Retriever", "")],
)
def test_retrievers_that_are_not_simple_are_told(kind: str, what: str) -> None:
    result = found(RETRIEVER.replace("SimplePOP3SSLRetriever", kind) + MAILDIR)
    assert left(result) == [f"rc:2: type {kind}"]
    assert only(result).keys["tls"] == "none"
    assert ("enabled" in only(result).keys) == bool(what)


def test_imap_becomes_no_account() -> None:
    result = found(RETRIEVER.replace("POP3", "IMAP") + MAILDIR)
    assert (result.accounts, left(result)) == ([], ["rc:2: type SimpleIMAPSSLRetriever"])


def test_the_name_of_the_file_is_getmails() -> None:
    assert oldmail("a.net", 110, "x/y:z") == "oldmail-a.net-110-x-y-z"


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "[retriever]\nserver = x\n"),
        "[retriever]\nserver = x\n[destination]\ntype = Maildir\n",
    ],
)
def test_a_file_that_is_none_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(Wrong) as caught:
        found(text)
    assert "nonsense" not in str(caught.value)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    try:
        found(f"{RETRIEVER}{MAILDIR}{text}")
    except Wrong:
        return
