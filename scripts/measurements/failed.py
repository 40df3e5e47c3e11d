"""Measures the operator's commands on a Failed Mail that is large; prints one line for each figure.

    scripts/measure-failed [MESSAGES]        (default 50,000)

It starts a private RabbitMQ, which has to be installed. Each command is a process of its own, whose
time from its start to its end, CPU and memory are what is printed; its output goes through a pipe.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared import wire
from shared.broker import Broker, Header, Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.message import Envelope, Fetched, Inline, Summary
from shared.queues import Tier
from tests.servers.rabbitmq import shared_rabbitmq

AGAIN = 3_000
"""Messages that are requeued."""

TIERS = (Tier("1h", 3600),)
BATCH = 2_000
RAW = b"From: ann@example.net\r\nSubject: measured\r\n\r\n" + b"A line of ordinary text.\r\n" * 190
HEADERS: dict[str, Header] = {
    "account": "sales",
    "from": "Ann Example <ann@example.net>",
    "subject": "the minutes of the meeting",
    "reason": "550 5.1.1 <sales@corp.example>: Recipient address rejected: User unknown",
    "stage": "deliverer",
    "inbox": "pickup",
    "attempts": 1,
    "first-failure": "2026-11-30T12:00:00+00:00",
    "failed-at": "2026-11-30T12:00:00+00:00",
}
CONFIG = """
data_dir = "{folder}/data"
[retry]
tiers = ["1h"]
[delivery]
url = "maildir://{folder}/mail/{{mailbox}}"
[[account]]
name = "sales"
host = "localhost"
username = "sales"
password = "secret"
mailbox = "sales@corp.example"
"""


def messages(count: int) -> Iterator[Send]:
    """Yield failed messages of 5 KB."""
    payload = Fetched(Inline(RAW), "u1", "pop:995", Summary("ann@example.net", "the minutes"))
    for number in range(count):
        id_ = f"{number:032x}"
        body = wire.encode(Envelope(id_, "sales", payload, 1.0))
        yield Send("pickup.failed", body, id_, HEADERS)


async def fill(broker: Broker, count: int) -> None:
    """Put messages into Failed Mail."""
    await broker.open()
    for some in batches(messages(count)):
        await broker.publish(*some)
    await broker.close()


def batches(sends: Iterator[Send]) -> Iterator[Sequence[Send]]:
    """Yield some at a time."""
    some: list[Send] = []
    for send in sends:
        some.append(send)
        if len(some) == BATCH:
            yield some
            some = []
    yield some


def run(config: Path, *command: str) -> None:
    """Run a command and print what it took."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services", "--config", str(config), *command],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = sum(1 for _ in process.stdout)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    print(
        f"  {' '.join(command):<36} {time.monotonic() - began:6.1f} s"
        f"  CPU {used.ru_utime + used.ru_stime:5.1f} s  {used.ru_maxrss // 1024:4} MiB"
        f"  {lines:7,} lines",
        flush=True,
    )


def measure(count: int, name: str, url: str | None, folder: Path) -> None:
    """Measure with one broker."""
    config = folder / "connector.toml"
    text = CONFIG.format(folder=folder) + (f'[broker]\nurl = "{url}"\n' if url else "")
    config.write_text(text)
    config.chmod(0o600)

    def broker() -> Broker:
        if url is None:
            return EmbeddedBroker(folder / "data" / "queue.db", tiers=TIERS, name="measure")
        return RabbitBroker(url, sender="postmaster", name="measure", tiers=TIERS, version="0")

    print(f"{name}:", flush=True)
    run(config, "topology", "declare")
    for size, commands in _turns(count):
        asyncio.run(fill(broker(), size))
        print(f" {size:,} messages", flush=True)
        for command in commands:
            run(config, "failed", *command)


def _turns(count: int) -> Sequence[tuple[int, Sequence[Sequence[str]]]]:
    return (
        (AGAIN, (("list",), ("requeue", "--all"))),
        (
            count,
            (
                ("list",),
                ("list", "--json"),
                ("list", "--limit", "20"),
                ("list", "--newest", "--limit", "20"),
                ("show", f"{count // 2:032x}"),
                ("drop", "--all", "--yes"),
            ),
        ),
    )


def main(arguments: Sequence[str]) -> int:
    """Measure with so many messages."""
    count = int(arguments[0]) if arguments else 50_000
    server = shared_rabbitmq()
    brokers = {"RabbitMQ": server.url(server.vhost()), "embedded": None}
    for name, url in brokers.items():
        with tempfile.TemporaryDirectory() as folder:
            measure(count, name, url, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
