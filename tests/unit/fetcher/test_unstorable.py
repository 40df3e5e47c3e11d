"""A message that the ledger does not take, in the middle of a maildrop."""

import pytest

from tests.servers.pop3 import Say
from tests.unit.fetcher.desk import UIDLS, Desk, some
from tests.unit.fetcher.pop3_session import MAIL
from tests.unit.state.values import forbid


@pytest.mark.parametrize(("table", "column"), [("uidl", "uidl"), ("message", "account")])
async def test_the_others_are_fetched_recorded_and_deleted(
    desk: Desk, table: str, column: str
) -> None:
    bad = "u3" if table == "uidl" else "sales"
    forbid(f"sqlite:///{desk.folder / 'state.db'}", table, column, bad)
    refused = {3} if table == "uidl" else set(range(1, 8))
    async with some(7).serving() as server:
        happened = await desk.poll(server)
        assert server.deleted == set(range(1, 8)) - refused
    assert desk.raws() == MAIL[:7]
    assert (happened["polled"], happened["account-failed"], happened["crashed"]) == (1, 0, 0)
    assert set(await desk.state.known("sales")) <= set(UIDLS)
    assert (await desk.state.accounts())["sales"].last_error is None


async def test_an_account_whose_trouble_cannot_be_recorded_is_polled_at_its_interval(
    desk: Desk,
) -> None:
    async with some(1, says={"PASS": Say("-ERR нет рубля\r\n".encode())}).serving() as server:
        await desk.poll(server)
        told = (await desk.state.accounts())["sales"].last_error
        assert told is not None
        assert "рубля" in told
        forbid(f"sqlite:///{desk.folder / 'state.db'}", "account", "last_error", told)
        await desk.clock.advance(4_000)
        happened = await desk.poll(server)
    stands = (await desk.state.accounts())["sales"]
    assert (stands.failures, stands.queued_until, happened["crashed"]) == (2, 0, 0)
    assert stands.next_poll >= desk.clock.now() + 300
    assert "cannot be recorded what was wrong" in str(stands.last_error)
