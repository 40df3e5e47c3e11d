"""What is asked of the state database: calls that wait at the same moment share a transaction.

One worker thread holds one connection. Each operation runs once for all that is asked of it, in one
order for every transaction. A value that the database does not take fails the question that brought
it, and nobody else's: what was asked is asked again by halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple, cast

from sqlalchemy import Connection

from shared.clock import Clock
from shared.errors import StateUnavailable, Unstorable
from shared.group_commit import GroupCommit
from shared.halving import run_halving
from shared.state import (
    choices,
    deliveries,
    imports,
    installation,
    leases,
    oauth_tokens,
    pauses,
    pruning,
    schedule,
    standing,
    uid_ledger,
    undelivered,
)
from shared.state.database import Database
from shared.state.operations import Asked, Operation, Transaction, parts

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ORDER: Final[tuple[Operation[Any, *tuple[Any, ...]], ...]] = (
    leases.RENEW,
    deliveries.FINISH,
    deliveries.UNCLAIM,
    leases.GIVE_BACK,
    leases.TAKE,
    deliveries.CLAIM,
    uid_ledger.RECORD,
    uid_ledger.MEASURE,
    imports.IMPORT,
    imports.LOOK_AT,
    uid_ledger.FORGET,
    undelivered.FORGET_LOST,
    uid_ledger.SEEN,
    uid_ledger.KNOWN,
    uid_ledger.HEADS,
    uid_ledger.ALIKE,
    standing.TROUBLED,
    standing.SETTLED,
    standing.LEARN,
    standing.MOVE_IN,
    choices.ADOPTION,
    choices.SKIPPING,
    choices.SKIP_IF_NEW,
    choices.COUNT_AS_DELIVERED,
    choices.AGAIN,
    choices.CHOOSE,
    choices.HOLD_BACK,
    choices.HOLD_ONE,
    pauses.FETCH_NOW,
    pauses.PAUSE,
    installation.ASK,
    installation.ADVANCE,
    installation.MARKED,
    schedule.POLLED,
    schedule.HOLD,
    schedule.UNQUEUE,
    schedule.PUT_OFF,
    schedule.RELEASE,
    schedule.ENROL,
    schedule.CLAIM_DUE,
    oauth_tokens.NOTE_RENEWAL,
    oauth_tokens.KEEP,
    oauth_tokens.RESEAL,
    oauth_tokens.FORGET,
    oauth_tokens.READ,
    oauth_tokens.READ_ALL,
    standing.RECALL,
    schedule.ACCOUNTS,
    undelivered.DELIVERED_TO_NOBODY,
    installation.STANDING,
    installation.QUESTION,
    installation.COUNT_HELD,
    pruning.PRUNE_DELIVERIES,
    pruning.PRUNE_IDENTITIES,
    pruning.PRUNE_LEASES,
    standing.PRUNE_STANDING,
    schedule.PRUNE_ACCOUNTS,
    leases.EXPIRE,
)
"""The order of operations in a transaction: what frees a name before what takes it, what writes
before what reads."""

_RANK: Final = {operation: rank for rank, operation in enumerate(_ORDER)}


class Transactions:
    """The transactions of one process.

    Args:
        database: open, or to be opened by the worker.
        worker: the one thread that uses it.
        owner: whose leases are taken.
        clock: the wall clock for what is written.
    """

    def __init__(self, database: Database, worker: ThreadPoolExecutor, owner: str, clock: Clock):
        self._database = database
        self._owner = owner
        self._clock = clock
        self._grouped: GroupCommit[Asked, Any] = GroupCommit(self._run, worker)

    async def ask(self, operation: Operation[R, *Ts], *arguments: *Ts) -> R:
        """Ask for one thing; what it writes is durable on return.

        Raises:
            Unstorable: the database does not take a value.
            StateUnavailable: it is not known whether it was done.
        """
        return cast(R, await self._grouped((operation, arguments)))

    async def ask_all(
        self, operation: Operation[R, T], items: Sequence[T]
    ) -> Sequence[R | Unstorable]:
        """Ask for many; Unstorable is the answer for each that has a bad value.

        Raises:
            StateUnavailable: it is not known whether it was done.
        """
        if not items:
            return ()
        answers = await self._grouped.all([(operation, (item,)) for item in items])
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, Unstorable):
                raise answer
        return cast(Sequence[R | Unstorable], answers)

    def _run(self, asked: Sequence[Asked]) -> Sequence[Any]:
        return run_halving(self._in_one, asked, parts, StateUnavailable)

    def _in_one(self, asked: Sequence[Asked]) -> Sequence[Any]:
        writes = any(operation.writes for operation, _ in asked)
        return self._database.transaction(partial(self._answer, asked), writes=writes)

    def _answer(self, asked: Sequence[Asked], connection: Connection) -> Sequence[Any]:
        """Run each operation once for all who ask it; return the answers in the order asked."""
        transaction = Transaction(connection, self._owner, self._clock.now())
        indexes: dict[Operation[Any, *tuple[Any, ...]], list[int]] = {}
        for index, (operation, _) in enumerate(asked):
            indexes.setdefault(operation, []).append(index)
        answers: list[Any] = [None] * len(asked)
        for operation in sorted(indexes, key=_RANK.__getitem__):
            mine = indexes[operation]
            found = operation.run(transaction, [asked[index][1] for index in mine])
            for index, answer in zip(mine, found, strict=True):
                answers[index] = answer
        return answers
