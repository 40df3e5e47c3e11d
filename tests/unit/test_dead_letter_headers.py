"""What of a message's headers is sent on with it."""

import pytest

from shared.broker.dead_letter import own


@pytest.mark.parametrize("name", ["CC", "BCC"])
@pytest.mark.parametrize("value", ["quarantine", 1, ["quarantine"]])
def test_nothing_by_which_rabbitmq_would_route_it_again(name: str, value: object) -> None:
    assert own({name: value, "account": "sales"}) == {"account": "sales"}
