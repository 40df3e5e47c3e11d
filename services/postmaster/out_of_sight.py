"""Mail that no command lists: what a policy threw out of quarantine, and what RabbitMQ holds back.

So no list says "empty" where there is mail all the same. It trusts the queue ``topology`` for what
was ever declared. What RabbitMQ holds back the management API alone tells; without it, or where it
does not answer (which the look into the queue has said), nothing is known of that.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.postmaster.mail_folder import MailFolder
from services.postmaster.opening import open_management
from shared.broker import Steward
from shared.errors import BrokerUnavailable, ConfigError
from shared.queues import HELD, HELD_BACK
from shared.settings.model import Settings
from shared.words import counted

QUEUES = (HELD, HELD_BACK)


def thrown_out(queue: str, count: int) -> str:
    """Return what to tell of messages in one of ``QUEUES``, and what to do."""
    return (
        f"{queue} holds {counted(count, 'message')} that a policy has thrown out of quarantine;"
        " topology declare --policies keeps that policy off, and then topology migrate puts back"
        " what it threw out"
    )


def unlisted(settings: Settings, steward: Steward, folder: MailFolder) -> Sequence[str]:
    """Return a sentence on each queue with mail that a list of this folder cannot show.

    Raises:
        BrokerUnavailable: the broker does not answer.
        ConfigError: this user may not look.
    """
    if settings.broker.embedded:
        return []
    strays = steward.strays()
    found = [thrown_out(queue, strays[queue]) for queue in QUEUES if queue in strays]
    return [*found, *_withheld(settings, folder)]


def _withheld(settings: Settings, folder: MailFolder) -> Sequence[str]:
    from shared.broker.policies import withheld
    from shared.broker.topology import every

    management = open_management(settings)
    if management is None:
        return []
    asked = {q.name: q for q in every(settings.retry.tiers) if q.name in (*folder.queues, HELD)}
    try:
        seen = management.queues(asked)
    except (ConfigError, BrokerUnavailable):
        return []
    return [f"{name}: {what}" for name in seen for what in withheld(asked[name], seen[name])]
