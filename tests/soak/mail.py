"""Continuous mail, and what must become of each message of it."""

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.corpus.messages import fields, sample_messages
from tests.flow.audit import Audit, key_of
from tests.ids import identify
from tests.soak.place import ACCOUNTS, DESTINATIONS, REFUSED, Place

FATES = (*DESTINATIONS, "failed", "quarantine")
"""Where a message must end: at its destination, in Failed Mail, or in quarantine."""
BATCH = 12
"""Messages of which ``sample_messages`` makes the last one large."""
SPECIAL = 40
"""One in so many messages is corrupt, and one is for a mailbox that does not exist."""


@dataclass(frozen=True)
class Sent:
    """A message that was put into a maildrop; ``key`` is what the audit knows it by."""

    at: float
    id: str
    account: str
    fate: str
    size: int
    key: str


@dataclass
class Mail:
    """Puts mail into the maildrops, and remembers all of it.

    Attributes:
        place: where the maildrops are.
        seed: makes the messages.
        rate: messages a second.
        audits: what was sent, by its fate.
        sent: the same by id.
        given_up: the soak is broken off; nobody need wait for any of it any more.
    """

    place: Place
    seed: int
    rate: float
    audits: dict[str, Audit] = field(default_factory=lambda: {fate: Audit() for fate in FATES})
    sent: dict[str, Sent] = field(default_factory=dict)
    given_up: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _serial: Iterator[int] = field(default_factory=itertools.count)

    @property
    def journal(self) -> Path:
        """A file with a line for each message."""
        return self.place.folder / "mail.jsonl"

    def come_in(self, stop: threading.Event) -> None:
        """Put in mail until ``stop`` is set."""
        chance = random.Random(f"mail {self.seed}")
        while not stop.wait(chance.expovariate(self.rate / BATCH)):
            batch = sample_messages(BATCH, self.seed * 1_000_000 + next(self._serial))
            # Half of the batches are for one account: fetched together, they travel in a bundle.
            accounts = list(ACCOUNTS)
            among = [chance.choice(accounts)] if chance.random() < 0.5 else accounts
            for message in batch:
                self._put_one(message, among, chance)

    def _put_one(self, message: bytes, among: Sequence[str], chance: random.Random) -> None:
        turn = chance.randrange(SPECIAL)
        if turn == 0:
            self.put(chance.choice(list(REFUSED)), message, "failed")
            return
        account = chance.choice(among)
        if turn == 1:
            _, _, text = message.partition(b"\r\n\r\n")
            self.put(account, b"There is no header, only text.\r\n\r\n" + text, "quarantine")
        else:
            self.put(account, message, ACCOUNTS[account])

    def put(self, account: str, message: bytes, fate: str) -> str:
        """Put in one message; return its id."""
        id_ = identify(account, message)
        sent = Sent(time.time(), id_, account, fate, len(message), key_of((account, message)))
        with self._lock:
            self.audits[fate].accept([(account, message)])
            self.sent[id_] = sent
            with self.journal.open("a") as journal:
                journal.write(json.dumps(asdict(sent)) + "\n")
            self.place.provider.put(account, message)
        return id_

    def poison(self) -> bytes:
        """Return a message that will be made to kill whoever takes it."""
        return fields(f"poison-{self.seed}-{next(self._serial)}") + b"\r\nKills.\r\n"

    def pardon(self, id_: str) -> None:
        """Let a message that was meant to kill be an ordinary one from now on."""
        with self._lock:
            sent = self.sent[id_]
            fate = ACCOUNTS[sent.account]
            self.audits[sent.fate].accepted.discard(sent.key)
            self.audits[fate].accepted.add(sent.key)
            self.sent[id_] = replace(sent, fate=fate)
