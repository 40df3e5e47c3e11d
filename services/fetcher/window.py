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
        mark: whether the last of several commands is to be followed by a LIST for the same message,
            the answer to which names it.

    Attributes:
        marked: the message that this was done for, 0 as long as it was not.
    """

    __slots__ = (
        "_ahead",
        "_asked",
        "_exchange",
        "_last",
        "_mark",
        "_most",
        "_over",
        "_total",
        "_verb",
        "marked",
    )

    def __init__(
        self,
        exchange: Exchange,
        verb: str,
        numbers: Iterable[int],
        most: int,
        *,
        mark: bool = False,
    ) -> None:
        self.marked = 0
        self._last = self._total = 0
        self._mark = mark
        self._over = False
        self._exchange = exchange
        self._verb = verb
        self._ahead = iter(numbers)
        self._most = most
        self._asked: deque[int] = deque()
        self._ask()

    def next(self) -> int | None:
        """Return the number of which the answer comes next; None after the last."""
        if len(self._asked) <= self._most // 2 and not self._over:
            self._ask()
        return self._asked.popleft() if self._asked else None

    def _ask(self) -> None:
        wanted = self._most - len(self._asked)
        asked = list(islice(self._ahead, wanted))
        self._over = len(asked) < wanted
        lines = b""
        if asked:
            lines = self._exchange.lines(self._verb, asked)
            self._asked.extend(asked)
            self._last = asked[-1]
            self._total += len(asked)
        if self._mark and not self.marked and self._total > 1 and self._over:
            self.marked = self._last
            lines += self._exchange.line("LIST", self._last)
        if lines:
            self._exchange.write(lines)
