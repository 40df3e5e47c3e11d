"""What a dialogue tells, and what it hides."""

import io
import json

from shared.log import MailLog
from shared.log_lines import configure
from shared.network.dialogue import Dialogue
from shared.redaction.redaction import Redaction


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


def test_a_password_is_hidden_wherever_it_comes() -> None:
    told: list[str] = []
    dialogue = Dialogue(told.append, Redaction("swordfish"))
    dialogue.server("-ERR xswordfishy")
    dialogue.client("USER Swordfish")
    dialogue.note("out of turn: swordfish")
    assert told == ["S: -ERR x***y", "C: USER ***", "# out of turn: ***"]


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
