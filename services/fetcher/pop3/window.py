"""Commands about one message each, asked ahead of their answers as far as is allowed.

It only asks: whoever takes the next number reads the answer to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from services.fetcher.pop3.client import Pop3Client

RETRIEVE_WINDOW: Final = 64
"""RETR and TOP commands outstanding at a server that offers PIPELINING."""

SHORT_WINDOW: Final = 512
"""DELE and LIST commands outstanding; command and reply are short, so this fits into buffers."""

MARK_AFTER: Final = 16
"""Messages after which the next mark is set: so many are held until it is known what they are."""


class Window:
    """Asks for messages in their order, with no more than so many answers outstanding.

    What is needed is asked for once half of the window has been answered. The first commands are
    sent at once.

    Args:
        verb: of the commands; TOP is sent with no lines of the body.
        numbers: taken from it as they are asked for; where it ends, nothing more is.
        most: commands outstanding; 1 waits for each answer.
        mark: whether some of several commands, and the last one, are to be followed by a mark: a
            LIST for the same message, the answer to which names it.
    """

    __slots__ = (
        "_ahead",
        "_asked",
        "_client",
        "_last",
        "_mark",
        "_most",
        "_over",
        "_total",
        "_unmarked",
        "_verb",
    )

    def __init__(
        self,
        client: Pop3Client,
        verb: str,
        numbers: Iterable[int],
        most: int,
        *,
        mark: bool = False,
    ) -> None:
        self._last = self._total = self._unmarked = 0
        self._mark = mark
        self._over = False
        self._client = client
        self._verb = verb
        self._ahead = iter(numbers)
        self._most = most
        self._asked: deque[int] = deque()
        self._ask()

    def next(self) -> int | None:
        """Return the number of which the answer comes next, below 0 for a mark; None at the end."""
        if len(self._asked) <= self._most // 2 and not self._over:
            self._ask()
        return self._asked.popleft() if self._asked else None

    def _ask(self) -> None:
        lines = b""
        while (wanted := self._most - len(self._asked)) > 0:
            if self._mark:
                wanted = min(wanted, MARK_AFTER - self._unmarked)
            asked = list(islice(self._ahead, wanted))
            if asked:
                lines += self._client.lines(self._verb, asked)
                self._asked.extend(asked)
                self._last = asked[-1]
                self._total += len(asked)
                self._unmarked += len(asked)
            self._over = len(asked) < wanted
            if self._is_mark_due():
                lines += self._client.line("LIST", self._last)
                self._asked.append(-self._last)
                self._unmarked = 0
            if self._over:
                break
        if lines:
            self._client.write(lines)

    def _is_mark_due(self) -> bool:
        if not self._mark or self._total <= 1 or not self._unmarked:
            return False
        return self._over or self._unmarked >= MARK_AFTER
