"""What a dialogue tells, and what it hides."""

import io
import json

import pytest

from shared.dialogue import Dialogue
from shared.log import MailLog, configure


def test_what_is_said_is_told_with_hostile_text_escaped() -> None:
    told: list[str] = []
    dialogue = Dialogue(told.append)
    dialogue.note("connected")
    dialogue.client("RETR 3")
    dialogue.server("+OK \x1b[2J")
    dialogue.server_bytes(120)
    dialogue.client_bytes(7)
    assert told == [
        "# connected",
        "C: RETR 3",
        "S: +OK \\x1b[2J",
        "S: <bytes 120>",
        "C: <bytes 7>",
    ]


@pytest.mark.parametrize(
    ("secret", "line", "shown"),
    [
        ("swordfish", "-ERR xswordfishy", "-ERR x***y"),
        ("a", "-ERR a bad password: a", "-ERR *** bad password: ***"),
        ("a.c", "-ERR abc a.c", "-ERR abc ***"),
        ("", "-ERR no", "-ERR no"),
    ],
)
def test_a_secret_is_hidden_wherever_it_comes(secret: str, line: str, shown: str) -> None:
    told: list[str] = []
    dialogue = Dialogue(told.append)
    dialogue.hide(secret)
    dialogue.server(line)
    assert told == [f"S: {shown}"]


def test_a_dialogue_is_logged_for_debugging_alone() -> None:
    out = io.StringIO()
    tell = MailLog("fetcher", lines=configure("DEBUG", out)).dialogue(account="sales")
    assert tell is not None
    tell("C: RETR 3")
    line = json.loads(out.getvalue())
    line.pop("timestamp")
    expected = {"stage": "fetcher", "account": "sales", "event": "C: RETR 3", "level": "debug"}
    assert line == expected
    assert MailLog("fetcher", lines=configure("INFO", out)).dialogue(account="sales") is None
