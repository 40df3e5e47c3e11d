"""Looking into a queue of RabbitMQ: AMQP shows messages to those alone who take them out.

A look takes the messages that waited when it began, without acknowledging them, and gives back what
it did not ``take`` when it ends, in the old order. They come through one consumer after the other,
each for a ``WINDOW`` of messages, and ``AHEAD`` of them at a time; so neither side holds more than
these in memory, however long the queue is. (A window that gave back at once what was seen would be
handed the same again: quorum queues put what is returned at the head.) If its process is killed,
the broker gives all back, some windows before others. If it looks at a part only, the rest may be
before that afterwards.

Nobody else sees them meanwhile. So who looks into a queue that nothing else consumes waits until
others have done, for ``LOOKING`` seconds: a look shows all or ends with an error, never a part as
if it were all. Two who begin at once see each other's consumers, and both step back for a moment.

Nothing confirms an acknowledgement, and a channel keeps to itself what is more than 32 of them, for
a moment, and takes that along when it is closed. But a quorum queue forgets a consumer that was
cancelled when the last of its messages is acknowledged or given back; and how many consumers it has
can be asked for. So a look has ended when its consumers are gone.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from amqp import spec
from amqp.exceptions import AMQPError
from kombu.connection import Connection

from shared.errors import BrokerUnavailable, InUse
from shared.log import Report

WINDOW: Final = 32
"""Messages of a consumer. Of more than these, given back together, a quorum queue does not keep the
order."""

AHEAD: Final = 4
"""Windows that are on their way to us at most."""

LOOKING: Final = 60.0
"""Seconds to wait until others have done."""

STEPPED_BACK: Final = (0.02, 0.2)
"""Seconds between two tries, at least and at most: by chance, so that two do not stay in step."""

PIPELINED: Final = 25
"""Windows that are given back, or messages taken, at a time: fewer than a channel mixes up."""

AMONG_OTHERS: Final = 1.0
"""Seconds to wait for the end of a look into a queue that others consume, too."""

TURN: Final = 0.01
QUIET: Final = 0.2
SILENCE: Final = 60.0
"""Seconds without a message after which it is asked whether there are any, and after which a broker
that has some and hands none out counts as gone."""


@contextmanager
def looking(
    connection: Connection, queue: str, sender: str, *, alone: bool, report: Report
) -> Iterator[Look]:
    """Look into a queue until the block ends.

    Args:
        connection: open.
        queue: its name.
        sender: how the management UI shows this consumer.
        alone: whether nobody else is to have messages of it in hand meanwhile.
        report: is told that others are waited for.

    Raises:
        InUse: others do not end their look.
        BrokerUnavailable: the broker hands nothing out.
        amqp.exceptions.AMQPError, OSError: for the caller to translate.
    """
    look = _begin(connection, queue, sender, alone, report)
    try:
        yield look
    finally:
        look.end()


@dataclass(slots=True)
class _Window:
    """Messages that come through one consumer, one after the other.

    Attributes:
        tag: of the consumer.
        size: how many it was opened for.
        first: the delivery tag of the first; those of the others follow.
        count: how many have come.
        taken: a bit for each that was taken, the lowest for the first.
        acked: a bit for each that was acknowledged.
    """

    tag: str
    size: int
    first: int = 0
    count: int = 0
    taken: int = 0
    acked: int = 0

    @property
    def left(self) -> int:
        """The delivery tag of the last that was not taken, 0 where all were."""
        untaken = ~self.taken & ((1 << self.count) - 1)
        return self.first + untaken.bit_length() - 1 if untaken else 0

    @property
    def unacked(self) -> list[int]:
        """The delivery tags of those that were taken, and are not acknowledged."""
        due = self.taken & ~self.acked
        return [self.first + bit for bit in range(due.bit_length()) if due >> bit & 1]

    @property
    def begins_taken(self) -> bool:
        """Whether no other comes before one that was taken."""
        return self.taken & (self.taken + 1) == 0


class Look:
    """The messages that waited in a queue when we began to look; not those that come later.

    Attributes:
        found: how many they are.
        taken: how many of them were taken for good.
    """

    def __init__(self, connection: Connection, queue: str, sender: str) -> None:
        self.found = 0
        self.taken = 0
        self._connection = connection
        self._channel: Any = connection.channel()
        self._channel.auto_decode = False  # the body is bytes, whatever its sender says of it
        self._queue = queue
        self._sender = sender
        self._arrived: deque[Any] = deque()
        self._asked = 0  # messages that windows were opened for
        self._given = 0
        self._windows: deque[_Window] = deque()  # of which something is left
        self._coming: dict[str, _Window] = {}  # those that are not complete, by consumer
        self._opened = 0
        self._prefetch = 0
        self._others = 0  # consumers
        self._alone = False

    def begin(self, *, alone: bool) -> bool:
        """Begin; return whether that was possible, which it is not while others look."""
        said = self._declare_passive()
        self._alone, self._others = alone, int(said.consumer_count)
        if alone and self._others:
            return False
        self.found = int(said.message_count)
        if not self.found:
            return True
        self._open()
        return not alone or self._declare_passive().consumer_count == 1

    def messages(self) -> Iterator[Any]:
        """Yield them, as the library has them."""
        while self._given < self.found and self._wait():
            self._given += 1
            yield self._arrived.popleft()

    def take(self, message: Any) -> None:
        """Note that a message of this look is to be deleted for good."""
        tag = message.delivery_tag
        window = next(w for w in self._windows if w.first <= tag < w.first + w.count)
        window.taken |= 1 << (tag - window.first)
        self.taken += 1

    def acknowledge(self) -> None:
        """Delete what was taken, but for windows that are not complete: more would come in them."""
        cleared = True
        for window in list(self._windows):
            if window.tag in self._coming:
                return
            self._acknowledge(window, cleared)
            if window.left:
                cleared = False
            else:
                self._windows.remove(window)

    def _acknowledge(self, window: _Window, cleared: bool) -> None:
        """Acknowledge what was taken of a window, at once where nothing is left before it."""
        due = window.unacked
        if due and cleared and window.begins_taken:
            self._channel.basic_ack(due[-1], multiple=True)
        else:
            for tag in due:
                self._channel.basic_ack(tag)
        window.acked = window.taken

    def end(self) -> None:
        """Give back all that was not taken; return when what was taken is gone for certain.

        Raises:
            BrokerUnavailable: RabbitMQ does not say that it is.
        """
        try:
            if self._opened:
                self._give_back()
        finally:
            with suppress(AMQPError, OSError):
                self._channel.close()

    def _give_back(self) -> None:
        self._await_the_coming()
        for consumer in list(self._coming):
            self._channel.basic_cancel(consumer)
        self._coming.clear()
        self.acknowledge()
        lefts = [tag for window in self._windows if (tag := window.left)]
        together = PIPELINED if self.taken < PIPELINED else 1
        for start in range(0, len(lefts), together):
            for tag in lefts[start : start + together]:
                self._nack(tag)
            self._until_gone(max(0, len(lefts) - start - together))
        self._nack(0)  # what has come since
        self._until_gone(0)

    def _await_the_coming(self) -> None:
        """Let the windows be complete: what comes for a consumer that is gone goes back too early.

        Others may have taken what there was for them; then nothing comes.
        """
        with suppress(TimeoutError):
            while self._coming:
                self._connection.drain_events(timeout=QUIET)
                self._arrived.clear()

    def _until_gone(self, consumers: int) -> None:
        """Wait until no more than so many of ours are there."""
        until = time.monotonic() + (SILENCE if self._alone else AMONG_OTHERS)
        while self._declare_passive().consumer_count > self._others + consumers:
            if time.monotonic() > until:
                if self._alone and self.taken:
                    raise BrokerUnavailable(
                        f"{self._queue}: RabbitMQ does not say whether what was taken out is gone;"
                        " some of it may still be there, too"
                    )
                return
            time.sleep(TURN)

    def _nack(self, tag: int) -> None:
        """Give back all up to a delivery tag; all that there is for 0."""
        self._channel.send_method(spec.Basic.Nack, "Lbb", (tag, True, True))

    def _wait(self) -> bool:
        """Return whether a message has arrived; not so where others have taken what there was."""
        while len(self._coming) < AHEAD and self._asked < self.found:
            self._open()
        since, gone = time.monotonic(), 0
        while not self._arrived:
            try:
                self._connection.drain_events(timeout=QUIET)
            except TimeoutError as error:
                gone = gone + 1 if self._is_empty() else 0
                if gone > 1:  # twice: the last may have been on their way to us the first time
                    break
                if time.monotonic() - since > SILENCE:
                    why = f"{self._queue}: RabbitMQ hands out nothing, and says that there is some"
                    raise BrokerUnavailable(why) from error
        return bool(self._arrived)

    def _is_empty(self) -> bool:
        """Return whether nothing waits, and nobody but us has anything in hand."""
        said = self._declare_passive()
        ours = sum(1 for w in self._windows if w.left or w.tag in self._coming)
        return not said.message_count and said.consumer_count <= self._others + ours

    def _open(self) -> None:
        """Let the broker send a window of messages more."""
        size = min(WINDOW, self.found - self._asked)
        if size != self._prefetch:
            self._channel.basic_qos(0, size, False)
            self._prefetch = size
        self._asked += size
        self._opened += 1
        window = _Window(f"{self._sender}.{os.getpid()}.{self._opened}", size)
        self._windows.append(window)
        self._coming[window.tag] = window
        waits = self._opened == 1  # for the answer, which may be that there is no such queue
        self._channel.basic_consume(
            self._queue, window.tag, nowait=not waits, callback=self._arrive
        )

    def _arrive(self, message: Any) -> None:
        window = self._coming.get(message.delivery_info["consumer_tag"])
        if window is None:  # the look has ended, and what has come since goes back
            return
        window.first = window.first or message.delivery_tag
        window.count += 1
        self._arrived.append(message)
        if window.count == window.size:
            del self._coming[window.tag]
            self._channel.basic_cancel(window.tag, nowait=True)

    def _declare_passive(self) -> Any:
        return self._channel.queue_declare(self._queue, passive=True)


def _begin(connection: Connection, queue: str, sender: str, alone: bool, report: Report) -> Look:
    patience, told = time.monotonic() + LOOKING, False
    while True:
        look = Look(connection, queue, sender)
        try:
            if look.begin(alone=alone):
                return look
        except BaseException:
            look.end()
            raise
        look.end()
        if time.monotonic() > patience:
            raise InUse(
                f"{queue}: others have had its messages in hand for {LOOKING:.0f} seconds: another"
                " command that looks into it, or a consumer that is not of this program"
            )
        if not told:
            report("another command is looking into this queue; waiting", queue=queue)
            told = True
        time.sleep(random.uniform(*STEPPED_BACK))  # noqa: S311 - no secret
