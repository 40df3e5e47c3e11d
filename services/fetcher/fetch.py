"""The fetch story: what a maildrop holds that we do not have, taken over without losing any of it.

Log in, list UIDLs, leave out what the ledger knows, retrieve the rest. Each message is published
and confirmed, then its UIDL is committed to the ledger, and only then is it deleted at the server,
if the account says so; deletions count when QUIT was answered ``+OK``. Killed at any instruction,
the next poll goes on from the ledger: what was published and not recorded is published again under
the same id, and suppressed at the far end.

An account that fails is reported, backed off, and disturbs no other. One message that cannot be
fetched is no failure of its account: it is said, and the others come. Nor is it one to have to
wait: for a slot at a server that takes only so many connections (``server_slots``), or for the time
of the next login. A poll that waits for its server or in line for it, or takes long, lets go of its
job, and of its slot (``detached_polls``, ``poll_slots``). What fails on our side is no reason to
back off: then an account is polled at its own interval; or, where the state database was away and
could not be told when it is due, as soon as that is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from services.fetcher.account import HANDFUL, LONGEST_LOGIN_DELAY, Account
from services.fetcher.detached_polls import DetachedPolls
from services.fetcher.interfaces import FetcherContext
from services.fetcher.poll import PATIENCE, AccountPoll
from services.fetcher.poll_end import HELD, OURS, PollRecorder
from services.fetcher.poll_slots import PollSlot, PollSlots
from services.fetcher.pop3.deadlines import WaitMeter
from services.fetcher.redownload import Redownload
from services.fetcher.refused_password import unchanged
from services.fetcher.server_slots import CONNECTIONS, ServerSlots
from shared.errors import (
    ConfigError,
    ServerFault,
    StateUnavailable,
    TooManyConnections,
    Ungreeted,
    Unstorable,
)
from shared.ledger import FETCH_AGAIN, SKIP, UNDELIVERED, AccountStanding
from shared.message import Envelope, Poll
from shared.outcome import Answer, Done, Outcome, Retry

CONCURRENCY: Final = 64
"""Poll jobs that one fetcher process has in hand: those in its main slots, and some that wait."""

GOING_ON: Final = 30.0
"""Seconds for which an account is not due whose poll goes on without its job; it is said again as
long as that does. So long it waits if this process dies."""

CONNECTIONS_PER_HOST: Final = 8
"""Of these at one server, unless the configuration says otherwise."""

ONCE: Final = "once"
"""The reason of a poll job that is to be done now, whatever the schedule says."""

STATE_AWAY: Final = 5.0
"""Seconds after which a poll is tried again for which the state database was out of reach."""

ELSEWHERE: Final = 20.0
"""Seconds after which to look again at an account that another fetcher has: by then that one has
said when the account is due, or renewed its lease, or is dead."""

CROWDED: Final = 15.0
"""Seconds after which to try again at a server that refused our connection as one too many."""

AT_ONCE: Final = (1.0, 2.0, 4.0, 8.0)
"""The same for a poll that is to be done now, one after the other."""

FAULTS: Final = (ServerFault, ConfigError, Unstorable, *OURS)
"""What ends a poll early and is no defect of ours."""

_FAR: Final = 14 * 86_400.0
"""Seconds ahead of any moment that we would write down: a clock has since been set back."""


class Fetcher:
    """Handles poll jobs.

    Args:
        accounts: every account that is configured, by name.
        context: ledger, publisher and the rest.
        connections: how many may be open to one server at a time.
        fewer: the same for servers that take fewer, by ``host:port``.
    """

    def __init__(
        self,
        accounts: Mapping[str, Account],
        context: FetcherContext,
        connections: int = CONNECTIONS_PER_HOST,
        fewer: Mapping[str, int] | None = None,
    ) -> None:
        self._accounts = accounts
        self._context = context
        self._server_slots = ServerSlots(connections, context.clock, fewer)
        self._poll_slots = PollSlots(context.clock)
        self._detached_polls = DetachedPolls(
            self._hold, context.clock, lambda error: context.journal.crashed("", "", error)
        )
        self._poll_end = PollRecorder(context, many=len(accounts) > HANDFUL)
        self._underway: set[str] = set()
        self._polls: dict[str, list[AccountPoll]] = {}

    async def close(self) -> None:
        """End the polls that go on without their jobs."""
        await self._detached_polls.close()

    async def handle(self, envelopes: Sequence[Envelope[Poll]], answer: Answer) -> None:
        """Poll the accounts of these jobs, one after the other.

        What goes wrong with an account is reported here.
        """
        for index, envelope in enumerate(envelopes):
            answer(index, await self._handle_job(envelope))

    async def _handle_job(self, envelope: Envelope[Poll]) -> Outcome:
        name = envelope.account
        account = self._accounts.get(name)
        if account is None:
            return Done(f"account {name} is not configured any more", "polled")
        if name in self._underway:
            await self._hold([name])
            return _going_on(name)
        self._underway.add(name)
        if envelope.payload.reason == ONCE:
            return await self._attempt(account, lambda: None, now=True)
        let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        poll = self._attempt(account, partial(_settle, let_go), now=False)
        outcome = await self._detached_polls.until(name, poll, let_go)
        return _going_on(name) if outcome is None else outcome

    async def _hold(self, names: Sequence[str]) -> None:
        """Let accounts not be due whose polls go on without a job: so long, none is needed."""
        try:
            await self._context.schedule.hold_queued(names, hold=GOING_ON)
        except StateUnavailable as error:
            self._context.journal.trouble("accounts may be queued that are being polled", why=error)

    async def _attempt(self, account: Account, left: Callable[[], None], *, now: bool) -> Outcome:
        try:
            return await self._poll_in_turn(account, left, now=now)
        except StateUnavailable as error:
            # The job goes back to its queue, for whoever is there when the database is: without it,
            # the database takes the account for queued, and it is not.
            why = f"the state database is unavailable: {error}"
            self._context.journal.account_failed(account.name, why, STATE_AWAY, ours=True)
            return Retry(why, after=STATE_AWAY)
        finally:
            self._underway.discard(account.name)

    async def _poll_in_turn(
        self, account: Account, left: Callable[[], None], *, now: bool
    ) -> Outcome:
        """Poll an account when it may be polled, and there is a slot for it at its server.

        Args:
            account: which.
            left: called once its job need not be kept.
            now: wait for that; else the account is due again later, and its job makes room.
        """
        standing = await self._recall(account)
        if (why_not := await self._why_not_now(account, standing, now=now)) is not None:
            return await self._postpone(account, *why_not)
        slow, server = not now and self._poll_slots.was_slow(account.name), account.server
        waits = now or not self._server_slots.take(server, slow=slow)
        if waits:
            turn = self._server_slots.line_up(server, standing.due, slow=slow, insists=now)
            if turn is not None:
                left()
            if turn is None or not await self._server_slots.wait(server, turn):
                wait = self._server_slots.again_in(server)
                return await self._send_away(account, wait, f"all slots at {server} are taken")
        started = self._context.clock.monotonic()
        try:
            if waits and not now:  # long ago, perhaps
                standing = await self._recall(account)
                if (why_not := await self._why_not_now(account, standing, now=now)) is not None:
                    return await self._postpone(account, *why_not)
            return await self._poll_in_slot(account, standing, left, now=now)
        finally:
            took = self._context.clock.monotonic() - started
            self._server_slots.give_back(server, took, slow=slow)

    async def _recall(self, account: Account) -> AccountStanding:
        standing = await self._context.ledger.recall(account.name, account.server)
        self._server_slots.learn(account.server, standing.quirks.get(CONNECTIONS))
        return standing

    async def _why_not_now(
        self, account: Account, standing: AccountStanding, *, now: bool
    ) -> tuple[float, str] | None:
        """Return for how many seconds an account is not to be polled, and why; None if it is."""
        if standing.held is not None and standing.choice is None:
            if now:  # before the operator has chosen, its mail stays at the provider
                self._context.journal.account_held(account.name, standing.held)
            return HELD, f"it is held: {standing.held}"
        # However long: unlike what a server asks for, it is the operator's word.
        if (pause := standing.paused_until - self._context.clock.now()) > 0:
            if now:
                self._context.journal.note("not polled: it is paused", account=account.name)
            return min(pause, HELD), "it is paused"
        if (wait := await self._too_early(account, standing, now=now)) > 0:
            return wait, "the server wants a pause before the next login"
        if not now and (lacking := self._context.lacking(0)) is not None:
            return CROWDED, lacking
        return None

    async def _poll_in_slot(
        self, account: Account, standing: AccountStanding, left: Callable[[], None], *, now: bool
    ) -> Outcome:
        """Poll an account in a slot of this process."""
        slot = await self._poll_slots.enter(account.name, account.server, left, insist=now)
        if not isinstance(slot, PollSlot):
            return await self._send_away(account, slot, "all slots are taken")
        try:
            outcome = await self._poll_under_lease(account, standing, slot.pace, now=now)
        finally:
            newly_slow = self._poll_slots.leave(account.name, slot)
        if newly_slow:
            self._context.journal.trouble(
                "the server is slow or hangs: its account uses the slow slots from now on",
                account=account.name,
                server=account.server,
                seconds=round(slot.pace.worst),
            )
        return outcome

    async def _too_early(self, account: Account, standing: AccountStanding, *, now: bool) -> float:
        """Return for how many seconds not to log in: the server wants that, or it refused us."""
        time = self._context.clock.now()
        wait = _ahead(standing.login_after, time)
        if wait > LONGEST_LOGIN_DELAY:  # an earlier version believed it
            wait = 0.0
        if now:
            if wait > PATIENCE:
                self._context.journal.trouble(
                    "not polled: the server requires a delay between logins",
                    account=account.name,
                    seconds=round(wait),
                )
                return wait
            await self._context.clock.sleep(wait)
            return 0.0
        refused_for = _ahead(standing.retry_at, time)
        if standing.refused is None or refused_for <= wait:
            return wait
        try:
            same = await unchanged(account.login, standing.refused)
        except ConfigError:  # there is no password now: the poll will say so
            return wait
        interval = account.timetable.interval(self._context.clock.now())
        return min(refused_for, interval) if same else wait

    async def _send_away(self, account: Account, wait: float, why: str) -> Outcome:
        """Let an account come again; since when it has been due stays, and so does its turn."""
        await self._context.schedule.hold_queued([account.name], hold=wait)
        return Done(f"{account.name} is polled later: {why}", "polled")

    async def _postpone(self, account: Account, wait: float, why: str) -> Outcome:
        await self._context.schedule.put_off(account.name, until=self._context.clock.now() + wait)
        return Done(f"{account.name} is polled later: {why}", "polled")

    async def _poll_under_lease(
        self, account: Account, standing: AccountStanding, pace: WaitMeter, *, now: bool
    ) -> Outcome:
        """Poll an account under its lease, so that no other fetcher does at the same time."""
        lease = f"account:{account.name}"
        if not await self._context.ledger.lease(lease):
            await self._context.schedule.hold_queued([account.name], hold=ELSEWHERE)
            return Done(f"another fetcher is polling account {account.name}", "polled")
        try:
            standing = await self._apply_choice(account, standing)
            await self._poll(account, standing, pace, now=now)
        except StateUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  (a defect, met by this account alone)
            await self._poll_end.record_defect(account, standing, error)
        finally:
            await self._context.ledger.release(lease)
        return Done(account.name, "polled")

    async def _apply_choice(self, account: Account, standing: AccountStanding) -> AccountStanding:
        """Do, or begin, what comes before a poll; return how the account stands then.

        What the operator wants to come again is forgotten; at the first poll of an account, what is
        there may have to be skipped.
        """
        choice = standing.choice
        if account.intake.skip_existing and choice is None and not standing.polled:
            skips = await self._context.ledger.skip_if_new(account.name)
            return standing._replace(choice=SKIP) if skips else standing
        if choice not in (FETCH_AGAIN, UNDELIVERED):
            return standing
        since = None
        if choice == UNDELIVERED:
            since = self._context.clock.now() - self._context.remembers
        count = await self._context.ledger.fetch_again(account.name, choice, since=since)
        self._context.journal.note(
            "messages count as not fetched, and will be fetched again",
            account=account.name,
            messages=count,
        )
        return standing._replace(troubles={}, choice=None, busiest=None)

    async def _poll(
        self,
        account: Account,
        standing: AccountStanding,
        pace: WaitMeter,
        *,
        now: bool,
        waits: Sequence[float] = AT_ONCE,
    ) -> None:
        """Poll an account, and say how it went.

        Args:
            account: which.
            standing: how it stands.
            pace: told of every wait for the server.
            now: where its server refuses one connection too many, wait and try again.
            waits: seconds for that, one after the other.
        """
        moved = await self._note_move(account, standing)
        started = self._context.clock.monotonic()
        sessions = AccountPoll(account, self._context, standing, pace)
        underway = self._polls.setdefault(account.server, [])
        underway.append(sessions)
        try:
            more = await sessions.run()
        except (TooManyConnections, Ungreeted) as error:
            # Some servers say nothing to one connection too many; but so do those that are ill.
            if isinstance(error, Ungreeted) and not await _any_logs_in(underway):
                return await self._poll_end.back_off(account, error, standing, sessions)
            ours = await self._note_crowded(account, error)
            if now and waits:
                with pace.waiting():
                    await self._context.clock.sleep(waits[0])
                settled = standing._replace(maildrop=account.maildrop)
                return await self._poll(account, settled, pace, now=now, waits=waits[1:])
            if ours and not now:
                await self._context.schedule.hold_queued([account.name], hold=CROWDED)
            else:
                await self._poll_end.back_off(account, error, standing, sessions)
        except Redownload as error:
            await self._poll_end.hold(account, error)
        except FAULTS as error:
            await self._poll_end.back_off(account, error, standing, sessions)
        else:
            seconds = self._context.clock.monotonic() - started
            self._context.journal.polled(account.name, sessions.found, sessions.fetched, seconds)
            await sessions.end_choice()
            await self._poll_end.finish(account, sessions, [*moved, *sessions.undone], more=more)
        finally:
            underway.remove(sessions)

    async def _note_move(self, account: Account, standing: AccountStanding) -> list[str]:
        """Say it, before the first poll, where another account has had this maildrop, or this
        account another one: two configurations may share the ledger, and each takes it back then.
        """
        if standing.maildrop == account.maildrop:
            return []
        others = await self._context.ledger.move_in(account.name, account.maildrop)
        said = [_moved(other, configured=other in self._accounts) for other in others]
        if standing.maildrop is not None:
            said.append(_was_another(account, standing.maildrop))
        for sentence in said:
            self._context.journal.trouble(sentence, account=account.name)
        return said

    async def _note_crowded(self, account: Account, error: ServerFault) -> bool:
        """Lower the limit of a server that refused a connection; return whether ours crowd it."""
        quirk = self._server_slots.note_refused(account.server)
        if quirk is not None:
            await self._context.ledger.learn(account.server, quirk)
        self._context.journal.trouble(
            "the server accepts no more connections at the moment",
            account=account.name,
            limit=self._server_slots.limit(account.server),
            why=error.said,
        )
        return quirk is not None


def _going_on(account: str) -> Outcome:
    return Done(f"this fetcher is polling account {account}", "polled")


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _any_logs_in(polls: Sequence[AccountPoll]) -> bool:
    """Return whether one of these polls gets past its login, as soon as that is known."""
    waiting = {poll.logged_in for poll in polls}
    while waiting:
        known, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(login.result() for login in known):
            return True
    return False


def _ahead(moment: float, now: float) -> float:
    """Return in how many seconds a moment comes, 0 where it is past or cannot be true."""
    return moment - now if now < moment < now + _FAR else 0.0


def _was_another(account: Account, before: str) -> str:
    return (
        f"account {account.name} was polled as the maildrop {before} before, and is"
        f" {account.maildrop} now: what is the same in both is not delivered again. If this is said"
        " again and again, another configuration has an account of this name in the same state"
        " database: rename one of them, or give each a state database of its own (state.url,"
        " data_dir)"
    )


def _moved(other: str, *, configured: bool) -> str:
    if configured:
        return f"account {other} has the same maildrop: its mail comes once for each of them"
    return (
        f"this maildrop was polled as account {other} before: what lies in it comes again, since"
        " each account has its own messages; to avoid that, name it as it was"
    )
