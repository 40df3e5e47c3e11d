"""What was handed out again and again: sound mail arrives, and what crashes its process does not.

A message that crashes its process does so here in earnest (SIGSEGV), in the process that tries it:
Python is made to when it opens the file of that message in the Maildir.
"""

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from shared.broker import HANDED_OUT, Send
from shared.failpoint import VARIABLE
from shared.message import Envelope, Fetched, Inline
from shared.metrics import UNTRIED
from shared.queues import INCOMING, PICKUP, QUARANTINE, Tier
from shared.runner import RENEW
from shared.trial.suspects import SUSPECT
from shared.wire import encode
from tests.deliveries import singly
from tests.flow.addressed import ACCOUNT, put_addressed
from tests.flow.connector import Connector
from tests.flow.forked import ForkedConnector
from tests.flow.place import ONCE
from tests.flow.queues import opened, steward
from tests.ids import identify
from tests.servers.process import free_port
from tests.servers.smtp import HANG, SmtpServer, smtp_server

TIERS = (Tier("1s", 1.0),)
PATIENCE = 60.0

CRASHES = """
import ctypes, sys

def crash(event, arguments):
    if event == "open" and "{id}" in str(arguments[0]):
        ctypes.string_at(0)

sys.addaudithook(crash)
"""
DOES_NOT_START = """
import os, sys

if "trial" in sys.orig_argv:
    os._exit(3)
"""
CANNOT_ANSWER = f"""
import sys

if "trial" in sys.orig_argv:
    sys.path.insert(0, {str(Path(__file__).parents[2])!r})
    from shared.trial import frames

    def answered(*_):
        raise MemoryError

    frames.pack_answer = answered
"""


def small_messages(count: int) -> list[bytes]:
    return [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(count)]


def configure(product: Connector, broker: str | None, url: str) -> None:
    product.configure([], url, broker, retry={"tiers": ["1s"]})
    assert product.cli("topology", "declare").returncode == 0


async def put(product: Connector, broker: str | None, messages: Sequence[bytes]) -> None:
    async with opened(product, broker, TIERS, "rewriter") as rewriter:
        for message in messages:  # one by one, so that each has an entry of its own
            await put_addressed(rewriter, "default", ["sales"], [message])


def untried(port: int) -> float:
    """Return what the metrics say of suspects that no process tries."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith(f"{UNTRIED}{{")]
    return sum(found)  # there is none before the stage runs


async def hand_out(
    product: Connector, broker: str | None, count: int, times: int = SUSPECT, queue: str = PICKUP
) -> None:
    """Have all messages handed out so many times to somebody who is gone then."""
    for _ in range(times):
        async with opened(product, broker, TIERS, "postmaster") as gone, asyncio.timeout(PATIENCE):
            deliveries = singly(gone.consume(queue, count))
            for _ in range(count):
                await anext(deliveries)


def python(product: Connector, startup: str) -> dict[str, str]:
    """Return an environment in which every Python that is started does this first."""
    folder = product.folder / "startup"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(startup)
    return {"PYTHONPATH": str(folder)}


def children(product: Connector, name: str) -> list[int]:
    """Return the processes that a process has started and not buried."""
    pid = product.processes[name].pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def waited(product: Connector, true: object, what: str) -> None:
    assert callable(true)
    try:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no {what}\n{product.tail()}") from None


def depth(product: Connector, broker: str | None, queue: str) -> int:
    with steward(product, broker, TIERS) as looking:
        return looking.depths()[queue] or 0


def stored(mail: Path) -> int:
    return len(list(mail.glob("*/new/*")))


async def test_what_crashes_its_process_ends_in_quarantine_and_its_neighbours_arrive(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    """The process that it was handed out to lives on, and the claims of the dead are no way out."""
    mail, messages = tmp_path / "mail", small_messages(40)
    configure(product, broker, f"maildir://{mail}/{{local}}")
    await put(product, broker, messages)
    await hand_out(product, broker, len(messages))
    poison = identify(ACCOUNT, messages[7])
    product.start("deliverer", **python(product, CRASHES.format(id=poison)))
    await waited(product, lambda: depth(product, broker, QUARANTINE), "quarantine")
    await waited(product, lambda: stored(mail) == len(messages) - 1, "neighbours")

    (kept,) = product.json("quarantine", "list")
    assert (kept["id"], kept["account"], kept["subject"]) == (poison, ACCOUNT, "7")
    assert kept["reason"] == ("it crashed its process 3 times, alone in it: signal 11 (SIGSEGV)")
    assert kept["stage"] == "deliverer"
    out = product.folder / "out.eml"
    assert product.cli("quarantine", "export", poison, "-o", str(out)).returncode == 0
    assert out.read_bytes() == messages[7]
    assert product.stop("deliverer") == 0
    assert depth(product, broker, PICKUP) == 0
    assert stored(mail) == len(messages) - 1


async def test_hundreds_of_sound_suspects_arrive(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    """As there are after the broker was started again twice."""
    mail, messages = tmp_path / "mail", small_messages(300)
    configure(product, broker, f"maildir://{mail}/{{local}}")
    await put(product, broker, messages)
    await hand_out(product, broker, len(messages))
    product.start("deliverer")
    await waited(product, lambda: stored(mail) == len(messages), "mail")
    assert product.stop("deliverer") == 0
    assert depth(product, broker, PICKUP) == depth(product, broker, QUARANTINE) == 0
    assert not product.count("deliverer", "a process that tried suspects has ended")


@pytest.fixture
async def slow() -> AsyncIterator[SmtpServer]:
    """A server that takes its time, and hangs at first."""
    async with smtp_server(rule=lambda key, _: HANG if key == "EHLO" else None) as server:
        yield server


async def test_sound_mail_survives_thirty_kills_of_its_process(
    product: ForkedConnector, broker: str | None, slow: SmtpServer
) -> None:
    """It waits for a server that hangs, while somebody kills and kills."""
    messages = small_messages(12)
    configure(product, broker, f"{slow.url}?tls=none")
    await put(product, broker, messages)
    for _ in range(3):
        await hand_out(product, broker, len(messages), RENEW - 1)
        before = slow.connections
        product.start("deliverer")
        await waited(product, lambda n=before: slow.connections > n, "mail in hand")
        product.kill("deliverer")
    slow.rule = lambda _, __: None
    product.start("deliverer")
    await waited(product, lambda: len(slow.received) >= len(messages), "mail")
    assert product.stop("deliverer") == 0
    assert sorted(r.data.partition(b"Subject")[2] for r in slow.received) == sorted(
        m.partition(b"Subject")[2] for m in messages
    )
    assert depth(product, broker, QUARANTINE) == 0


async def test_a_process_that_does_not_start_is_nobodys_fault(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    mail, messages = tmp_path / "mail", small_messages(12)
    configure(product, broker, f"maildir://{mail}/{{local}}")
    await put(product, broker, messages[:5])
    await hand_out(product, broker, 5)
    await put(product, broker, messages[5:])
    product.start("deliverer", **python(product, DOES_NOT_START))
    await waited(product, lambda: stored(mail) == len(messages) - 5, "those that are no suspects")
    said = "the process that tries suspects does not start; they wait"
    await waited(product, lambda: product.count("deliverer", said) >= 2, "word of it")
    assert product.events("deliverer")[-1].get("why", "exit status 3") == "exit status 3"
    assert product.stop("deliverer") == 0
    assert depth(product, broker, QUARANTINE) == 0

    product.start("deliverer")
    await waited(product, lambda: stored(mail) == len(messages), "all mail")
    assert product.stop("deliverer") == 0


async def test_once_ends_where_no_process_starts_for_suspects(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    configure(product, broker, f"maildir://{tmp_path}/mail/{{local}}")
    await put(product, broker, small_messages(3))
    await hand_out(product, broker, 3)
    product.start(ONCE, **python(product, DOES_NOT_START))
    assert product.processes.pop(ONCE).wait(PATIENCE) == 1
    said = "suspects were not tried, as their process does not start; they wait for a retry"
    assert [e["suspects"] for e in product.events(ONCE) if e.get("event") == said] == ["3"]
    left = ("pickup.retry.1s", PICKUP)
    await waited(product, lambda: sum(depth(product, broker, q) for q in left) == 3, "suspects")
    assert stored(tmp_path / "mail") == 0


async def test_suspects_are_not_tried_with_another_configuration_and_mail_goes_on(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    mail = tmp_path / "mail"
    url = f"maildir://{mail}/{{local}}"
    configure(product, broker, url)
    port = free_port()
    product.start("deliverer", POP3_CONNECTOR__MONITOR__LISTEN=f"127.0.0.1:{port}")
    await waited(product, lambda: product.count("deliverer", "started"), "start")
    assert untried(port) == 0
    product.configure([], url, broker, retry={"tiers": ["2s", "3s"]})
    message, fresh = small_messages(2)
    async with opened(product, broker, TIERS, "rewriter") as rewriter:
        publish = rewriter.publish

        async def suspect(*sends: Send) -> None:
            await publish(*(s._replace(headers={**s.headers, HANDED_OUT: 2}) for s in sends))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewriter, "publish", suspect)
            await put_addressed(rewriter, "default", ["sales"], [message])
    said = "the process that tries suspects does not start; they wait"
    await waited(product, lambda: product.count("deliverer", said), "word of it")
    why = {e["why"] for e in product.events("deliverer") if "why" in e}
    assert why == {"the configuration has changed since this process started; restart it"}
    await waited(product, lambda: untried(port) > 0, "the metric")
    await put(product, broker, [fresh])
    await waited(product, lambda: stored(mail) == 1, "fresh mail")
    assert product.stop("deliverer") == 0
    configure(product, broker, url)
    product.start("deliverer")
    await waited(product, lambda: stored(mail) == 2, "the suspect")
    assert product.stop("deliverer") == 0


async def test_what_fails_in_the_process_that_tries_is_a_crash(
    product: ForkedConnector, tmp_path: Path
) -> None:
    configure(product, None, f"maildir://{tmp_path}/mail/{{local}}")
    await put(product, None, small_messages(1))
    await hand_out(product, None, 1)
    product.start("deliverer", **python(product, CANNOT_ANSWER))
    await waited(product, lambda: depth(product, None, QUARANTINE), "quarantine")
    (kept,) = product.json("quarantine", "list")
    assert kept["reason"].endswith("3 times, alone in it: exit status 70")
    assert product.stop("deliverer") == 0


async def test_what_is_on_trial_as_the_stage_ends_is_settled_and_no_process_is_left(
    product: ForkedConnector, broker: str | None, slow: SmtpServer
) -> None:
    """Signals are for the parent; the child has a session of its own, and heeds none."""
    slow.rule, slow.slow = lambda _, __: None, 2.0
    configure(product, broker, f"{slow.url}?tls=none")
    await put(product, broker, small_messages(3))
    await hand_out(product, broker, 3)
    product.start("deliverer")
    await waited(product, lambda: slow.connections > 0, "a connection")
    (child,) = children(product, "deliverer")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)
    assert await asyncio.to_thread(product.stop, "deliverer") == 0
    assert len(slow.received) == 3
    assert not lives(child)
    assert depth(product, broker, PICKUP) == depth(product, broker, QUARANTINE) == 0


async def test_a_stage_ends_well_while_a_process_starts_for_its_suspects(
    product: ForkedConnector, tmp_path: Path
) -> None:
    configure(product, None, f"maildir://{tmp_path}/mail/{{local}}")
    await put(product, None, small_messages(3))
    await hand_out(product, None, 3)
    product.start("deliverer")
    await waited(product, lambda: children(product, "deliverer"), "child")
    assert await asyncio.to_thread(product.stop, "deliverer") == 0, product.tail()
    assert depth(product, None, PICKUP) + stored(tmp_path / "mail") == 3


async def test_a_server_is_not_quoted_with_a_password_of_others_on_trial_either(
    product: ForkedConnector, slow: SmtpServer
) -> None:
    secret = "Hunter2-Secret9"
    slow.rule = lambda key, _: f"550 5.7.1 {secret}" if key == "END" else None
    names = {"name": "info", "host": "pop.example.net", "username": "info"}
    account: dict[str, object] = {**names, "password": secret, "mailbox": "info@corp.example"}
    product.configure([account], f"{slow.url}?tls=none", retry={"tiers": ["1s"]})
    await put(product, None, small_messages(1))
    await hand_out(product, None, 1)
    product.start("deliverer")
    await waited(product, lambda: depth(product, None, "pickup.failed"), "Failed Mail")
    assert product.stop("deliverer") == 0
    (kept,) = product.json("failed", "list")
    assert "5.7.1 ***" in kept["reason"]


async def test_a_child_does_not_outlive_its_parent(
    product: ForkedConnector, slow: SmtpServer
) -> None:
    configure(product, None, f"{slow.url}?tls=none")
    await put(product, None, small_messages(1))
    await hand_out(product, None, 1)
    product.start("deliverer")
    await waited(product, lambda: slow.connections > 0, "a connection")
    (child,) = children(product, "deliverer")
    assert Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "1000"
    product.kill("deliverer")
    await waited(product, lambda: not lives(child), "end of the child")


async def test_once_ends_over_a_message_that_crashes(
    product: ForkedConnector, broker: str | None, tmp_path: Path
) -> None:
    mail, message = tmp_path / "mail", small_messages(1)[0]
    configure(product, broker, f"maildir://{mail}/{{local}}")
    id_ = identify("sales", message)
    fetched = Envelope(id_, "sales", Fetched(Inline(message), "u", "pop:110"), 1.0)
    async with opened(product, broker, TIERS, "fetcher") as fetcher:
        await fetcher.publish(Send(INCOMING, encode(fetched), id_, {"account": "sales"}))
    await hand_out(product, broker, 1, queue=INCOMING)
    product.start(ONCE, **{VARIABLE: f"{id_}.handled"})
    assert product.processes.pop(ONCE).wait(PATIENCE) == 1
    summary = next(e for e in product.events(ONCE) if "accounts" in e)
    assert (summary["quarantined"], summary["delivered"]) == (1, 0)
    (kept,) = product.json("quarantine", "list")
    assert kept["reason"].endswith("alone in it: signal 9 (SIGKILL)")
