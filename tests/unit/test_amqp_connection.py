"""What pika's errors from the time of connecting mean."""

from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed
from pika.exceptions import AMQPConnectionError

from shared.broker.amqp_url import parse
from shared.broker.rabbitmq.connection import text, translated
from shared.errors import ConfigError


def test_every_address_of_a_host_has_its_say_in_the_error() -> None:
    first, second = OSError("CERTIFICATE_VERIFY_FAILED"), OSError("Cannot assign address")
    attempts = AMQPConnectionWorkflowFailed([first, AMQPConnectionError(second), first])
    assert text(attempts) == "CERTIFICATE_VERIFY_FAILED; Cannot assign address"
    refused = AMQPConnectionWorkflowFailed([OSError("(403) ACCESS_REFUSED - no"), second])
    assert isinstance(translated(refused, parse("amqp://a:b@h/v")), ConfigError)
