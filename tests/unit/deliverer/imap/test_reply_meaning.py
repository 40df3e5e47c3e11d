"""What replies mean: the table of docs/delivery.md, and the ends of it."""

import re
from pathlib import Path

import pytest

from services.deliverer.imap.reply_meaning import Meaning, meaning
from services.deliverer.imap.response import ImapStatus, ResponseReader, status_of
from services.deliverer.imap.steps import ImapStep

DOCS = (Path(__file__).parents[4] / "docs/delivery.md").read_text()
ROW = re.compile(
    r"^\| ([^|]+) \| (append|login|create|examine) \| `(.+)` \| ([^|]+) \|$", re.MULTILINE
)
CALLED: dict[str, Meaning] = {
    "retry": "temporary",
    "Failed Mail": "permanent",
    "slower": "rate",
    "make it": "folder",
    "destination": "session",
}


def status(text: str) -> ImapStatus:
    (response,) = ResponseReader().feed(b"P1 " + text.encode() + b"\r\n")
    found = status_of(response)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("step", "said", "means"),
    [pytest.param(*row[1:], id=" ".join(row)) for row in ROW.findall(DOCS)],
)
def test_replies_of_real_servers(step: str, said: str, means: str) -> None:
    assert meaning(status(said), ImapStep[step.upper()]) == CALLED[means]


def test_the_table_is_read() -> None:
    assert len(ROW.findall(DOCS)) >= 40


@pytest.mark.parametrize("step", ImapStep)
def test_success_is_success_at_every_step(step: ImapStep) -> None:
    assert meaning(status("OK [THROTTLED] quota exceeded"), step) == "delivered"


@pytest.mark.parametrize("step", ["GREETING", "STARTTLS", "LOGIN", "SETUP"])
@pytest.mark.parametrize("said", ["NO no", "BAD what", "BYE go away", "NO [TOOBIG] no"])
def test_before_a_message_is_in_play_none_is_to_blame(step: str, said: str) -> None:
    assert meaning(status(said), ImapStep[step]) == "session"
