"""What pika's errors from the time of connecting mean."""

import pytest
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed
from pika.exceptions import AMQPConnectionError

from shared.broker.amqp_url import parse
from shared.broker.rabbitmq.connection import HEARTBEAT, parameters, text, translated
from shared.errors import ConfigError


def test_every_address_of_a_host_has_its_say_in_the_error() -> None:
    first, second = OSError("CERTIFICATE_VERIFY_FAILED"), OSError("Cannot assign address")
    attempts = AMQPConnectionWorkflowFailed([first, AMQPConnectionError(second), first])
    assert text(attempts) == "CERTIFICATE_VERIFY_FAILED; Cannot assign address"
    refused = AMQPConnectionWorkflowFailed([OSError("(403) ACCESS_REFUSED - no"), second])
    assert isinstance(translated(refused, parse("amqp://a:b@h/v")), ConfigError)


@pytest.mark.parametrize(
    ("proposed", "taken"), [(0, HEARTBEAT), (5, 5), (60, HEARTBEAT)], ids=["none", "less", "more"]
)
def test_the_shorter_heartbeat_counts(proposed: int, taken: int) -> None:
    made = parameters(parse("amqp://a:b@h/v"), None, "test", "0")
    assert made.heartbeat(None, proposed) == taken
