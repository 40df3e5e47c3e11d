"""Access tokens that are stored, and renewed in time by one process for all.

A token is renewed ahead of its end, and before that where a server refuses it. Who renews holds a
lease; the others wait for what it stores, and read it. So an authorization server that gives each
refresh token once gets each of them once. The story of a renewal:

1. That it begins is recorded.
2. The server is asked.
3. What it gives is stored, refresh token and all, and that is durable before the access token is
   used. Where the database is away just then, it is kept in memory until it is back; and a process
   that is told to stop ends this first.

A person who authorizes us anew ends what was before: a renewal that is underway is then dropped. As
long as a token lasts still, an authorization server that is away disturbs nobody.

Known limits. A process that is killed between the second step and the third takes the new refresh
token with it, and the next one tries the old one. Most servers take that (Google and Microsoft
give no single-use ones); one that takes it for a theft revokes all, and the account asks for a new
authorization: nothing else could be done. Fetchers that do not share a key cannot read each other's
tokens: those of a client by its own secret are then had by each for itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from shared.clock import Clock
from shared.errors import ConfigError, StateUnavailable, TokenRefused, TokenUnavailable
from shared.failpoint import reach
from shared.log import Report
from shared.oauth.client import OAuthClient
from shared.oauth.record import ENDING, TokenRecord, TokenSet
from shared.oauth.sealing import OtherKey, Sealing
from shared.oauth.token_answer import TokenAnswer
from shared.redaction.known_secrets import KnownSecrets

WAIT: Final = 90.0
"""Seconds to wait for what another process renews: longer than that may take it."""

LOOK: Final = 0.25
"""Seconds between two looks at it."""

TELL: Final = 86_400.0
"""Seconds between two times that they are."""


class Leases(Protocol):
    """The rights of one process to something; see ``State``."""

    async def lease(self, name: str) -> bool:
        """Take a lease, or keep it; return whether it is ours."""

    async def release(self, name: str) -> None:
        """Give a lease up."""


class TokenStore(Protocol):
    """Where tokens are stored; durable when a call returns. See ``StoredTokens``."""

    async def read(self, name: str) -> TokenRecord | None:
        """Return what is stored under a name."""

    async def note_renewal(self, name: str, grant: str, *, begins: bool) -> None:
        """Record that a renewal begins, or that it has ended without new tokens."""

    async def keep(self, record: TokenRecord, *, instead_of: str | None) -> bool:
        """Store tokens where the grant is still this one; return whether it was."""


class TokenSource(Protocol):
    """An authorization server; see ``TokenServer``."""

    @property
    def server(self) -> str:
        """Which one."""

    async def ask_as_ourselves(self) -> TokenAnswer:
        """Return a token by our own secret."""

    async def refresh(self, refresh_token: str) -> TokenAnswer:
        """Return a token by a refresh token."""


class RenewedTokens:
    """The access tokens of an account or a destination (``shared.authentication.AccessTokens``).

    Args:
        name: what they are stored under.
        client: as what they are had.
        source: where.
        leases: let one process at a time renew them.
        store: where they are stored.
        sealing: encrypts them there.
        clock: the wall clock, and the waits.
        known: learns them, so that no server is quoted with one.
        report: is told of an authorization that ends.
    """

    def __init__(
        self,
        name: str,
        client: OAuthClient,
        source: TokenSource,
        leases: Leases,
        store: TokenStore,
        sealing: Sealing,
        clock: Clock,
        known: KnownSecrets,
        report: Report,
    ) -> None:
        self._name = name
        self._client = client
        self._source = source
        self._leases = leases
        self._store = store
        self._sealing = sealing
        self._clock = clock
        self._known = known
        self._report = report
        self._alone = asyncio.Lock()  # a lease is one for all tasks of a process
        self._unstored: tuple[TokenRecord, str | None] | None = None
        self._own: TokenSet | None = None  # that another key hides from us in the store
        self._told = -TELL

    async def current(self) -> str:
        """Return a token that is not about to end.

        Raises:
            TokenUnavailable: not now.
            TokenRefused: not before a person does something.
            ConfigError: a secret, or the key of the tokens, cannot be had.
            StateUnavailable: the database is away.
        """
        held = (await self._read())[1]
        if held is not None and not self._is_ending(held):
            return held.access
        try:
            return await self._renew(self._is_ending)
        except TokenUnavailable:
            if held is not None and held.until > self._clock.now():
                return held.access
            raise

    async def renewed(self, refused: str) -> str:
        """Return another token than this one, which a server has refused before its time.

        Raises:
            TokenUnavailable: not now.
            TokenRefused: not before a person does something.
            ConfigError: a secret, or the key of the tokens, cannot be had.
            StateUnavailable: the database is away.
        """
        return await self._renew(lambda held: held.access == refused)

    async def grant(self) -> str:
        """Return what tokens are had by: another text once a person has changed something.

        Raises:
            ConfigError: a secret cannot be had.
            StateUnavailable: the database is away.
        """
        if self._client.flow in ("client_credentials", "refresh_token"):
            return await asyncio.to_thread(self._client.origin)
        record = await self._store.read(self._name)
        return "" if record is None else record.grant

    def _is_ending(self, held: TokenSet) -> bool:
        return held.until - held.ahead <= self._clock.now()

    async def _renew(self, is_stale: Callable[[TokenSet], bool]) -> str:
        """Return a token that is not stale: one that somebody has stored by now, or a new one."""
        async with self._alone:
            end = self._clock.monotonic() + WAIT
            while True:
                await self._store_what_is_left()
                if (found := await self._found(is_stale)) is not None:
                    return found
                if await self._leases.lease(self._lease):
                    return await self._renew_under_lease(is_stale)
                if self._clock.monotonic() >= end:
                    said = "another process is renewing the token, and does not come to an end"
                    raise TokenUnavailable(self._source.server, said)
                await self._clock.sleep(LOOK)

    @property
    def _lease(self) -> str:
        return f"oauth:{self._name}"

    async def _found(self, is_stale: Callable[[TokenSet], bool]) -> str | None:
        held = (await self._read())[1]
        return None if held is None or is_stale(held) else held.access

    async def _renew_under_lease(self, is_stale: Callable[[TokenSet], bool]) -> str:
        """Renew, also where the poll that asks for it is cancelled: what we are given is stored."""
        renewal = asyncio.ensure_future(self._renew_once(is_stale))
        try:
            return await asyncio.shield(renewal)
        except asyncio.CancelledError:
            await asyncio.gather(renewal, return_exceptions=True)
            raise

    async def _renew_once(self, is_stale: Callable[[TokenSet], bool]) -> str:
        try:
            if (found := await self._found(is_stale)) is not None:
                return found
            record, held = await self._read()
            if self._client.flow == "client_credentials":
                return await self._ask_as_ourselves()
            return await self._refresh(record, held)
        finally:
            if self._unstored is None:
                await self._release()

    async def _release(self) -> None:
        with suppress(StateUnavailable):  # then it expires by itself
            await self._leases.release(self._lease)

    async def _ask_as_ourselves(self) -> str:
        origin = await asyncio.to_thread(self._client.origin)
        self._sealing.require_key()
        answer = await self._source.ask_as_ourselves()
        own = replace(answer, refresh_token=None)
        held = self._own = TokenSet("", 0.0, 0.0, origin=origin).renewed(own, self._clock.now())
        record = self._record(held, secrets.token_hex(16), self._clock.now(), None)
        await self._keep(record, None)
        return held.access

    async def _refresh(self, record: TokenRecord | None, held: TokenSet | None) -> str:
        """Renew by the refresh token that is stored, or by the one in the configuration."""
        seed = self._client.seed
        if held is None and seed is not None:
            origin = await asyncio.to_thread(self._client.origin)
            given = await asyncio.to_thread(seed)
            first = TokenSet("", 0.0, 0.0, given, None, origin)
            # Its grant tells it from another one without the key of the tokens, see ``_read``.
            record = self._record(first, origin, self._clock.now(), None)
            await self._store.keep(record, instead_of=None)
            held = first
        if record is None or held is None or held.refresh is None:
            raise self._must_authorize("nobody has authorized it yet")
        self._sealing.require_key()
        await self._store.note_renewal(self._name, record.grant, begins=True)
        reach("oauth", "asking")
        try:
            answer = await self._source.refresh(held.refresh)
        except TokenRefused as error:
            lost = record.asked is not None
            if not lost:
                await self._store.note_renewal(self._name, record.grant, begins=False)
            raise self._must_authorize(error.said, lost=lost) from error
        reach("oauth", "answered")
        new = held.renewed(answer, self._clock.now())
        made = self._record(new, record.grant, record.authorized, new.end_after(held))
        if not await self._keep(made, record.grant):
            said = "somebody has authorized it anew just now"
            raise TokenUnavailable(self._source.server, said)
        reach("oauth", "stored")
        return new.access

    def _record(
        self, held: TokenSet, grant: str, authorized: float, ends: float | None
    ) -> TokenRecord:
        now, sealed = self._clock.now(), self._sealing.seal(held.write())
        return TokenRecord(self._name, grant, sealed, authorized, now, None, ends)

    async def _keep(self, record: TokenRecord, instead_of: str | None) -> bool:
        """Store tokens; where the database is away, they are kept until it is back."""
        self._unstored = record, instead_of
        kept = await self._store.keep(record, instead_of=instead_of)
        self._unstored = None
        return kept

    async def _store_what_is_left(self) -> None:
        if self._unstored is not None:
            await self._keep(*self._unstored)
            await self._release()

    async def _read(self) -> tuple[TokenRecord | None, TokenSet | None]:
        """Return what is stored, as far as it counts.

        Raises:
            ConfigError: it is encrypted with another key, and what it renews cannot be had anew.
        """
        record = await self._store.read(self._name)
        if record is None:
            return None, None
        try:
            held = TokenSet.read(self._sealing.open(record.sealed))
        except OtherKey as error:
            if self._client.flow == "client_credentials":
                return record, await self._of_now(self._own)
            if self._client.flow == "refresh_token" and record.grant != await self.grant():
                return record, None  # a person has put another one into the configuration
            what = f"the tokens of {self._client.whose} cannot be read: {error}. Put that key there"
            raise ConfigError(self._sealing.where, f"{what}, or: {self._client.advice}") from error
        for token in filter(None, (held.access, held.refresh)):
            self._known.learn(token)
        self._tell_end(record)
        return record, await self._of_now(held)

    async def _of_now(self, held: TokenSet | None) -> TokenSet | None:
        """Return tokens, None where they were had by another secret than that of today."""
        if held is None or self._client.flow in ("code", "device"):
            return held
        origin = await asyncio.to_thread(self._client.origin)
        return held if held.origin == origin else None

    def _tell_end(self, record: TokenRecord) -> None:
        now = self._clock.now()
        if record.ends is None or record.ends - now > ENDING or now - self._told < TELL:
            return
        self._told = now
        self._report(
            "an authorization is about to end: authorize again before",
            whose=self._client.whose,
            days=round(max(record.ends - now, 0.0) / 86_400, 1),
            how=self._client.advice,
        )

    def _must_authorize(self, why: str, *, lost: bool = False) -> TokenRefused:
        said = why
        if lost:
            said += (
                ". An earlier renewal had no answer, which may be lost with a refresh token in it:"
                " a server that takes each of them once takes the one before for stolen"
            )
        return TokenRefused(self._source.server, f"{said}. {self._client.advice}".rstrip())


def first_grant(name: str, answer: TokenAnswer, sealing: Sealing, now: float) -> TokenRecord:
    """Return what is stored when a person has authorized us.

    Args:
        name: what tokens are stored under.
        answer: of the authorization server.
        sealing: encrypts them.
        now: the wall clock.

    Raises:
        ConfigError: there is no key, and none can be made.
    """
    held = TokenSet("", 0.0, 0.0).renewed(answer, now)
    sealed = sealing.seal(held.write())
    return TokenRecord(name, secrets.token_hex(16), sealed, now, now, None, held.refresh_until)
