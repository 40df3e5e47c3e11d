"""Which authorizations of a person end soon, by what is stored of their tokens, without the key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.postmaster import show
from services.postmaster.opening import missing_database, open_state
from shared.clock import SystemClock
from shared.oauth.record import ENDING, TokenRecord
from shared.settings.access_tokens import account_key, destination_key
from shared.settings.model import Settings


def ending(whose: str, ends: float, now: float) -> str:
    """Return a warning of an authorization that ends.

    Args:
        whose: ``account sales``.
        ends: when, in seconds since 1970.
        now: the same of today.
    """
    left = show.roughly(max(ends - now, 0.0))
    return (
        f"{whose}: its authorization ends on {show.time(ends)} (in {left}), unless a renewal puts"
        " that off: authorize it again before. Google gives seven days to an app whose publishing"
        " status is Testing: put it into production, and authorize again"
    )


def ending_soon(settings: Settings) -> list[str]:
    """Return a warning for each authorization that ends soon. No database is made for it.

    Raises:
        ConfigError: the database's URL, credentials or file are wrong.
        StateUnavailable: it does not answer.
    """
    by_person = [table for table in settings.oauth_tables if table.flow in ("code", "device")]
    if not by_person or missing_database(settings) is not None:
        return []
    now = SystemClock().now()
    ends = {record.name: record.ends for record in asyncio.run(_stored(settings))}
    names = [(f"account {a.name}", account_key(a.name)) for a in settings.accounts]
    names += [(f"destination {n}", destination_key(n)) for n in settings.every_destination]
    found = [(whose, ends.get(key)) for whose, key in names]
    return [ending(whose, at, now) for whose, at in found if at is not None and at - now < ENDING]


async def _stored(settings: Settings) -> Sequence[TokenRecord]:
    async with open_state(settings.state_address()) as state:
        return await state.tokens.read_all()
