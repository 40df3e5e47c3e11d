"""What pika's errors from the time of connecting mean."""

import pytest
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed
from pika.exceptions import AMQPConnectionError

from shared.broker.amqp_url import parse
from shared.broker.rabbitmq.connection import HEARTBEAT, parameters, text, translate
from shared.errors import BrokerLimit, BrokerRefuses, BrokerUnavailable


def test_every_address_of_a_host_has_its_say_in_the_error() -> None:
    first, second = OSError("CERTIFICATE_VERIFY_FAILED"), OSError("Cannot assign address")
    attempts = AMQPConnectionWorkflowFailed([first, AMQPConnectionError(second), first])
    assert text(attempts) == "CERTIFICATE_VERIFY_FAILED; Cannot assign address"


KEPT_OUT = "530 NOT_ALLOWED - access to vhost 'v' refused for user 'a'"


@pytest.mark.parametrize(
    ("said", "kind", "login"),
    [
        ("403 ACCESS_REFUSED - Login was refused using mechanism PLAIN", BrokerRefuses, True),
        ("530 NOT_ALLOWED - vhost v not found", BrokerRefuses, False),
        (KEPT_OUT, BrokerRefuses, False),
        (f"{KEPT_OUT}: connection limit (0) is reached", BrokerLimit, None),
        (f"{KEPT_OUT}: vhost connection limit (0) is reached", BrokerLimit, None),
        (
            "530 NOT_ALLOWED - refused: node connection limit (9) is reached",
            BrokerLimit,
            None,
        ),
        ("541 INTERNAL_ERROR - access to vhost 'v' refused: vhost 'v' is down", BrokerLimit, None),
        ("320 CONNECTION_FORCED - broker forced connection closure", BrokerUnavailable, None),
    ],
)
def test_what_a_broker_refuses_is_known_by_its_words(
    said: str, kind: type[Exception], login: bool | None
) -> None:
    nested = AMQPConnectionWorkflowFailed([OSError("unreachable"), AMQPConnectionError(said)])
    error = translate(nested, parse("amqp://a:b@h/v"))
    assert type(error) is kind
    assert getattr(error, "login", None) is login
    assert said in str(error)


@pytest.mark.parametrize(
    ("proposed", "taken"), [(0, HEARTBEAT), (5, 5), (60, HEARTBEAT)], ids=["none", "less", "more"]
)
def test_the_shorter_heartbeat_counts(proposed: int, taken: int) -> None:
    made = parameters(parse("amqp://a:b@h/v"), None, "test", "0")
    assert made.heartbeat(None, proposed) == taken
