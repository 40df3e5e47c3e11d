"""Commands for tokens that are stored: another key, and none of them any more."""

import asyncio
import stat

import pytest

from shared.oauth.record import TokenRecord
from shared.oauth.sealing import KeyFile, OtherKey, Sealing, new_key
from shared.state import State, new_owner
from tests.unit.postmaster.conftest import Office

NAMES = ("account:sales", "client:0123", "destination:away")


def stored(office: Office, *new: TokenRecord) -> dict[str, str]:
    """Store tokens; return all that are stored, as they are sealed."""

    async def work() -> dict[str, str]:
        state = await State.open(office.data / "state.db", owner=new_owner())
        for record in new:
            await state.tokens.keep(record, instead_of=None)
        found = {record.name: record.sealed for record in await state.tokens.read_all()}
        await state.close()
        return found

    return asyncio.run(work())


@pytest.fixture
def source(office: Office) -> KeyFile:
    return KeyFile(office.data / "oauth.key")


@pytest.fixture
def before(office: Office, source: KeyFile) -> dict[str, str]:
    sealing = Sealing(source)
    return stored(
        office,
        *(TokenRecord(name, "g", sealing.seal(name.encode()), 1.0, 1.0) for name in NAMES),
    )


def test_all_is_encrypted_with_a_new_key_and_the_old_one_is_taken_out_later(
    office: Office, source: KeyFile, before: dict[str, str]
) -> None:
    (old,) = source.read()
    done = office("account", "rotate-key")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"3 encrypted with the first key in {source.path}\n"
    new, kept = source.read()
    assert kept == old != new
    assert stat.S_IMODE(source.path.stat().st_mode) == 0o600
    done = office("account", "rotate-key", "--drop-old")
    assert (done.status, "1 older ones taken out" in done.out) == (0, True)
    assert source.read() == [new]
    after = stored(office)
    assert {name: Sealing(source).open(after[name]) for name in NAMES} == {
        name: name.encode() for name in NAMES
    }
    source.put_first(old)
    source.keep_first()
    for name in NAMES:
        with pytest.raises(OtherKey):
            Sealing(source).open(after[name])


def test_what_nobody_has_the_key_of_is_named_and_no_key_is_taken_out(
    office: Office, source: KeyFile, before: dict[str, str]
) -> None:
    foreign = Sealing(KeyFile(office.data / "another.key")).seal(b"x")
    stored(office, TokenRecord("account:info", "g", foreign, 1.0, 1.0))
    source.put_first(new_key())
    done = office("account", "rotate-key", "--drop-old")
    assert done.status == 1
    assert f"encrypted with no key that is in {source.path}: account:info" in done.err
    assert len(source.read()) == 2
    assert stored(office)["account:info"] == foreign


def test_tokens_are_forgotten(office: Office, before: dict[str, str]) -> None:
    assert office("account", "deauthorize", "sales").status == 0
    assert office("account", "deauthorize", "away", "--destination").status == 0
    assert list(stored(office)) == ["client:0123"]
    done = office("account", "deauthorize", "sales")
    assert (done.status, "there are no tokens of account sales" in done.err) == (1, True)


def test_who_has_a_password_or_needs_nobody_is_not_authorized(office: Office) -> None:
    assert "account sales has no oauth table" in office("account", "authorize", "sales").err
    assert "there is no account nobody" in office("account", "authorize", "nobody").err
    text = office.config.read_text().replace('password = "hunter2"', "")
    table = 'client_id = "x"\nclient_secret = "y"\ntoken_url = "https://login.example/token"\n'
    office.config.write_text(f'{text}[account.oauth]\nflow = "client_credentials"\n{table}')
    done = office("account", "authorize", "sales")
    assert (done.status, "needs nobody to authorize it" in done.err) == (1, True)
    assert "there is no device_url" in office("account", "authorize", "sales", "--flow=device").err
    assert not (office.data / "state.db").exists()
