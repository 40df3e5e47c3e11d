"""What an operator sees in RabbitMQ's management UI, asked through the API behind it."""

from shared.queues import DECLARED, HELD, MARK, plan
from shared.settings.model import RetrySettings
from tests.corpus.messages import sample_messages
from tests.flow.connector import STAGES, Connector
from tests.flow.place import account
from tests.servers.dovecot import Dovecot
from tests.servers.postfix import Postfix
from tests.servers.rabbitmq import shared_rabbitmq

GET = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 50_000}


def test_queues_consumers_and_failed_mail_read_without_decoding(
    product: Connector, provider: Dovecot, local: Postfix
) -> None:
    (message,) = sample_messages(1)
    rabbit = shared_rabbitmq()
    vhost = rabbit.vhost()
    provider.put("sales", message)
    local.answers["sales@corp.example"] = "550 5.1.1 no such user here"
    product.configure([account(provider)], local.url, rabbit.url(vhost))
    assert product.cli("topology", "declare").returncode == 0
    product.start(*STAGES)
    product.wait(lambda: product.count("deliverer", "failed") == 1, "failed mail")

    names = {queue["name"] for queue in rabbit.api("GET", f"queues/{vhost}")}
    assert names == {DECLARED, HELD, MARK, *(spec.name for spec in plan(RetrySettings().tiers))}
    consumers: dict[str, str] = {}

    def all_listed() -> bool:
        found = rabbit.api("GET", f"consumers/{vhost}")
        consumers.update((c["queue"]["name"], c["consumer_tag"]) for c in found)
        return len(consumers) == len(STAGES)

    product.wait(all_listed, "the consumers of four stages")
    inboxes = ("poll", "incoming", "parsed", "pickup")
    assert all(consumers[q].startswith(f"{s}@") for q, s in zip(inboxes, STAGES, strict=True))

    for _ in range(100):
        (failed,) = rabbit.api("POST", f"queues/{vhost}/pickup.failed/get", GET)
    headers = failed["properties"]["headers"]
    assert "550 5.1.1" in headers["reason"]
    assert headers["account"] == "sales"
    assert headers["stage"] == "deliverer"
    assert headers["attempts"] == 1
    assert headers["size"] == len(message)
    assert {"from", "subject", "message-id", "first-failure", "failed-at"} <= headers.keys()
    assert headers["subject"] in message.decode()
    assert [m["id"] for m in product.json("failed", "list")] == [failed["properties"]["message_id"]]
