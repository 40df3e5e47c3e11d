"""What a log line may and may not do."""

import asyncio
import io
import json
from collections import Counter

import pytest
import structlog

from shared.log import MailLog, configure, printable
from shared.metrics import EVENTS, METRICS


@pytest.fixture(autouse=True)
def unconfigured() -> object:
    yield
    structlog.reset_defaults()


def test_one_line_of_json_for_each_event_with_hostile_text_escaped() -> None:
    out = io.StringIO()
    configure(stream=out)
    MailLog("fetcher").fetched("id1", "sales", "u\x1b[2J\n\u202ex", 7)
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["id"], event["account"], event["size"]) == (
        "fetched",
        "id1",
        "sales",
        7,
    )
    assert event["uidl"] == "u\\x1b[2J\\n\\u202ex"


async def test_the_lines_of_one_turn_of_the_loop_are_one_write_and_keep_their_order() -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    configure(stream=Stream())
    one, other = MailLog("fetcher"), MailLog("deliverer")
    one.fetched("id1", "sales", "u", 1)
    other.delivered("id2", "sales", "250 ok", 0.1)
    one.removed("id3", "sales", "u")
    assert not writes
    await asyncio.sleep(0)
    lines = [json.loads(line) for line in "".join(writes).splitlines()]
    assert [line["id"] for line in lines] == ["id1", "id2", "id3"]
    assert len(writes) == 2  # the lines, and print's own line end


def test_a_stream_that_is_gone_stops_no_mail() -> None:
    out = io.StringIO()
    configure(stream=out)
    log = MailLog("deliverer")
    out.close()
    log.delivered("id1", "sales", "250 ok", 0.1)
    assert log.counts["delivered"] == 1


def test_events_are_counted_for_the_summary_and_for_prometheus() -> None:
    counts: Counter[str] = Counter()
    log = MailLog("run", counts).of("fetcher")
    log.fetched("id1", "sales", "u", 100)
    log.fetched("id2", "sales", "u", 11)
    assert (counts["fetched"], counts["bytes"]) == (2, 111)
    text = log.metrics.exposition().decode()
    assert f'{EVENTS}{{event="fetched",stage="fetcher"}} 2.0' in text
    assert "pop3_connector_fetched_bytes_total 111.0" in text


def test_every_metric_that_is_declared_is_exposed() -> None:
    text = MailLog("run").metrics.exposition().decode()
    assert all(f"# HELP {m.name}" in text for m in METRICS)


def test_printable_keeps_letters_and_cuts() -> None:
    assert printable("Grüße 😀") == "Grüße 😀"
    assert printable("x" * 501) == "x" * 500 + "…"
