"""One letter after the other over one connection at a time, for as long as there are letters.

A kept connection that turns out to be dead costs one fresh try, not a failure. Whatever goes wrong
in the middle of a letter, the connection is cut at once, with nothing more sent.
"""

from __future__ import annotations

from services.deliverer.courier import Post, Result, Throttled
from services.deliverer.pool import Pool
from services.deliverer.session import PipelineBroken, Session
from services.deliverer.transaction import Following, transact
from shared.errors import Unreachable


class Conversation:
    """Has letters sent, with a session out of the pool.

    Args:
        pool: where sessions come from, and go back to.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._announced: Session | None = None  # to which the next letter is bound

    async def transact(self, post: Post, following: Following) -> dict[str, Result]:
        """Send a letter; see ``transaction.transact``.

        Args:
            post: the letter: the one that ``following`` returned last, if it returned one.
            following: is asked for the next one.
        """
        session, self._announced = self._announced, None
        if session is None:
            session = await self._pool.lend()
        reused = session.served > 0
        try:
            return await self._over(session, post, following)
        except Throttled:
            raise  # a fresh connection does not make it want more
        except Unreachable as error:
            if not reused and not isinstance(error, PipelineBroken):
                raise
        return await self._over(await self._pool.lend(fresh=True), post, following)

    async def _over(self, session: Session, post: Post, following: Following) -> dict[str, Result]:
        try:
            results = await transact(session, post, following)
        except BaseException:
            session.channel.abort()
            raise
        if session.announced is None:
            self._pool.take_back(session)
        else:
            self._announced = session
        return results
