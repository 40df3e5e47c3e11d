"""A plant over a RabbitMQ that can be harmed: Works. One maildrop is quick, and one is slow."""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.fetcher.schedule import LOOK_EVERY
from shared.queues import INCOMING, PARSED, PICKUP, POLL
from tests.flow.connector import STAGES
from tests.flow.plant import Plant
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitServer

QUICK, SLOW = "quick", "slow"
"""Two maildrops; from the second one mail comes so slowly that it can be interrupted."""

USER, PASSWORD = "connector", "secret"
ALL = {"configure": ".*", "write": ".*", "read": ".*"}

CONNECTIONS = 2 * len(STAGES)
"""One to publish and one to consume for each process."""

LOOKS = 3
"""Looks of the schedule that an account must have missed to be taken for one that stands still."""

LOST = "broker connection lost"


@dataclass
class Works(Plant):
    """A plant over a RabbitMQ that can be harmed.

    Attributes:
        vhost: the virtual host that the product uses, as a user of its own.
        line: between the product and the maildrop ``slow``.
        cable: between the product and RabbitMQ.
    """

    server: RabbitServer = field(kw_only=True)
    vhost: str = field(kw_only=True)
    line: Proxy = field(kw_only=True)
    cable: Proxy = field(kw_only=True)

    def prepare(self) -> None:
        """Make user, configuration and queues."""
        self.server.user(USER, PASSWORD, self.vhost, ALL)
        self.product.configure(
            [self.account(QUICK), self.account(SLOW, port=self.line.port)],
            f"maildir://{self.mail}/{{local}}",
            self.url,
            retry={"tiers": ["1s"]},
            spool={"inline_limit": "16KiB"},
        )
        self.declare()

    def declare(self) -> None:
        """Make the queues exist."""
        done = self.product.cli("topology", "declare")
        assert done.returncode == 0, done.stderr

    def allow(self, permissions: dict[str, str]) -> None:
        """Give the product these permissions and no others."""
        self.server.api("PUT", f"permissions/{self.vhost}/{USER}", permissions)

    def limit(self, queue: str, length: int) -> None:
        """Let a queue take no more messages than that."""
        definition = {"max-length": length, "overflow": "reject-publish"}
        policy = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "queues"}
        self.server.api("PUT", f"policies/{self.vhost}/{queue}", policy)

    def unlimit(self, queue: str) -> None:
        """Let a queue take what comes."""
        self.server.api("DELETE", f"policies/{self.vhost}/{queue}")

    @contextlib.contextmanager
    def heard(self, event: str, *names: str) -> Iterator[None]:
        """Wait, after the block, until these processes have all logged what happened in it."""
        before = {name: self.product.count(name, event) for name in names}
        yield
        for name in names:
            self.product.wait(
                lambda n=name: self.product.count(n, event) > before[n], f"{event!r} from {name}"
            )

    @contextlib.contextmanager
    def halted(self, name: str) -> Iterator[None]:
        """Let a process stand still for the block."""
        self.product.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.product.processes[name].send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Let a process be stopped for the block, and another one take its place after it."""
        assert self.product.stop(name) == 0, self.product.tail()
        del self.first[name]
        try:
            yield
        finally:
            self.run(name)

    def files(self) -> int:
        """Return how many messages have been delivered."""
        return len(list(self.stored()))

    def drain(self) -> None:
        """Wait until all is delivered; it must have come once, and by the same processes."""
        self.product.wait(self._drained, "all mail", 60)
        tally = self.tally()
        print(tally)
        assert tally == self.right()
        assert self.undisturbed(), self.product.tail()

    def consuming(self) -> bool:
        """Return whether every stage has opened all that it needs."""
        with self.looking() as steward:
            return {POLL, INCOMING, PARSED, PICKUP} <= steward.consumers().keys()

    def waiting(self, queue: str) -> int | None:
        """Return how many messages in a queue are not handed out."""
        with self.looking() as steward:
            return steward.depths()[queue]

    def overdue(self) -> bool:
        """Return whether every account should have been polled long ago."""
        before = datetime.now(UTC) - timedelta(seconds=LOOKS * LOOK_EVERY)
        # Its exit status tells of accounts that fail: that is looked at elsewhere.
        accounts = json.loads(self.product.cli("accounts", "--json").stdout)
        times = [account["next_poll"] for account in accounts]
        return all(datetime.fromisoformat(time) < before for time in times)

    def _drained(self) -> bool:
        there = self.files() >= len(self.audit.accepted)
        left = [*self.provider.files(QUICK), *self.provider.files(SLOW)]
        return there and not left and not self.queued()
