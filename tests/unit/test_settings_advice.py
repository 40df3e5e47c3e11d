"""What a configuration may say, and is warned of."""

from pathlib import Path

import pytest

from shared.settings.advice import warnings
from shared.settings.load import load
from tests.unit.configurations import written

ACCOUNT = """
[[account]]
name = "{name}"
host = "{host}"
username = "{user}"
password = "hunter2"
mailbox = "{mailbox}"
{more}
"""


def account(
    name: str,
    host: str = "pop.example.net",
    user: str = "sales",
    mailbox: str = "sales@corp.example",
    more: str = "",
) -> str:
    return ACCOUNT.format(name=name, host=host, user=user, mailbox=mailbox, more=more)


def said(tmp_path: Path, *texts: str, delivery: str = "smtp://mail", start: str = "") -> list[str]:
    start = start or 'data_dir = "/srv/mine"'
    path = written(tmp_path, "\n".join([start, f'[delivery]\nurl = "{delivery}"', *texts]))
    return warnings(load(path, {}), path)


class TestOneMaildropInTwoAccounts:
    @pytest.mark.parametrize(
        "other",
        [
            account("b"),
            account("b", "POP.example.net."),
            account("b", user="Sales"),
            account("b", more='tls = "starttls"'),
            account("b", more='mailbox = "else@corp.example"').replace(
                'mailbox = "sales@corp.example"', ""
            ),
        ],
    )
    def test_is_said(self, tmp_path: Path, other: str) -> None:
        (found,) = said(tmp_path, account("a"), other)
        assert found.startswith("accounts a, b fetch from one maildrop (sales at pop.example.net)")
        assert "hunter2" not in found

    @pytest.mark.parametrize(
        "other",
        [
            account("b", "pop.example.org"),
            account("b", user="info"),
            account("b", more="port = 1995"),
            account("b", more="enabled = false"),
        ],
    )
    def test_and_what_is_none_is_not(self, tmp_path: Path, other: str) -> None:
        assert said(tmp_path, account("a"), other) == []

    @pytest.mark.parametrize("other", ["127.0.0.1", "::1", "127.0.1.1", "LocalHost.", "0:0:0::1"])
    def test_this_machine_has_several_names(self, tmp_path: Path, other: str) -> None:
        (found,) = said(tmp_path, account("a", "localhost"), account("b", other))
        assert found.startswith("accounts a, b fetch from one maildrop")

    def test_many_are_counted(self, tmp_path: Path) -> None:
        (found,) = said(tmp_path, *(account(name) for name in "abcde"))
        assert found.startswith("accounts a, b, c and 2 more fetch from one maildrop")


class TestOneMaildirForSeveralMailboxes:
    accounts = (
        account("a", mailbox="sales@corp.example"),
        account("b", user="info", mailbox="info@corp.example"),
        account("c", user="there", mailbox="info@other.example"),
    )

    @pytest.mark.parametrize(
        ("template", "mixed"),
        [
            ("maildir:///srv/mail", "sales@corp.example, info@corp.example, info@other.example;"),
            ("maildir:///srv/{domain}", "sales@corp.example, info@corp.example;"),
            ("maildir:///srv/{local}", "info@corp.example, info@other.example;"),
            ("maildir:///srv/%7Blocal%7D", "info@corp.example, info@other.example;"),
        ],
    )
    def test_is_said(self, tmp_path: Path, template: str, mixed: str) -> None:
        (found,) = said(tmp_path, *self.accounts, delivery=template)
        assert f"{template} is one Maildir for {mixed}" in found

    @pytest.mark.parametrize(
        "delivery",
        ["maildir:///srv/{mailbox}", "maildir:///srv/{domain}/{local}", "smtp://m", "pickup:///p"],
    )
    def test_and_what_keeps_them_apart_is_not(self, tmp_path: Path, delivery: str) -> None:
        assert said(tmp_path, *self.accounts, delivery=delivery) == []

    def test_each_destination_has_its_own(self, tmp_path: Path) -> None:
        more = 'destination = "archive"'
        texts = (account("a"), account("b", user="b", mailbox="info@corp.example", more=more))
        archive = '[destinations.archive]\nurl = "maildir:///srv/archive"'
        assert said(tmp_path, archive, *texts, delivery="maildir:///srv/mail") == []


class TestARelativeDataDirectory:
    def test_is_said_with_what_to_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (found,) = said(tmp_path, account("a"), start='data_dir = "data"')
        assert f'Write data_dir = "{tmp_path}/data"' in found

    def test_and_is_nobodys_business_where_nothing_is_kept_in_it(self, tmp_path: Path) -> None:
        remote = '[broker]\nurl = "amqp://h"\n[state]\nurl = "sqlite:////x"\n[spool]\nurl = "/s"'
        assert said(tmp_path, remote, account("a"), start='data_dir = "data"') == []


class TestPickupOfExchange:
    @pytest.mark.parametrize(
        "url",
        [
            "pickup:///mnt/Exchange/TransportRoles/Pickup",
            "pickup:///mnt/exchange/transportroles/pickup?staging=/mnt/exchange/new",
        ],
    )
    def test_it_would_send_to_everybody_once_more(self, tmp_path: Path, url: str) -> None:
        (warning,) = said(tmp_path, account("sales"), delivery=url)
        assert "destination default: " in warning
        assert "Use replay://" in warning

    @pytest.mark.parametrize(
        "url", ["replay:///mnt/TransportRoles/Replay", "pickup:///mnt/Mailroot/Pickup"]
    )
    def test_what_takes_our_envelope_is_no_reason_to_warn(self, tmp_path: Path, url: str) -> None:
        assert said(tmp_path, account("sales"), delivery=url) == []


@pytest.mark.parametrize(("mode", "warned"), [(0o777, True), (0o1777, True), (0o755, False)])
def test_a_place_that_everybody_can_write_into_is_said(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    place = tmp_path / "my data"
    place.mkdir()
    place.chmod(mode)
    found = said(tmp_path, account("a"), start=f'data_dir = "{place}"')
    assert any(f"chmod o-w '{place}'" in sentence for sentence in found) == warned


@pytest.mark.parametrize(
    ("host", "more", "warned"),
    [
        ("pop.example.net", 'tls = "none"', True),
        ("127.0.0.1", 'tls = "none"', False),
        ("127.0.0.1", 'tls = "none"\nproxy = "socks5://far.example:1080"', True),
        ("127.0.0.1", 'tls = "starttls"\nproxy = "socks5://far.example:1080"', False),
    ],
)
def test_what_goes_over_a_network_without_tls_is_said(
    tmp_path: Path, host: str, more: str, warned: bool
) -> None:
    found = said(tmp_path, account("a", host=host, more=more))
    assert any("TLS" in warning for warning in found) is warned
