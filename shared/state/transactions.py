"""What is asked of the state database: calls that wait at the same moment share a transaction.

One worker thread holds one connection. Each operation runs once for all that is asked of it, in one
order for every transaction. A value that the database does not take fails the question that brought
it, and nobody else's: what was asked is asked again by halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection

from shared.clock import Clock
from shared.errors import StateUnavailable, Unstorable
from shared.group_commit import GroupCommit
from shared.halving import run_halving
from shared.state.choices import (
    ADOPTION,
    AGAIN,
    CHOOSE,
    COUNT_AS_DELIVERED,
    HOLD_BACK,
)
from shared.state.database import Database
from shared.state.deliveries import CLAIM, FINISH, UNCLAIM
from shared.state.installation import (
    ASK,
    COUNT_HELD,
    MARKED,
    NOTE,
    QUESTION,
    STANDING,
)
from shared.state.leases import EXPIRE, GIVE_BACK, RENEW, TAKE
from shared.state.operations import Asked, Operation, Transaction, parts, run_all
from shared.state.pruning import (
    PRUNE_DELIVERIES,
    PRUNE_IDENTITIES,
    PRUNE_LEASES,
)
from shared.state.schedule import (
    ACCOUNTS,
    CLAIM_DUE,
    ENROL,
    HOLD,
    POLLED,
    PRUNE_ACCOUNTS,
    PUT_OFF,
    RELEASE,
    UNQUEUE,
)
from shared.state.standing import (
    LEARN,
    MOVE_IN,
    PRUNE_STANDING,
    RECALL,
    SETTLED,
    TROUBLED,
)
from shared.state.uid_ledger import (
    FORGET,
    HEADS,
    KNOWN,
    MEASURE,
    RECORD,
    SEEN,
)
from shared.state.undelivered import DELIVERED_TO_NOBODY, FORGET_LOST

T = TypeVar("T")
R = TypeVar("R")

_ORDER: Final[tuple[Operation[Any, Any], ...]] = (
    RENEW,
    FINISH,
    UNCLAIM,
    GIVE_BACK,
    TAKE,
    CLAIM,
    RECORD,
    MEASURE,
    FORGET,
    FORGET_LOST,
    SEEN,
    KNOWN,
    HEADS,
    TROUBLED,
    SETTLED,
    LEARN,
    MOVE_IN,
    ADOPTION,
    COUNT_AS_DELIVERED,
    AGAIN,
    CHOOSE,
    HOLD_BACK,
    ASK,
    NOTE,
    MARKED,
    POLLED,
    HOLD,
    UNQUEUE,
    PUT_OFF,
    RELEASE,
    ENROL,
    CLAIM_DUE,
    RECALL,
    ACCOUNTS,
    DELIVERED_TO_NOBODY,
    STANDING,
    QUESTION,
    COUNT_HELD,
    PRUNE_DELIVERIES,
    PRUNE_IDENTITIES,
    PRUNE_LEASES,
    PRUNE_STANDING,
    PRUNE_ACCOUNTS,
    EXPIRE,
)
"""The order of operations in a transaction: what frees a name before what takes it, what writes
before what reads."""


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

    async def ask(self, operation: Operation[T, R], item: T) -> R:
        """Ask for one thing; what it writes is durable on return.

        Raises:
            Unstorable: the database does not take a value.
            StateUnavailable: it is not known whether it was done.
        """
        return cast(R, await self._grouped((operation, item)))

    async def ask_all(
        self, operation: Operation[T, R], items: Sequence[T]
    ) -> Sequence[R | Unstorable]:
        """Ask for many; Unstorable is the answer for each that has a bad value.

        Raises:
            StateUnavailable: it is not known whether it was done.
        """
        if not items:
            return ()
        answers = await self._grouped.all([(operation, item) for item in items])
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
        return run_all(Transaction(connection, self._owner, self._clock.now()), _ORDER, asked)
