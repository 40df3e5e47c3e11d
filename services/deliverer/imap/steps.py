"""The steps of an IMAP session: what a reply is said to, and how long to wait for it."""

from __future__ import annotations

from enum import Enum


class ImapStep(Enum):
    """Where in a session a reply is given.

    Attributes:
        phrase: completes "said to ...".
        seconds: how long to wait for the reply. RFC 9051 gives none; those of RFC 5321 will do.
    """

    GREETING = ("the connection", 300.0)
    STARTTLS = ("STARTTLS", 120.0)
    LOGIN = ("the login", 300.0)
    SETUP = ("a question about the mailbox", 120.0)
    EXAMINE = ("EXAMINE", 300.0)
    SEARCH = ("SEARCH", 600.0)
    CREATE = ("CREATE", 300.0)
    APPEND = ("APPEND", 600.0)
    STORE = ("STORE", 120.0)

    def __init__(self, phrase: str, seconds: float) -> None:
        self.phrase = phrase
        self.seconds = seconds
