"""Nothing is looked at where a policy counts looks: the message that was looked at too often goes.

RabbitMQ counts a look as a hand-out. What exceeds a ``delivery-limit`` is thrown away, or is moved
from queue to queue until no command sees it. It trusts the management API. Where that is not known,
or does not answer, nothing is known of policies, and nothing is refused; that it does not answer is
said once. A look then costs each message one hand-out, the least that there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.postmaster.errors import Unfit
from shared.broker.policies import look_limit, remedy
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import Report, printable, silent

if TYPE_CHECKING:
    from shared.broker.management import Management


class BrowseGuard:
    """Refuses to look into a queue that would lose messages by it, or pass them on.

    Args:
        management: the management API; None where nobody says where it is.
        report: is told that it does not answer.
    """

    def __init__(self, management: Management | None, report: Report = silent) -> None:
        self._management = management
        self._report = report

    def __call__(self, queue: str) -> None:
        """Return where a look is harmless, or nobody knows.

        Raises:
            Unfit: it is not.
        """
        if self._management is None:
            return
        try:
            seen = self._management.queues([queue]).get(queue)
        except (ConfigError, BrokerUnavailable) as error:
            self._management = None  # it is not asked again, for each queue in turn
            self._report(f"policies cannot be read: {error}")
            return
        if seen is not None and (limit := look_limit(seen)) is not None:
            raise Unfit(
                f"{queue} was not looked into: {printable(' and '.join(seen.policies))}"
                f" (delivery-limit {limit}) takes away what was looked at more often than that;"
                f" {remedy(seen)}"
            )
