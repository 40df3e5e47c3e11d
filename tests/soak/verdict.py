"""What came out: every message at its far end, counted by its bytes, and what is wrong there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.flow.audit import Audit, MailboxMessage, Tally, key_of
from tests.flow.connector import below_prefix
from tests.soak.components import Struck
from tests.soak.crew import Death
from tests.soak.duplicates import Copy, explained
from tests.soak.mail import FATES, Mail
from tests.soak.place import DESTINATIONS, Place


@dataclass(frozen=True)
class Verdict:
    """The result of a soak.

    Attributes:
        whole: all mail together.
        fates: the mail that had to end in each place, and what is there.
        copies: copies beyond the first, by SMTP and LMTP.
        left: what is still on its way: queues and maildrops that are not empty.
        lost: ids of messages that are nowhere, not even in their maildrop.
        deaths: of processes, by faults.
        strange: ends of processes that no fault has caused.
        struck: all faults.
        drained: seconds from the last fault until nothing was left.
    """

    whole: Tally
    fates: Mapping[str, Tally]
    copies: Sequence[Copy]
    left: Mapping[str, int]
    lost: Sequence[str]
    deaths: Sequence[Death]
    strange: Sequence[str]
    struck: Sequence[Struck]
    drained: float

    @property
    def wrong(self) -> list[str]:
        """What should not be; empty if all is well."""
        found = [f"still on its way: {name} {count}" for name, count in self.left.items()]
        found += [f"lost: {id_}" for id_ in self.lost]
        for fate, tally in self.fates.items():
            if tally.lost:
                found.append(f"{fate}: {tally.lost} that should be there are not")
            if tally.strangers:
                found.append(f"{fate}: {tally.strangers} that should not be there")
        if self.fates["maildir"].duplicates:
            found.append(f"maildir: {self.fates['maildir'].duplicates} delivered twice")
        for copy in self.copies:
            if copy.why is None:
                found.append(f"{copy.destination}: {copy.id} delivered twice without a reason")
        return found + [f"process: {end}" for end in self.strange]


def judge(mail: Mail, struck: Sequence[Struck], left: Mapping[str, int], drained: float) -> Verdict:
    """Look at all far ends, and compare them with what was sent.

    Args:
        mail: what was sent, and where; nothing moves there any more.
        struck: all faults.
        left: what is still on its way.
        drained: seconds from the last fault until nothing was left.
    """
    place = mail.place
    failed, quarantined = place.failed(), place.quarantined()
    arrived: dict[str, list[MailboxMessage]] = {
        to: [(account, below_prefix(path.read_bytes())) for account, path in place.delivered(to)]
        for to in DESTINATIONS
    }
    arrived["failed"] = [(account, raw) for account, _, raw in failed]
    arrived["quarantine"] = [(account, raw) for account, _, raw in quarantined]
    logs = sorted(place.product.folder.glob("deliverer*.log"))
    return Verdict(
        whole=_whole(mail, arrived),
        fates={fate: mail.audits[fate].tally(arrived[fate]) for fate in FATES},
        copies=[
            copy
            for to in ("smtp", "lmtp")
            for copy in explained(
                to, [path for _, path in place.delivered(to)], logs, place.crew.deaths, struck
            )
        ],
        left=left,
        lost=_lost(mail, arrived),
        deaths=place.crew.deaths,
        strange=_strange(place),
        struck=struck,
        drained=drained,
    )


def _whole(mail: Mail, arrived: Mapping[str, Sequence[MailboxMessage]]) -> Tally:
    everything = Audit(set().union(*(audit.accepted for audit in mail.audits.values())))
    delivered = [message for to in DESTINATIONS for message in arrived[to]]
    return everything.tally(delivered, arrived["failed"], arrived["quarantine"])


def _lost(mail: Mail, arrived: Mapping[str, Sequence[MailboxMessage]]) -> list[str]:
    """Return the ids of messages that are nowhere."""
    waiting = [
        (account, raw)
        for account in mail.place.waiting()
        for raw in mail.place.provider.messages(account)
    ]
    found = {key_of(message) for some in (*arrived.values(), waiting) for message in some}
    return sorted(sent.id for sent in mail.sent.values() if sent.key not in found)


def _strange(place: Place) -> list[str]:
    ends = [
        f"{d.name} ended by itself with {d.status}" for d in place.crew.deaths if d.status != -9
    ]
    # One that is told to end while it is still loading knows nothing of SIGTERM yet.
    wrong = [(name, status) for name, status in place.crew.farewells if status not in (0, -15)]
    ends += place.crew.oddities
    return ends + [f"{name} ended on SIGTERM with {status}" for name, status in wrong]
