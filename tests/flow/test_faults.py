"""Destinations that say no, and processes that are killed: nothing lost, nothing twice."""

import signal
from pathlib import Path

from shared.failpoint import VARIABLE
from tests.corpus.messages import sample_messages
from tests.flow.connector import STAGES, Connector, below_prefix, digests, lf
from tests.flow.place import account
from tests.servers.dovecot import Dovecot
from tests.servers.postfix import Postfix
from tests.servers.rabbitmq import shared_rabbitmq

RECIPIENT = "sales@corp.example"
SECONDS: dict[str, object] = {"tiers": ["1s", "2s"], "give_up_after": "1h"}


def start(product: Connector, broker: str | None) -> None:
    """One process for each stage over RabbitMQ, all in one over the embedded broker."""
    if broker is None:
        product.start("run")
    else:
        assert product.cli("topology", "declare").returncode == 0
        product.start(*STAGES)


def fetching(broker: str | None) -> str:
    return "run" if broker is None else "fetcher"


def delivering(broker: str | None) -> str:
    return "run" if broker is None else "deliverer"


def test_a_temporary_refusal_is_tried_again_and_delivered(
    product: Connector, provider: Dovecot, local: Postfix, broker: str | None
) -> None:
    (message,) = sample_messages(1)
    provider.put("sales", message)
    local.answers[RECIPIENT] = "451 4.7.1 greylisted, come back later"
    product.configure([account(provider)], local.url, broker, retry=SECONDS)
    start(product, broker)
    product.wait(lambda: product.count(delivering(broker), "retrying") >= 1, "a retry")
    assert local.maildir("sales") == []
    del local.answers[RECIPIENT]
    product.wait(lambda: len(local.maildir("sales")) == 1, "the delivery")
    assert below_prefix(local.maildir("sales")[0].read_bytes()) == lf(message)
    (retry, *_) = [e for e in product.events(delivering(broker)) if e["event"] == "retrying"]
    assert "451 4.7.1" in retry["reason"]


def test_a_permanent_refusal_is_failed_mail_and_a_requeue_delivers_it(
    product: Connector, provider: Dovecot, local: Postfix, broker: str | None
) -> None:
    (message,) = sample_messages(1)
    provider.put("sales", message)
    local.answers[RECIPIENT] = "550 5.1.1 no such user here"
    product.configure([account(provider)], local.url, broker, retry=SECONDS)
    start(product, broker)
    product.wait(lambda: product.count(delivering(broker), "failed") == 1, "failed mail")

    (failed,) = product.json("failed", "list")
    assert "550 5.1.1" in failed["reason"]
    assert failed["account"] == "sales"
    assert failed["stage"] == "deliverer"
    exported = product.cli("failed", "export", failed["id"], "-o", str(product.folder / "out.eml"))
    assert exported.returncode == 0, exported.stderr
    assert (product.folder / "out.eml").read_bytes() == message

    del local.answers[RECIPIENT]
    assert product.cli("failed", "requeue", failed["id"]).returncode == 0
    product.wait(lambda: len(local.maildir("sales")) == 1, "the delivery")
    assert below_prefix(local.maildir("sales")[0].read_bytes()) == lf(message)
    assert product.json("failed", "list") == []


def test_a_fetcher_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    product: Connector, provider: Dovecot, tmp_path: Path, broker: str | None
) -> None:
    messages = sample_messages(1_000, seed=3, max_size=500_000)
    provider.put_all("sales", messages)
    maildir = tmp_path / "mail" / "sales" / "new"
    product.configure(
        [account(provider)], f"maildir://{tmp_path}/mail/{{local}}", broker, retry=SECONDS
    )
    name = fetching(broker)
    if broker is not None:
        assert product.cli("topology", "declare").returncode == 0
        product.start(*(stage for stage in STAGES if stage != name))
    for share in (100, 300, 300):
        product.start(name, **{VARIABLE: f"incoming.published#{share}"})
        killed = product.processes[name]
        product.wait(lambda process=killed: process.poll() is not None, "the kill")
        assert killed.returncode == -signal.SIGKILL
    product.start(name)

    def all_there() -> bool:
        return maildir.exists() and len(list(maildir.iterdir())) >= 1_000

    product.wait(all_there, "all mail")
    product.wait(lambda: provider.files("sales") == [], "an empty maildrop")
    for name in list(product.processes):
        assert product.stop(name) == 0, product.tail()
    arrived = [below_prefix(path.read_bytes()) for path in maildir.iterdir()]
    assert digests(arrived) == digests(map(lf, messages))
    assert product.json("failed", "list") == []
    assert product.json("quarantine", "list") == []


def test_a_failing_account_disturbs_no_other(
    product: Connector, provider: Dovecot, tmp_path: Path, broker: str | None
) -> None:
    (message,) = sample_messages(1)
    provider.put("sales", message)
    accounts = [
        account(provider, name="wrong", password="nonsense"),
        account(provider, name="gone", port=1),
        account(provider),
    ]
    product.configure(accounts, f"maildir://{tmp_path}/mail/{{local}}", broker)
    if broker is not None:
        assert product.cli("topology", "declare").returncode == 0
    status, summary = product.once()
    assert status == 1
    assert (summary["accounts"], summary["fetched"], summary["delivered"]) == (3, 1, 1)
    (path,) = (tmp_path / "mail" / "sales" / "new").iterdir()
    assert below_prefix(path.read_bytes()) == lf(message)


def test_stages_wait_for_the_broker_and_end_on_sigterm(
    product: Connector, provider: Dovecot, tmp_path: Path
) -> None:
    (message,) = sample_messages(1)
    provider.put("sales", message)
    server = shared_rabbitmq()
    product.configure(
        [account(provider)], f"maildir://{tmp_path}/mail/{{local}}", server.url(server.vhost())
    )
    product.start(*STAGES)
    product.wait(
        lambda: all((product.folder / f"{s}.log").stat().st_size for s in STAGES), "signs of life"
    )
    assert product.cli("topology", "declare").returncode == 0
    maildir = tmp_path / "mail" / "sales" / "new"
    product.wait(lambda: maildir.exists() and len(list(maildir.iterdir())) == 1, "the delivery")
    assert [product.stop(stage) for stage in STAGES] == [0, 0, 0, 0]
