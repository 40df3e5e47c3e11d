"""Commands about one message each, asked ahead of their answers as far as is allowed.

It only asks: whoever takes the next number reads the answer to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from services.fetcher.exchange import Exchange


class Window:
    """Asks for messages in their order, with no more than so many answers outstanding.

    What is needed is asked for once half of the window has been answered. The first commands are
    sent at once.

    Args:
        verb: of the commands; TOP is sent with no lines of the body.
        numbers: taken from it as they are asked for; where it ends, nothing more is.
        most: commands outstanding; 1 waits for each answer.
    """

    __slots__ = ("_ahead", "_asked", "_exchange", "_most", "_verb")

    def __init__(self, exchange: Exchange, verb: str, numbers: Iterable[int], most: int) -> None:
        self._exchange = exchange
        self._verb = verb
        self._ahead = iter(numbers)
        self._most = most
        self._asked: deque[int] = deque()
        self._ask()

    def next(self) -> int | None:
        """Return the number of which the answer comes next; None after the last."""
        if len(self._asked) <= self._most // 2:
            self._ask()
        return self._asked.popleft() if self._asked else None

    def _ask(self) -> None:
        asked = list(islice(self._ahead, self._most - len(self._asked)))
        if asked:
            self._exchange.write(self._exchange.lines(self._verb, asked))
            self._asked.extend(asked)
