"""Providers as data: what an account leaves out, and how often it is polled."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fetcher.account import spread
from services.fetcher.wiring import account as account_of
from services.fetcher.wiring import fewer_connections
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.account import AccountSettings
from shared.settings.advice import warnings
from shared.settings.load import load
from shared.settings.model import Settings
from shared.settings.providers import Provider, floor_of, load_providers
from tests.unit.configurations import loaded, refusal

DELIVERY = 'data_dir = "/srv/x"\n[delivery]\nurl = "maildir:///srv/mail/{mailbox}"\n'
OURS = load_providers(None)
FILLED = ("host", "port", "tls", "auth")


def account(**keys: str | int) -> str:
    """Return the table of an account with a password and these keys."""
    whole = {"name": "a", "username": "anna", "password": "x", "mailbox": "a@corp.example", **keys}
    lines = (f"{k} = {v}" if isinstance(v, int) else f'{k} = "{v}"' for k, v in whole.items())
    return "[[account]]\n" + "\n".join(lines) + "\n"


def one(tmp_path: Path, text: str) -> AccountSettings:
    (found,) = loaded(tmp_path, DELIVERY + text).accounts
    return found


def with_rows(tmp_path: Path, rows: str, text: str) -> Settings:
    """Return what a configuration with a file of providers comes to."""
    (tmp_path / "mine.toml").write_text(rows)
    return loaded(tmp_path, f'providers_file = "{tmp_path}/mine.toml"\n{DELIVERY}{text}')


class TestTheRowsThatComeWithIt:
    @pytest.mark.parametrize("name", OURS)
    def test_say_where_their_facts_come_from_and_when(self, name: str) -> None:
        row = OURS[name]
        assert row.checked is not None
        assert row.checked >= date(2026, 12, 1)
        assert row.advice.endswith(".")
        needed = {"host"}
        needed |= {"poll_floor"} if row.poll_floor else set()
        needed |= {"connections"} if row.connections else set()
        needed |= {"quirks"} if row.quirks else set()
        assert needed <= set(row.sources)
        assert all(re.match(r"https?://[^\s]+$", url) for url in row.sources.values())

    def test_are_all_that_people_ask_for(self) -> None:
        wanted = "gmail outlook exchange-online yahoo aol gmx web.de t-online ionos strato ovh zoho"
        wanted += " fastmail orange free libero mail.ru qq 163"
        assert set(wanted.split()) <= set(OURS)

    def test_no_address_belongs_to_two(self) -> None:
        domains = [domain for row in OURS.values() for domain in row.domains]
        assert len(domains) == len(set(domains))

    @given(
        name=st.sampled_from(sorted(OURS)),
        local=st.from_regex(r"[a-z][a-z0-9.]{0,30}", fullmatch=True),
        place=st.integers(min_value=0),
        shout=st.booleans(),
    )
    def test_each_makes_an_account_of_a_user_name_and_a_password(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        local: str,
        place: int,
        shout: bool,
    ) -> None:
        row, folder = OURS[name], tmp_path_factory.mktemp("named")
        named = one(folder, account(provider=name, username=local))
        assert named.provider == name
        assert (named.host, named.tls, named.auth) == (row.host, row.tls, row.auth)
        assert named.port == row.port
        if row.domains:
            domain = row.domains[place % len(row.domains)]
            address = f"{local}@{domain.upper() if shout else domain}"
            found = one(folder, account(username=address))
            assert [getattr(found, key) for key in ("provider", *FILLED)] == [
                getattr(named, key) for key in ("provider", *FILLED)
            ]


class TestWhatAnAccountLeavesOut:
    def test_and_only_that_is_filled_in(self, tmp_path: Path) -> None:
        given: dict[str, str | int] = {
            "host": "pop.corp.example",
            "port": 1995,
            "auth": "plain",
            "poll_every": "1h",
        }
        found = one(tmp_path, account(provider="gmail", **given))
        assert (found.host, found.port, found.auth) == ("pop.corp.example", 1995, "plain")
        assert found.poll_every == 3600
        assert found.provider == "gmail"

    def test_a_port_goes_with_its_tls(self, tmp_path: Path) -> None:
        assert one(tmp_path, account(provider="gmail", tls="starttls")).port == 110

    @pytest.mark.parametrize("key", ["host", "provider"])
    def test_nothing_is_found_from_an_address_where_host_or_provider_stand(
        self, tmp_path: Path, key: str
    ) -> None:
        value = {"host": "pop.corp.example", "provider": "gmx"}[key]
        found = one(tmp_path, account(username="anna@web.de", **{key: value}))
        assert found.provider == (None if key == "host" else "gmx")
        assert found.host == ("pop.corp.example" if key == "host" else "pop.gmx.net")

    def test_a_prefix_of_gmail_is_part_of_the_user_name(self, tmp_path: Path) -> None:
        found = one(tmp_path, account(username="recent:anna@gmail.com"))
        assert (found.host, found.username) == ("pop.gmail.com", "recent:anna@gmail.com")

    @pytest.mark.parametrize("username", ["anna", "anna@corp.example", "anna@"])
    def test_without_host_and_a_known_address_it_is_said_what_to_write(
        self, tmp_path: Path, username: str
    ) -> None:
        (said,) = refusal(tmp_path, DELIVERY + account(username=username))
        assert said.startswith("connector.toml:4: account[0].host: this key is missing: expected")
        assert 'host = "pop.example.net"' in said
        assert 'provider = "gmail"' in said
        assert "pop3-connector providers" in said

    def test_a_provider_that_nobody_knows_is_one_problem(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, DELIVERY + account(provider="gmial")) == [
            "connector.toml:9: account[0].provider: no such provider; did you mean 'gmail'?"
        ]

    def test_a_provider_is_named_in_the_environment_too(self, tmp_path: Path) -> None:
        environ = {"POP3_CONNECTOR__ACCOUNT__A__PROVIDER": "gmx"}
        assert loaded(tmp_path, DELIVERY + account(), environ).accounts[0].host == "pop.gmx.net"


class TestDefaultsOfAccounts:
    defaults = '[defaults]\nkeep = "7d"\nhost = "pop.corp.example"\ntls = "starttls"\nport = 1110\n'

    def test_are_taken_where_an_account_says_nothing(self, tmp_path: Path) -> None:
        text = self.defaults + account() + account(name="b", keep="delete", port=110)
        first, second = loaded(tmp_path, DELIVERY + text).accounts
        assert (first.keep.text, first.host, first.port) == ("7d", "pop.corp.example", 1110)
        assert (second.keep.text, second.port, second.tls) == ("delete", 110, "starttls")

    def test_may_name_a_provider(self, tmp_path: Path) -> None:
        found = one(tmp_path, '[defaults]\nprovider = "gmx"\n' + account())
        assert (found.provider, found.host) == ("gmx", "pop.gmx.net")
        other = one(tmp_path, '[defaults]\nprovider = "gmx"\n' + account(host="pop.corp.example"))
        assert (other.provider, other.host) == (None, "pop.corp.example")

    def test_lead_no_account_with_a_provider_of_its_own_to_another_server(
        self, tmp_path: Path
    ) -> None:
        found = one(tmp_path, self.defaults + account(provider="gmx"))
        assert (found.host, found.port, found.tls) == ("pop.gmx.net", 995, "implicit")
        assert found.keep.text == "7d"

    def test_of_two_ways_to_say_the_same_the_accounts_own_counts(self, tmp_path: Path) -> None:
        text = '[defaults]\npoll_every = "1h"\nclient_cert = "/c"\nclient_key = "/k"\n'
        found = one(tmp_path, text + account(host="h", schedule="every 2h", client_cert="/mine"))
        assert found.schedule is not None
        assert found.schedule[0].every == 7200
        assert (found.client_cert, found.client_key) == (Path("/mine"), None)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("keeep = 1", "5: defaults.keeep: unknown key; did you mean 'keep'?"),
            ('keep = "7"', '5: defaults.keep: expected "delete", "forever" or a duration such as'),
            ('username = "x"', "5: defaults.username: each account has its own: write it below"),
            ('password_file = "x"', "5: defaults.password_file: each account has its own"),
            ('provider = "gmial"', "5: defaults.provider: no such provider; did you mean 'gmail'?"),
            ('destination = "x"\nhost = "h"', "5: defaults.destination: no such destination"),
            ('tls = "none"\nclient_cert = "/c"', "4: defaults: there is no certificate with tls"),
        ],
    )
    def test_what_is_wrong_with_them_is_told_once(
        self, tmp_path: Path, line: str, said: str
    ) -> None:
        text = f"{DELIVERY}[defaults]\n{line}\n" + account() + account(name="b")
        (found,) = [s for s in refusal(tmp_path, text) if "defaults" in s]
        assert found.startswith(f"connector.toml:{said}")

    @pytest.mark.parametrize("text", ["", account(host="h")])
    def test_are_judged_without_any_account(self, tmp_path: Path, text: str) -> None:
        (said,) = refusal(tmp_path, f"{DELIVERY}{text}[defaults]\nkeeep = 1")
        assert "defaults.keeep: unknown key" in said
        (said,) = refusal(tmp_path, f"defaults = 1\n{DELIVERY}{text}")
        assert said == "connector.toml:1: defaults: expected a table of keys"

    def test_from_the_environment(self, tmp_path: Path) -> None:
        environ = {"POP3_CONNECTOR__DEFAULTS__KEEP": "3d", "POP3_CONNECTOR__DEFAULTS__HOST": "h"}
        (found,) = loaded(tmp_path, DELIVERY + account(), environ).accounts
        assert (found.keep.text, found.host) == ("3d", "h")
        environ["POP3_CONNECTOR__DEFAULTS__KEEP"] = "x"
        (said,) = refusal(tmp_path, DELIVERY + account(), environ)
        assert said.startswith("POP3_CONNECTOR__DEFAULTS__KEEP: defaults.keep: expected")


class TestAccessTokens:
    table = '[{}.oauth]\nflow = "{}"\nclient_id = "us"\n{}\n'
    app = table.format("{}", "client_credentials", 'client_secret = "y"\ntenant = "corp.example"')

    def without_password(self, **keys: str) -> str:
        return account(**keys).replace('password = "x"\n', "")

    def test_of_an_application_at_exchange_online(self, tmp_path: Path) -> None:
        text = self.without_password(provider="exchange-online") + self.app.format("account")
        oauth = one(tmp_path, text).oauth
        assert oauth is not None
        assert oauth.endpoint("token_url") == (
            "https://login.microsoftonline.com/corp.example/oauth2/v2.0/token"
        )
        assert oauth.scope == "https://outlook.office365.com/.default"
        assert warnings(loaded(tmp_path, DELIVERY + text), None) == []

    def test_of_a_person_at_gmail_and_what_the_account_says_itself_counts(
        self, tmp_path: Path
    ) -> None:
        own = self.table.format("account", "code", 'token_url = "https://own.example/token"')
        oauth = one(tmp_path, self.without_password(username="anna@gmail.com") + own).oauth
        assert oauth is not None
        assert (
            oauth.endpoint("authorize_url") == OURS["gmail"].model_dump()["oauth"]["authorize_url"]
        )
        assert (oauth.endpoint("token_url"), oauth.scope) == (
            "https://own.example/token",
            "https://mail.google.com/",
        )

    def test_by_the_same_application_for_all_accounts_but_those_with_a_password(
        self, tmp_path: Path
    ) -> None:
        accounts = (
            self.without_password(provider="exchange-online", username="a@corp.example")
            + self.without_password(provider="exchange-online", username="b@corp.example", name="b")
            + account(name="c", provider="gmx")
        )
        text = self.app.format("defaults") + accounts
        *by_token, by_password = loaded(tmp_path, DELIVERY + text).accounts
        assert [table.oauth.scope for table in by_token if table.oauth is not None] == [
            "https://outlook.office365.com/.default"
        ] * 2
        assert (by_password.oauth, by_password.host) == (None, "pop.gmx.net")

    def test_what_is_wrong_with_them_among_the_defaults_is_told_once(self, tmp_path: Path) -> None:
        text = self.app.format("defaults") + "client_idd = 1\n"
        accounts = self.without_password(provider="gmx") + account(name="b", provider="gmx")
        (said,) = refusal(tmp_path, DELIVERY + text + accounts)
        assert said.startswith("connector.toml:9: defaults.oauth.client_idd: unknown key; did you")
        (said,) = refusal(tmp_path, f'{DELIVERY}[defaults]\noauth = "x"\n{account()}')
        assert said == "connector.toml:5: defaults.oauth: expected a table of keys"

    def test_what_a_table_of_an_account_lacks_is_not_looked_for_among_the_defaults(
        self, tmp_path: Path
    ) -> None:
        own = self.without_password(provider="gmail") + '[account.oauth]\nflow = "code"\n'
        (said,) = refusal(tmp_path, DELIVERY + self.app.format("defaults") + own)
        assert "account[0].oauth.client_id: this key is missing" in said


class TestAFileOfTheUsersOwn:
    def test_adds_providers(self, tmp_path: Path) -> None:
        rows = '[corp]\nhost = "pop.corp.example"\ndomains = ["corp.example"]\ntls = "starttls"\n'
        settings = with_rows(tmp_path, rows, account(username="anna@corp.example"))
        found = settings.accounts[0]
        assert (found.provider, found.host, found.port) == ("corp", "pop.corp.example", 110)
        assert settings.providers["corp"].title == "corp"

    def test_wins_over_ours_key_by_key_and_is_the_source_of_what_it_says(
        self, tmp_path: Path
    ) -> None:
        rows = '["web.de"]\npoll_floor = "20m"\n[corp]\nhost = "h"\ndomains = ["gmail.com"]\n'
        text = account(username="anna@web.de") + account(name="b", username="bea@gmail.com")
        settings = with_rows(tmp_path, rows, text)
        first, second = settings.accounts
        assert (first.host, first.poll_every) == ("pop3.web.de", 1200)
        assert settings.providers["web.de"].sources["poll_floor"] == f"{tmp_path}/mine.toml"
        assert second.host == "h"

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ('[corp]\nhost = "h"\nprot = 1', "3: corp.prot: unknown key; did you mean 'port'?"),
            ('[corp]\ntitle = "Corp"', "1: corp.host: this key is missing"),
            ('[corp]\nhost = "h"\npoll_floor = 5', "3: corp.poll_floor: expected a duration"),
            ('[corp]\nhost = "h"\ndomains = "x"', "3: corp.domains: expected a list of texts"),
            ('[corp]\nhost = "h"\nchecked = "x"', "3: corp.checked: expected a date, such as"),
            (
                '[corp]\nhost = "h"\n[corp.oauth]\ntoken_url = "http://x"',
                "4: corp.oauth.token_url: expected https://host/path",
            ),
            ("corp = 1", "1: corp: expected a table of keys"),
            ("corp = \n", "1:8: this is not TOML"),
        ],
    )
    def test_what_is_wrong_in_it_is_named_with_file_line_and_key(
        self, tmp_path: Path, rows: str, said: str
    ) -> None:
        (tmp_path / "mine.toml").write_text(rows)
        (found,) = refusal(tmp_path, f'providers_file = "{tmp_path}/mine.toml"\n{DELIVERY}')
        assert found.startswith(f"mine.toml:{said}")

    def test_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        (said,) = refusal(tmp_path, f'providers_file = "{tmp_path}/no.toml"\n{DELIVERY}')
        assert said == "no.toml: cannot read it: No such file or directory"

    def test_is_named_by_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text('[corp]\nhost = "h"\n')
        environ = {"POP3_CONNECTOR__PROVIDERS_FILE": str(tmp_path / "mine.toml")}
        assert (
            loaded(tmp_path, DELIVERY + account(provider="corp"), environ).accounts[0].host == "h"
        )


class TestHowOftenIsPolled:
    def timetable(self, tmp_path: Path, **keys: str) -> tuple[list[float], float | None]:
        settings = loaded(tmp_path, DELIVERY + account(username="anna@web.de", **keys))
        table = settings.accounts[0]
        floor = floor_of(settings.provider_of(table))
        found = account_of(table, settings.limits, KnownSecrets(), floor)
        return [rule.every for rule in found.timetable.rules], found.soonest

    def test_is_no_sooner_than_the_provider_wants(self, tmp_path: Path) -> None:
        assert self.timetable(tmp_path) == ([720], None)
        assert self.timetable(tmp_path, poll_every="1m", poll_soonest="30s") == ([720], 720)
        assert self.timetable(tmp_path, poll_every="1h", poll_soonest="20m") == ([3600], 1200)
        assert self.timetable(tmp_path, schedule="mon every 1m") == ([720], None)

    def test_and_what_keeps_many_apart_comes_no_sooner_either(self, tmp_path: Path) -> None:
        settings = loaded(tmp_path, DELIVERY + account(username="anna@web.de"))
        built = account_of(settings.accounts[0], settings.limits, KnownSecrets(), 720)
        waits = [spread(replace(built, name=f"a{n}"), 1e9) for n in range(50)]
        assert min(waits) == 720
        assert max(waits) > 720

    def test_is_warned_of_where_somebody_asked_for_more(self, tmp_path: Path) -> None:
        def said(*tables: str) -> list[str]:
            settings = loaded(tmp_path, DELIVERY + "".join(tables))
            return [line for line in warnings(settings, None) if "polled" in line]

        web = {"username": "anna@web.de"}
        assert said(account(**web), account(name="b", username="b@web.de", poll_every="1h")) == []
        (line,) = said(*(account(name=n, username=f"{n}@web.de", poll_every="1m") for n in "abcde"))
        assert line.startswith(
            "accounts a, b, c and 2 more are polled every 12 minutes at the most"
        )
        assert OURS["web.de"].sources["poll_floor"] in line
        (line,) = said(account(**web, poll_soonest="1m"))
        assert line.startswith("account a is polled")

    def test_a_server_takes_as_many_connections_as_its_provider_says(self, tmp_path: Path) -> None:
        rows = '[corp]\nhost = "h"\nconnections = 2\n[same]\nhost = "h"\nconnections = 3\n'
        text = account(provider="corp") + account(name="b", provider="same", username="b")
        settings = with_rows(tmp_path, rows, text + account(name="c", host="i"))
        providers: dict[str, Provider | None] = {
            table.name: settings.provider_of(table) for table in settings.accounts
        }
        built = {t.name: account_of(t, settings.limits, KnownSecrets()) for t in settings.accounts}
        assert fewer_connections(built, providers) == {"h:995": 2}


def test_a_password_where_none_is_taken_is_warned_of(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DELIVERY + account(provider="outlook"))
    assert any("is given a password, and Outlook.com" in line for line in warnings(settings, None))


def test_an_account_with_a_host_costs_no_look_into_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.settings.providers.PACKAGED", tmp_path / "nowhere.toml")
    path = tmp_path / "connector.toml"
    path.write_text(DELIVERY + account(host="pop.corp.example"))
    assert load(path, {}).accounts[0].host == "pop.corp.example"
