"""What an IMAP server's reply means for a message, by one table: the first rule that fits decides.

Told by the response code (RFC 5530, the IANA registry) and, where servers say with words alone what
they mean, by those. What nobody foresaw is temporary, BAD too: that the two sides do not understand
each other is not the message's fault. docs/delivery.md has replies of real servers beside what is
made of them.

Known limit: the words are English, as nearly all servers speak.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

from services.deliverer.imap.response import ImapStatus
from services.deliverer.imap.steps import ImapStep

Meaning: TypeAlias = Literal["delivered", "temporary", "permanent", "session", "rate", "folder"]
"""The verdict on a message. Three are not about the message: ``session``, the destination is out of
order or does not let us in; ``rate``, it wants less mail, or more slowly; ``folder``, there is none
of this name yet."""

_ANY: Final = frozenset(ImapStep)
_SETUP: Final = frozenset({ImapStep.GREETING, ImapStep.STARTTLS, ImapStep.LOGIN, ImapStep.SETUP})
_APPEND: Final = frozenset({ImapStep.APPEND})
_CREATE: Final = frozenset({ImapStep.CREATE})
_FOLDER: Final = frozenset({ImapStep.APPEND, ImapStep.EXAMINE})


class _Rule(NamedTuple):
    """Fits replies to some steps, by their code and, unless it is None, by their words."""

    steps: frozenset[ImapStep]
    code: str
    meaning: Meaning
    words: str | None = None


_RATE: Final = (
    r"too many (\w+ ){0,2}?(connections?|sessions|commands|requests|messages|logins)"
    r"|maximum number of connections|(command|bandwidth|rate|connection) limit|rate limit"
    r"|throttl|slow down|back ?off|too (quickly|fast|frequently|often)|server (is )?busy"
)
_CONTENT: Final = (
    r"contains (NUL|bare|invalid|non-ascii|8.?bit)|(parse|invalid) (the )?(message|header|rfc822)"
    r"|header (is )?invalid|nul (byte|character)s?|malformed message|8.?bit (data|character)"
    r"|virus|malware|infected"
)
_SIZE: Final = (
    r"(message|mail|literal|append)\b.{0,40}(too (big|large|long)|exceed\w* .{0,20}size)"
    r"|(exceed|over|larger than|maximum)\w* .{0,30}(message |mail )size"
)
_FULL: Final = r"quota|mailbox (is )?full|out of (disk )?space|disk (is )?full"
_NO_FOLDER: Final = (
    r"(no such|unknown|non-?exist\w+) (mailbox|folder)"
    r"|(mailbox|folder)\b.{0,80}(n[o']t exist|not found|unknown)|must create"
)

_BAD_NAME: Final = (
    r"(invalid|illegal|bad|not (a )?valid) ((mailbox|folder|character)s?|.{0,20}name)\b"
)

_RULES: Final = (
    _Rule(_ANY, r"LIMIT|THROTTLED", "rate"),
    _Rule(_ANY, r"", "rate", _RATE),
    _Rule(_SETUP, r"", "session"),
    # The login has run out, or was only good for asking: no message is to blame.
    _Rule(_ANY, r"AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED|PRIVACYREQUIRED", "session"),
    _Rule(_ANY, r"", "session", r"not (yet )?(authenticated|logged in|connected)"),
    _Rule(_FOLDER, r"TRYCREATE|NONEXISTENT", "folder"),
    # A quota is emptied some day, whatever is said of sizes beside it.
    _Rule(_ANY, r"OVERQUOTA", "temporary"),
    _Rule(
        _ANY, r"UNAVAILABLE|INUSE|SERVERBUG|CONTACTADMIN|CORRUPTION|CLIENTBUG|NOPERM", "temporary"
    ),
    _Rule(_APPEND, r"TOOBIG|UNKNOWN-CTE", "permanent"),
    _Rule(_CREATE | _APPEND, r"CANNOT", "permanent"),
    _Rule(_CREATE, r"", "permanent", _BAD_NAME),
    _Rule(_APPEND, r"", "temporary", _FULL),
    _Rule(_APPEND, r"", "permanent", _SIZE),
    _Rule(_APPEND, r"", "permanent", _CONTENT),
    _Rule(_FOLDER, r"", "folder", _NO_FOLDER),
)

_QUOTED: Final = re.compile(r"<[^<>]*>|(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|\S+@\S+")
"""What may be called anything: names of folders, addresses."""


def meaning(status: ImapStatus, step: ImapStep) -> Meaning:
    """Return what a reply to a step of the session means."""
    if status.kind in ("OK", "PREAUTH"):
        return "delivered"
    words = _QUOTED.sub("<>", status.words)
    for rule in _RULES:
        if step in rule.steps and _fits(rule, status.code, words):
            return rule.meaning
    return "session" if status.kind == "BYE" else "temporary"


def _fits(rule: _Rule, code: str, words: str) -> bool:
    if rule.code and re.fullmatch(rule.code, code) is None:
        return False
    # Compiled when they are needed, and kept by ``re``: no start waits for it.
    return rule.words is None or re.search(rule.words, words, re.IGNORECASE) is not None
