"""What a log line may and may not do."""

import asyncio
import io
import json
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from shared.flood import SOME, STRETCH
from shared.log import MailLog, printable
from shared.log_lines import LogLines, configure
from shared.metrics import EVENTS, HANDLING, LATENCY, METRICS, SPOOL, Metrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().split("\n")[:-1]]


def test_one_line_of_json_for_each_event_with_hostile_text_escaped() -> None:
    out = io.StringIO()
    MailLog("fetcher", lines=configure(stream=out)).fetched("id1", "sales", "u\x1b[2J\n\u202ex", 7)
    (event,) = lines_of(out)
    moment = datetime.fromisoformat(event.pop("timestamp"))
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)
    assert event == {
        "stage": "fetcher",
        "id": "id1",
        "account": "sales",
        "uidl": "u\\x1b[2J\\n\\u202ex",
        "size": 7,
        "event": "fetched",
        "level": "info",
    }


ODD = (
    "",
    '"quoted" \\',
    "Grüße 😀",
    "\0\n\x7f\u2028",
    7,
    -1,
    True,
    None,
    0.25,
    [1, "a"],
    {"k": "v"},
)


@pytest.mark.parametrize("value", ODD)
def test_a_line_holds_any_value_as_it_is(value: object) -> None:
    out = io.StringIO()
    log = MailLog('stage "x"', lines=configure(stream=out))
    log.note('what "happened"', value=value)
    (event,) = lines_of(out)
    assert (event["event"], event["stage"]) == ('what "happened"', 'stage "x"')
    assert event["value"] == value
    assert type(event["value"]) is type(value)


def test_what_json_does_not_know_is_described() -> None:
    out = io.StringIO()
    MailLog("run", lines=configure(stream=out)).note("odd", value=Path("a"), name=HTTPStatus.OK)
    (event,) = lines_of(out)
    assert (event["value"], event["name"]) == (repr(Path("a")), 200)


def test_the_moment_of_a_line_goes_on_within_a_second_and_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    log = MailLog("run", lines=configure(stream=out))
    for micros in (999_999, 1_000_000, 1_000_001, 951_782_400_000_000):
        monkeypatch.setattr(time, "time_ns", lambda now=micros: now * 1000 + 999)
        log.note("tick")
    assert [event["timestamp"] for event in lines_of(out)] == [
        "1970-01-01T00:00:00.999999Z",
        "1970-01-01T00:00:01.000000Z",
        "1970-01-01T00:00:01.000001Z",
        "2000-02-29T00:00:00.000000Z",
    ]


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("DEBUG", ["forwarded", "delivered", "wrong", "failed"]),
        ("INFO", ["delivered", "wrong", "failed"]),
        ("WARNING", ["wrong", "failed"]),
        ("ERROR", ["failed"]),
    ],
)
def test_what_is_less_than_the_level_is_counted_and_not_said(level: str, said: list[str]) -> None:
    out = io.StringIO()
    log = MailLog("deliverer", lines=configure(level, out)).of("parser")
    log.forwarded("id1", "sales", "parsed")
    log.delivered("id1", "sales", "250 ok", 0.1)
    log.trouble("wrong")
    log.failed("id1", "sales", "parsed.failed", "550")
    assert [event["event"] for event in lines_of(out)] == said
    assert log.counts == {"forwarded": 1, "delivered": 1, "failed": 1}


def test_a_handler_that_crashed_is_told_with_its_traceback_and_nothing_hostile() -> None:
    for out in (io.StringIO(), Terminal()):
        log = MailLog("parser", lines=configure(stream=out))
        with pytest.raises(LookupError) as caught:
            b"subject".decode("\x1b]0;owned\x07")
        log.crashed("id1", "sales", caught.value)
        said = out.getvalue()
        if not out.isatty():
            said = lines_of(out)[0]["exception"]
        assert "Traceback (most recent call last):\n  File " in said
        assert "LookupError: unknown encoding: \\x1b]0;owned\\x07" in said


def test_a_person_gets_lines_in_colour() -> None:
    out = Terminal()
    MailLog("fetcher", lines=configure(stream=out)).fetched("id1", "sales", "u\x1b[2J", 7)
    assert "\x1b[3" in out.getvalue()
    plain = re.sub(r"\x1b\[\d*m", "", out.getvalue())
    assert re.fullmatch(
        r"\S+Z \[info +\] fetched +account=sales id=id1 size=7 stage=fetcher uidl=\S+\n", plain
    )
    assert "u\\x1b[2J" in plain


async def test_the_lines_of_one_turn_of_the_loop_are_one_write_and_keep_their_order() -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    lines = configure(stream=Stream())
    one, other = MailLog("fetcher", lines=lines), MailLog("deliverer", lines=lines)
    one.fetched("id1", "sales", "u", 1)
    other.delivered("id2", "sales", "250 ok", 0.1)
    one.removed("id3", "sales", "u")
    assert not writes
    await asyncio.sleep(0)
    said = [json.loads(line) for line in "".join(writes).splitlines()]
    assert [line["id"] for line in said] == ["id1", "id2", "id3"]
    assert len(list(filter(None, writes))) == 1


def test_a_stream_that_is_gone_stops_no_mail() -> None:
    out = io.StringIO()
    log = MailLog("deliverer", lines=configure(stream=out))
    out.close()
    log.delivered("id1", "sales", "250 ok", 0.1)
    assert log.counts["delivered"] == 1


def test_events_are_counted_for_the_summary_and_for_prometheus() -> None:
    counts: Counter[str] = Counter()
    log = MailLog("run", counts, Metrics(served=True)).of("fetcher")
    log.fetched("id1", "sales", "u", 100)
    log.fetched("id2", "sales", "u", 11)
    assert (counts["fetched"], counts["bytes"]) == (2, 111)
    text = log.metrics.text().decode()
    assert f'{EVENTS}{{event="fetched",stage="fetcher"}} 2.0' in text
    assert "pop3_connector_fetched_bytes_total 111.0" in text


def test_every_metric_that_is_declared_is_exposed() -> None:
    text = Metrics(served=True).text().decode()
    assert all(f"# HELP {m.name}" in text for m in METRICS)


def test_a_value_belongs_to_the_bucket_whose_bound_it_is_and_to_all_above() -> None:
    log = MailLog("parser", metrics=Metrics(served=True))
    for seconds in (0.0, 0.0001, 0.00011, 300, 301):
        log.handled(seconds)
    text = log.metrics.text().decode()
    for bound, count in (("0.0001", 2), ("0.0005", 3), ("60.0", 3), ("300.0", 4), ("+Inf", 5)):
        assert f'{HANDLING}_bucket{{le="{bound}",stage="parser"}} {count}.0\n' in text
    assert f'{HANDLING}_count{{stage="parser"}} 5.0\n' in text
    (total,) = re.findall(f'{HANDLING}_sum{{stage="parser"}} (.+)\n', text)
    assert float(total) == pytest.approx(601.00021)


def test_a_clock_set_back_does_not_make_a_delivery_of_less_than_no_time() -> None:
    log = MailLog("deliverer", metrics=Metrics(served=True))
    log.delivered("id1", "sales", "250 ok", -5.0)
    assert f"{LATENCY}_sum 0.0\n" in log.metrics.text().decode()


def test_a_metric_has_the_labels_that_are_declared() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics(served=True).counter(SPOOL, "parser")
    with pytest.raises(KeyError):
        Metrics(served=True).counter("pop3_connector_other_total")


def test_printable_keeps_letters_and_cuts() -> None:
    assert printable("Grüße 😀") == "Grüße 😀"
    assert printable("x" * 501) == "x" * 500 + "…"


def test_a_flood_of_one_trouble_is_some_lines_and_then_a_count() -> None:
    said, now = io.StringIO(), [0.0]
    log = MailLog("fetcher", lines=LogLines(said, monotonic=lambda: now[0]))
    for number in range(200_000 // 100):
        log.trouble("message refused", account="sales", number=number)
        log.trouble("message refused", account=f"other-{number % 100}")
    log.trouble("message refused", account="info")
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [line["number"] for line in lines if line["account"] == "sales"] == [
        str(number) for number in range(SOME)
    ]
    assert lines[-1]["account"] == "info"  # another account's trouble is told all the same
    now[0] += STRETCH
    said.truncate(0)
    said.seek(0)
    log.note("anything")
    first, *_ = lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert (first["event"], first["account"], first["left_out"]) == (
        "message refused",
        "sales",
        2_000 - SOME,
    )
    assert lines[-1]["event"] == "anything"
    log.trouble("message refused", account="sales", number=7)
    assert said.getvalue().count('"number": "7"') == 1
    for number in range(2 * SOME):
        log.trouble("message refused", account="sales", number=number)
    log.finish()
    assert json.loads(said.getvalue().splitlines()[-1])["left_out"] == SOME + 1
