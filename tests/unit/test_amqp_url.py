from pathlib import Path

import pytest

from shared.broker.amqp_url import AmqpUrl, parse, parsed, tls_context
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("amqp://mq", AmqpUrl("mq", 5672, "guest", "guest", "/", tls=False)),
        ("amqp://mq/", AmqpUrl("mq", 5672, "guest", "guest", "/", tls=False)),
        ("amqp://mq//", AmqpUrl("mq", 5672, "guest", "guest", "/", tls=False)),
        ("amqps://u:p@mq/mail", AmqpUrl("mq", 5671, "u", "p", "mail", tls=True)),
        ("amqp://u%40x:p%2F%3A@[::1]:99/%2Fa", AmqpUrl("::1", 99, "u@x", "p/:", "/a", tls=False)),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: AmqpUrl) -> None:
    assert parse(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mq",
        "http://u:hush@mq/",
        "amqp://u:hush@/x",
        "amqp://u:hush@mq:port/",
        "amqp://u:hush@mq/x?heartbeat=1",
        "amqp://u:hush@[mq/",
    ],
)
def test_what_is_no_such_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_options_of_other_programs_are_named_and_what_may_be_a_password_is_not() -> None:
    with pytest.raises(ConfigError, match=r"no options in this URL \(heartbeat, verify\)"):
        parse("amqp://u:hush@mq/x?verify=verify_none&heartbeat=1&hush=hush")
    with pytest.raises(ConfigError, match="no options in this URL, only") as caught:
        parse("amqp://u:12?hush@mq/x")
    assert "hush" not in str(caught.value)


def test_the_nodes_of_a_cluster_have_one_virtual_host() -> None:
    assert [url.host for url in parsed(["amqp://a/v", "amqp://b/v"])] == ["a", "b"]
    assert parsed("amqp://a/v") == (parse("amqp://a/v"),)
    with pytest.raises(ConfigError, match="one virtual host"):
        parsed(["amqp://a/v", "amqp://b/w"])


def test_the_password_is_shown_nowhere() -> None:
    url = parse("amqp://u:hush@mq/mail")
    assert str(url) == "amqp://u@mq:5672/mail"
    assert "hush" not in repr(url)


def test_an_authority_that_cannot_be_read_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pem"):
        tls_context(str(tmp_path / "nothing.pem"))
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match=r"empty\.pem"):
        tls_context(str(tmp_path / "empty.pem"))
