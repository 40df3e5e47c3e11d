"""What RabbitMQ means when it refuses a connection or a channel, for both AMQP libraries.

It trusts the broker's own words, which are the same from 3.10 to 4.x, and not its reply codes: 530
(NOT_ALLOWED) stands for a limit, for a virtual host that is not there and for one that is closed to
us alike. What is not in the table is an error of no known kind, which passes.

Who can mend it decides. A limit passes by itself, as soon as somebody disconnects. A virtual host
or a permission is given by whoever runs the broker, and may come after us where one is set up. A
login that is refused may be one that is not made yet, or a password that is wrong here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.broker.amqp_url import WHERE
from shared.clock import Clock
from shared.errors import BrokerLimit, BrokerRefuses, BrokerUnavailable
from shared.log import printable

PATIENCE: Final = 30.0
"""Seconds from the first refusal of a login until it is believed. A broker that is just being set
up has its users later than its port; and whoever started this process with a password that is wrong
is to hear of it."""


class Doubt:
    """Doubts for a while that a login which is refused is wrong.

    Args:
        clock: tells for how long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def over(self, *, login_refused: bool) -> bool:
        """Return whether a login was refused at each try for ``PATIENCE``, this one included."""
        now = self._clock.monotonic()
        if not login_refused:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now - self._since >= PATIENCE


class _Meaning(NamedTuple):
    """What the broker means by words that occur together in what it says."""

    words: tuple[str, ...]
    kind: type[BrokerLimit | BrokerRefuses]
    what: str
    login: bool = False


_MEANINGS: Final = (
    # "access to vhost 'V' refused for user 'U': connection limit (N) is reached", "connection
    # refused for user 'U': user connection limit (N) is reached", "connection refused: node
    # connection limit (N) is reached", in rabbit_reader.erl.
    _Meaning(("connection limit (", "is reached"), BrokerLimit, "no more connections"),
    # In rabbit_reader.erl, too: "number of channels opened for user 'U' has reached the maximum
    # allowed user limit of (N)", "... on node 'V' has reached the maximum allowed limit of (N)".
    _Meaning(("number of channels opened", "has reached"), BrokerLimit, "no more channels"),
    # "cannot declare queue 'Q': queue limit in vhost 'V' (N) is reached", in rabbit_amqqueue.erl.
    _Meaning(("queue limit in ", "is reached"), BrokerLimit, "no more queues"),
    # "access to vhost 'V' refused for user 'U': vhost 'V' is down", in rabbit_reader.erl; here the
    # reply code is 541, INTERNAL_ERROR.
    _Meaning(("access to vhost", "is down"), BrokerLimit, "the virtual host is down"),
    # "vhost V not found", in rabbit_reader.erl.
    _Meaning(("NOT_ALLOWED", "not found"), BrokerRefuses, "there is no such virtual host"),
    # "access to vhost 'V' refused for user 'U'", in rabbit_access_control.erl.
    _Meaning(
        ("NOT_ALLOWED", "refused for user"),
        BrokerRefuses,
        "this user is kept out of this virtual host",
    ),
    # "Login was refused using authentication mechanism M", in rabbit_reader.erl. A user who may
    # come from localhost alone, and an authentication backend that is away, look the same.
    _Meaning(
        ("ACCESS_REFUSED", "Login was refused"),
        BrokerRefuses,
        "this user name and password are not accepted",
        login=True,
    ),
)
"""The first that fits counts. The words stand in these files of rabbitmq-server."""


def refusal(said: Iterable[str], broker: object) -> BrokerUnavailable | BrokerRefuses | None:
    """Return our error for what a broker says as it refuses; None for what is no known refusal.

    Args:
        said: its words, or several of them, where several addresses were tried.
        broker: which one, without its password.
    """
    for text in said:
        for meaning in _MEANINGS:
            if all(word in text for word in meaning.words):
                what = f"{broker}: {meaning.what}: {printable(text)}"
                if meaning.kind is BrokerLimit:
                    return BrokerLimit(what)
                return BrokerRefuses(WHERE, what, login=meaning.login)
    return None
