"""Tokens renewed in time, by one for all, and none of them lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared.errors import ConfigError, StateUnavailable, TokenRefused, TokenUnavailable
from shared.oauth.client import Flow, OAuthClient
from shared.oauth.of_destination import DestinationTokens
from shared.oauth.record import ENDING, TokenRecord
from shared.oauth.renewal import RenewedTokens, first_grant
from shared.oauth.sealing import KeyFile, Sealing
from shared.oauth.token_answer import TokenAnswer
from shared.redaction.known_secrets import KnownSecrets
from shared.state import State, new_owner
from tests.clock import ManualClock
from tests.unit.oauth.provider import Provider

HOUR, DAY = 3600.0, 86_400.0
GRANTED = TokenAnswer("access-0", HOUR, "refresh-0")


class Bench:
    """A database, a provider, and the tokens of some processes."""

    def __init__(self, folder: Path, state: State, clock: ManualClock) -> None:
        self.folder = folder
        self.state = state
        self.clock = clock
        self.provider = Provider()
        self.secret = "the client's secret"
        self.seed = "refresh-0"
        self.told: list[dict[str, object]] = []
        self.known = KnownSecrets()

    def tokens(
        self, flow: Flow = "code", state: State | None = None, key: str = "oauth.key"
    ) -> RenewedTokens:
        client = OAuthClient(
            "account sales",
            flow,
            "connector",
            "https://login.example/token",
            secret=lambda: self.secret,
            seed=(lambda: self.seed) if flow == "refresh_token" else None,
            advice="run: authorize sales",
        )
        state = state or self.state

        def report(what: str, /, **about: object) -> None:
            self.told.append({"what": what, **about})

        return RenewedTokens(
            "account:sales",
            client,
            self.provider,
            state,
            state.tokens,
            Sealing(KeyFile(self.folder / key)),
            self.clock,
            self.known,
            report,
        )

    async def authorize(self, answer: TokenAnswer = GRANTED) -> None:
        sealing = Sealing(KeyFile(self.folder / "oauth.key"))
        record = first_grant("account:sales", answer, sealing, self.clock.now())
        await self.state.tokens.keep(record, instead_of=None)

    async def row(self) -> TokenRecord:
        found = await self.state.tokens.read("account:sales")
        assert found is not None
        return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def open_state(
    tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Callable[[], Awaitable[State]]]:
    opened: list[State] = []

    async def opener() -> State:
        opened.append(await State.open(tmp_path / "state.db", owner=new_owner(), clock=clock))
        return opened[-1]

    yield opener
    for state in opened:
        await state.close()


@pytest.fixture
async def bench(
    tmp_path: Path, clock: ManualClock, open_state: Callable[[], Awaitable[State]]
) -> Bench:
    return Bench(tmp_path, await open_state(), clock)


async def test_a_token_is_used_until_shortly_before_its_end(bench: Bench) -> None:
    await bench.authorize()
    tokens = bench.tokens()
    assert await tokens.current() == "access-0"
    await bench.clock.advance(HOUR - 301)
    assert await tokens.current() == "access-0"
    await bench.clock.advance(1)
    assert await tokens.current() == "access-1"
    assert await bench.tokens().current() == "access-1"  # another process reads it
    assert bench.provider.asked == 1


async def test_a_token_that_lasts_but_a_minute_is_not_renewed_all_the_time(bench: Bench) -> None:
    await bench.authorize(TokenAnswer("access-0", 60.0, "refresh-0"))
    await bench.clock.advance(47)
    assert await bench.tokens().current() == "access-0"


async def test_the_new_refresh_token_is_what_the_next_renewal_uses(bench: Bench) -> None:
    await bench.authorize()
    for number in range(1, 5):
        await bench.clock.advance(HOUR)
        assert await bench.tokens().current() == f"access-{number}"


async def test_a_server_that_gives_no_new_refresh_token_keeps_the_old_one(bench: Bench) -> None:
    bench.provider.rotates = False
    await bench.authorize()
    for number in range(1, 4):
        await bench.clock.advance(HOUR)
        assert await bench.tokens().current() == f"access-{number}"


async def test_of_many_that_need_one_at_once_one_asks(
    bench: Bench, open_state: Callable[[], Awaitable[State]]
) -> None:
    await bench.authorize()
    await bench.clock.advance(HOUR)
    bench.provider.gate = asyncio.Event()
    ours = bench.tokens()
    others = [bench.tokens(state=await open_state()) for _ in range(2)]
    asked = [asyncio.ensure_future(t.current()) for t in (ours, ours, *others)]
    await bench.provider.received.wait()
    for _ in range(10):  # the others look again and again
        await bench.clock.advance(0.3)
        await others[0].grant()
    assert not any(task.done() for task in asked)
    bench.provider.gate.set()
    while not all(task.done() for task in asked):
        await bench.clock.advance(0.3)
        await others[0].grant()
    assert [task.result() for task in asked] == ["access-1"] * 4
    assert bench.provider.asked == 1


async def test_a_token_that_a_server_refuses_is_renewed_once_for_all(bench: Bench) -> None:
    await bench.authorize()
    tokens = bench.tokens()
    assert await tokens.renewed("access-0") == "access-1"
    assert await bench.tokens().renewed("access-0") == "access-1"  # it was, by somebody
    assert bench.provider.asked == 1


async def test_where_the_provider_is_away_a_token_is_used_to_its_end(bench: Bench) -> None:
    await bench.authorize()
    bench.provider.away = True
    tokens = bench.tokens()
    await bench.clock.advance(HOUR - 60)
    assert await tokens.current() == "access-0"
    await bench.clock.advance(60)
    with pytest.raises(TokenUnavailable, match=r"login.example:443: it answered 503"):
        await tokens.current()
    bench.provider.away = False
    assert (await tokens.current()).startswith("access-")


async def test_nobody_has_authorized_it_yet(bench: Bench) -> None:
    with pytest.raises(TokenRefused, match=r"nobody has authorized it yet\. run: authorize sales"):
        await bench.tokens().current()
    assert bench.provider.asked == 0


async def test_what_is_refused_for_good_says_what_to_do_and_a_new_grant_ends_it(
    bench: Bench,
) -> None:
    await bench.authorize()
    bench.provider.good = "revoked"
    await bench.clock.advance(HOUR)
    tokens = bench.tokens()
    before = await tokens.grant()
    for _ in range(2):
        with pytest.raises(TokenRefused, match=r"invalid_grant\. run: authorize sales$"):
            await tokens.current()
    await bench.authorize(TokenAnswer("new", HOUR, "new refresh"))
    assert await tokens.current() == "new"
    assert await tokens.grant() != before


async def test_an_answer_that_was_lost_is_told_where_the_old_refresh_token_is_refused(
    bench: Bench, open_state: Callable[[], Awaitable[State]]
) -> None:
    await bench.authorize()
    await bench.clock.advance(HOUR)
    await bench.state.tokens.note_renewal("account:sales", (await bench.row()).grant, begins=True)
    bench.provider.good = "refresh-1"  # the process that asked was killed
    for _ in range(2):
        with pytest.raises(TokenRefused, match=r"An earlier renewal had no answer.*authorize"):
            await bench.tokens().current()


async def test_what_is_given_while_the_database_is_away_is_stored_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.authorize()
    await bench.clock.advance(HOUR)
    tokens = bench.tokens()

    async def away(*_: object, **__: object) -> bool:
        raise StateUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(bench.state.tokens, "keep", away)
        with pytest.raises(StateUnavailable):
            await tokens.current()
    assert bench.provider.asked == 1
    assert await tokens.current() == "access-1"
    assert await bench.tokens().current() == "access-1"
    assert bench.provider.asked == 1


async def test_a_poll_that_is_cancelled_loses_no_token(bench: Bench) -> None:
    await bench.authorize()
    await bench.clock.advance(HOUR)
    bench.provider.gate = asyncio.Event()
    poll = asyncio.ensure_future(bench.tokens().current())
    await bench.provider.received.wait()
    poll.cancel()
    bench.provider.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert await bench.tokens().current() == "access-1"
    assert bench.provider.asked == 1


async def test_who_authorizes_while_a_renewal_is_underway_keeps_what_they_got(bench: Bench) -> None:
    await bench.authorize()
    await bench.clock.advance(HOUR)
    bench.provider.gate = asyncio.Event()
    tokens = bench.tokens()
    poll = asyncio.ensure_future(tokens.current())
    await bench.provider.received.wait()
    await bench.authorize(TokenAnswer("new", HOUR, "new refresh"))
    bench.provider.gate.set()
    with pytest.raises(TokenUnavailable, match="authorized it anew"):
        await poll
    assert await tokens.current() == "new"


async def test_a_client_by_its_own_secret_has_another_token_for_another_secret(
    bench: Bench,
) -> None:
    tokens = bench.tokens("client_credentials")
    before = await tokens.grant()
    assert await tokens.current() == await tokens.current() == "access-1"
    bench.secret = "another secret"
    assert await tokens.grant() != before
    assert await tokens.current() == "access-2"
    assert await bench.tokens("client_credentials").current() == "access-2"


async def test_processes_without_a_key_in_common_have_tokens_of_their_own(bench: Bench) -> None:
    one = bench.tokens("client_credentials")
    other = bench.tokens("client_credentials", key="another.key")
    assert [await t.current() for t in (one, other, other, one, one)] == [
        *("access-1", "access-2", "access-2"),
        *("access-1", "access-1"),
    ]


async def test_a_refresh_token_in_the_configuration_is_used_once_and_another_one_anew(
    bench: Bench,
) -> None:
    tokens = bench.tokens("refresh_token")
    assert await tokens.current() == "access-1"
    await bench.clock.advance(HOUR)
    assert await tokens.current() == "access-2"
    bench.seed = bench.provider.good = "from elsewhere"
    assert await tokens.current() == "access-3"


async def test_tokens_of_another_key_are_not_thrown_away(bench: Bench) -> None:
    await bench.authorize()
    before = await bench.row()
    with pytest.raises(ConfigError, match=r"another.key: the tokens of account sales cannot be"):
        await bench.tokens(key="another.key").current()
    assert await bench.row() == before
    assert await bench.tokens().current() == "access-0"


async def test_a_destination_is_told_in_words_that_a_courier_knows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.authorize()
    assert await DestinationTokens("destination x", bench.tokens()).current() == "access-0"
    other = DestinationTokens("destination x", bench.tokens(key="another.key"))
    with pytest.raises(TokenRefused, match=r"destination x: .*another.key"):
        await other.current()

    async def away(_: str) -> None:
        raise StateUnavailable("gone")

    monkeypatch.setattr(bench.state.tokens, "read", away)
    with pytest.raises(TokenUnavailable, match="destination x: the state database: gone"):
        await DestinationTokens("destination x", bench.tokens()).renewed("access-0")


async def test_another_refresh_token_counts_also_where_the_key_of_the_one_before_is_lost(
    bench: Bench,
) -> None:
    await bench.tokens("refresh_token").current()
    (bench.folder / "oauth.key").unlink()
    with pytest.raises(ConfigError, match=r"there is no key.*Put that key there, or: run"):
        await bench.tokens("refresh_token").current()  # it was used: a later one is encrypted
    assert bench.provider.asked == 1
    bench.seed = bench.provider.good = "from elsewhere"
    assert await bench.tokens("refresh_token").current() == "access-2"
    assert await bench.tokens("refresh_token").current() == "access-2"


async def test_without_a_key_nothing_is_asked_for(bench: Bench) -> None:
    (bench.folder / "oauth.key").write_text("no key")
    with pytest.raises(ConfigError, match="this is no key"):
        await bench.tokens("client_credentials").current()
    assert bench.provider.asked == 0


async def test_an_authorization_that_ends_on_a_date_is_told_before_once_a_day(
    bench: Bench,
) -> None:
    await bench.authorize(TokenAnswer("access-0", HOUR, "refresh-0", 7 * DAY))
    tokens = bench.tokens()
    bench.provider.answer = TokenAnswer("", HOUR, None, 7 * DAY - HOUR)
    for _ in range(3):
        await tokens.current()
    assert [(t["whose"], t["days"], t["how"]) for t in bench.told] == [
        ("account sales", 7.0, "run: authorize sales")
    ]
    await bench.clock.advance(DAY)
    bench.provider.answer = TokenAnswer("", HOUR, None, 6 * DAY)
    await tokens.current()
    await tokens.current()
    assert [t["days"] for t in bench.told] == [7.0, 6.0]
    assert (await bench.row()).ends == pytest.approx(bench.clock.now() + 6 * DAY)


async def test_an_authorization_that_each_renewal_puts_off_has_no_date(bench: Bench) -> None:
    await bench.authorize(TokenAnswer("access-0", HOUR, "refresh-0", ENDING + DAY))
    bench.provider.answer = TokenAnswer("", HOUR, None, ENDING - DAY)
    tokens = bench.tokens()
    await tokens.current()
    await bench.clock.advance(3 * DAY)
    await tokens.current()
    assert (await bench.row()).ends is None


async def test_tokens_are_hidden_from_what_servers_say(bench: Bench) -> None:
    await bench.authorize(TokenAnswer("the-access-token", HOUR, "the-refresh-token"))
    await bench.tokens().current()
    said = "-ERR AUTH the-access-token and the-refresh-token"
    assert bench.known.hidden(said) == "-ERR AUTH *** and ***"
    row = str(await bench.row())
    assert "the-access-token" not in row
    assert "the-refresh-token" not in row
