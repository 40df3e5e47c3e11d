"""What goes wrong in a play is noticed, and a line that means nothing refused."""

import json
import socket
from pathlib import Path

import pytest

from tests.dialogues.play import Play
from tests.dialogues.script import Unreadable, read
from tests.dialogues.server import Server, Writing

ONE = "maildrop: A\n== poll\n"
WELL = "delivered: A\nleft: A\n"
SESSION = "S: +OK\nC: CAPA\nS: +OK\nS: .\nC: USER box\nS: +OK\nC: PASS *\nS: +OK\n"

WRONG = {
    "a message that did not come": (f"{ONE}delivered: A B\nleft: A\n", "delivered: A in place of"),
    "a message that came": (f"{ONE}delivered: -\nleft: A\n", "delivered: A in place of nothing"),
    "what is left": (f"{ONE}delivered: A\nleft: -\n", "left: ['A'] in place of -"),
    "another text": (
        f"message A:\nM: Subject: x\nM: \n{ONE}on RETR: +OK\nS: Subject: y\nS: \nS: .\n{WELL}",
        "?b'Subject: y",
    ),
    "an exit status": (f"{ONE}{WELL}exit: 1\n", "exit: 0 in place of 1"),
    "a failure": (f"{ONE}on PASS: -ERR no\ndelivered: -\nleft: A\n", "exit: 1 in place of 0"),
    "quarantine": ("message A:\nM: .\n" + ONE + "delivered: -\nleft: A\nexit: 1\n", "quarantined"),
    "words": (f"{ONE}{WELL}says: nothing like it\n", "not said: nothing like it"),
    "words of accounts": (f"{ONE}{WELL}accounts: nothing like it\n", "nothing like it"),
    "a command": (f"{ONE}{WELL}not sent: RETR A\n", "it has sent ['RETR A']"),
    "a verb": (f"{ONE}{WELL}not sent: UIDL\n", "it has sent ['UIDL']"),
    "no command": (f"{ONE}{WELL}sent: DELE A\n", "it has not sent ['DELE A']"),
    "sessions": (f"{ONE}{WELL}sessions: 2\n", "1 in place of 2"),
    "a session too few": (f"{ONE}== session\nS: +OK\n== session\nS: +OK\n{WELL}", "fewer than"),
    "an order": (f"{ONE}== session\n{SESSION}C: QUIT\nS: +OK\n{WELL}", "this was to come"),
    "an end": (f"{ONE}== session\n{SESSION}C: RETR 1\nS: <drop>\nC: NOOP\n{WELL}", "NOOP"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_goes_wrong_is_noticed(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        play(text, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "line", ["delivred: A", "S: +OK", "C: RETR 1", "M: x", "size: 3", "== pol"]
)
def test_a_line_that_means_nothing_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"told\.txt:2: "):
        play(f"maildrop: A\n{line}\n== poll\n{WELL}", tmp_path)


def test_a_log_of_debugging_is_a_transcript(tmp_path: Path) -> None:
    lines = [line for line in SESSION.splitlines() if line]
    log = [json.dumps({"stage": "fetcher", "event": line, "level": "debug"}) for line in lines]
    log.insert(0, json.dumps({"event": "# connected to pop.example:110", "level": "debug"}))
    log.insert(1, json.dumps({"event": "polled", "account": "box"}))
    (tmp_path / "pasted.txt").write_text(f"{ONE}== session\n" + "\n".join(log) + f"\n{WELL}")
    (tmp_path / "plain.txt").write_text(f"{ONE}== session\n{SESSION}{WELL}")
    pasted, plain = read(tmp_path / "pasted.txt"), read(tmp_path / "plain.txt")
    assert pasted.polls[0].transcripts == plain.polls[0].transcripts


def test_a_last_poll_without_a_fate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no line 'left:'"):
        play(f"{ONE}delivered: A\n", tmp_path)


def test_commands_sent_together_without_leave_are_noticed() -> None:
    with Server().serving() as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"NOOP\r\nQUIT\r\n")
            while client.recv(4096):
                pass
        assert "sent along with 'NOOP', without PIPELINING" in server.faults[0]


def play(text: str, folder: Path) -> None:
    path = folder / "told.txt"
    path.write_text(text)
    Play(read(path), folder, Writing.WHOLE).go()
