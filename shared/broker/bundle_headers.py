"""What an operator sees of a bundle: small messages that share an entry of a queue of RabbitMQ.

Our stages put none into a failed queue or quarantine; a policy or a person who moves what is in an
inbox does. (``shared.broker.rabbitmq.bundles`` makes them.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

COUNT: Final = "messages"
"""The header that tells an operator how many messages an entry holds."""


def headers_of_each(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers of each message in a bundle, by those of the bundle."""
    return {name: value for name, value in headers.items() if name != COUNT}
