"""Nothing is looked at where looking throws it away: a delivery limit, in a queue that passes on to
no other what it gives up (one that an earlier version declared).

It trusts the management API. Where that is not known, or does not answer, nothing is known of
policies, and nothing is refused; that it does not answer is said once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.broker.policies import loses_by_looking
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import Report, silent

if TYPE_CHECKING:
    from shared.broker.management import Management


class BrowseGuard:
    """Refuses to look into a queue that would lose messages by it.

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
            ConfigError: it is not.
        """
        if self._management is None:
            return
        try:
            seen = self._management.queues([queue]).get(queue)
        except (ConfigError, BrokerUnavailable) as error:
            self._management = None  # it is not asked again, for each queue in turn
            if isinstance(error, BrokerUnavailable):
                self._report(f"policies cannot be read: {error}")
            return
        if seen is not None and loses_by_looking(seen):
            limit = seen.effective["delivery-limit"]
            raise ConfigError(
                f"queue {queue}",
                f"{' and '.join(seen.policies)} throws away what was looked at more than {limit}"
                " times (delivery-limit). First run: topology declare --policies, or topology"
                " migrate",
            )
