"""What a refused login, or a greeting that is -ERR, means: wait, the wrong password, or a fault.

A response code (RFC 2449 section 8, RFC 3206) decides where there is one. Most servers say it in
words alone, so there is a table of these, tried from the top; a wait that is taken for a wrong
password backs an account off for an hour, and a wrong password that is taken for a wait may lock
it. What no words decide is, after PASS, a wrong password.

Known limit: the words are English, as nearly all servers speak, and a few of German.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from services.fetcher.pop3.protocol import GREETING, Pop3Reply
from shared.errors import LoginRefused, MaildropBusy, ServerFault, TooManyConnections

_CODES: Final[Mapping[str, type[ServerFault]]] = {
    "IN-USE": MaildropBusy,  # RFC 2449 section 8.1.1
    "INUSE": MaildropBusy,  # RFC 5530, of IMAP
    "LOGIN-DELAY": MaildropBusy,  # RFC 2449 section 8.1.1
    "LIMIT": TooManyConnections,  # RFC 5530, of IMAP
    "UNAVAILABLE": MaildropBusy,  # RFC 5530, of IMAP
    "SYS/TEMP": MaildropBusy,  # RFC 3206 section 4
    "SYS/PERM": ServerFault,  # RFC 3206 section 4
    "AUTH": LoginRefused,  # RFC 3206 section 5
}

_MANY: Final = r"(too many|to many|maximum|exceed|limit|zu viele|maximale)"
_SESSIONS: Final = (
    r"(connect|session|client|process|instance|(simultaneous|concurrent) (login|user)"
    r"|verbindung|sitzung)"
)
_BOX: Final = r"(mail ?drop|mail ?box|mail ?store|mail file|inbox|folder|spool|pop ?drop|postfach)"
_US: Final = r"(log[io]n|log[- ]?in|sign[- ]?in|access|user|account|apop)"
_WORDS: Final[Sequence[tuple[type[ServerFault], str]]] = (
    # A list of all that it may be: mostly it is this.
    (LoginRefused, r"(incorrect|invalid|wrong|bad) password|password (is |was )?(incorrect|wrong)"),
    # To come again soon makes it worse.
    (LoginRefused, rf"{_MANY}.*(failed|failures|invalid|wrong|bad|incorrect|attempt|tries)"),
    (LoginRefused, r"(temporar|for \d+ min).*(block|banned|suspend|disabled)"),
    (LoginRefused, r"(block|banned|suspend|disabled).*(temporar|for \d+ min)"),
    (LoginRefused, r"account.*(temporar|for \d+ min).*lock|account.*lock.*(temporar|for \d+ min)"),
    # The server has too many of our connections, or of everybody's.
    (TooManyConnections, rf"{_MANY}.*{_SESSIONS}"),
    (TooManyConnections, rf"{_SESSIONS}.*{_MANY}"),
    (TooManyConnections, r"(too many|maximum.*) (users|logins)|queue (is )?full"),
    (TooManyConnections, rf"(no more|only (one|\d+)) (\w+ )?{_SESSIONS}"),
    # Somebody has the maildrop.
    (MaildropBusy, rf"{_BOX}.*(lock|in use|busy|already|being|open by|verwendet|belegt|benutz)"),
    (MaildropBusy, rf"(lock|in use by|already open|session open|exclusive).*{_BOX}"),
    (MaildropBusy, rf"{_BOX}.*(exclusive)|(open|create|access) lock"),
    (MaildropBusy, r"already (locked|in use|logged|open|active|connected|running)|lock busy"),
    (MaildropBusy, r"another (session|client|connection|pop|user|process|instance|login)"),
    (
        MaildropBusy,
        r"(get|obtain|acquire|set|create|have|establish|failed to|unable to|cannot) lock",
    ),
    (MaildropBusy, r"lock (is )?(held|failed|timeout|exists)|deadlock|(account|user) (is )?in use"),
    # The server is not up to it now.
    (MaildropBusy, r"temporar|maintenance|overload|not? available|unavailable|vorübergehend"),
    (MaildropBusy, r"(server|system|service|host|load)\b.*(busy|too high)|time(d )?-?out|throttl"),
    (MaildropBusy, r"too (often|soon|early|frequent|fast)|(minimum|min\.?) (time|interval)"),
    (MaildropBusy, r"too many checks|login limit|\b(off-?line|is down|not responding)\b|backend"),
    (MaildropBusy, r"(unable to|cannot|can't) process"),
    (MaildropBusy, r"frequen(cy|t)\b.*limit|rate limit|login[- ]delay|\b(only|once) every\b"),
    # It does not know us.
    (LoginRefused, r"passwor[dt]|credential|authenti|authori[sz]|user ?name|kennwort|benutzer"),
    (LoginRefused, rf"{_US}\b.*(fail|invalid|incorrect|denied|refused|unknown|bad|wrong|not )"),
    (LoginRefused, rf"{_US}\b.*(no such|reject|disabled|lock|expired)"),
    (LoginRefused, rf"(fail|invalid|incorrect|bad|wrong|unknown|no such|denied)\b.*{_US}"),
    # Whatever it is, it passes.
    (MaildropBusy, r"\blater\b|(try|retry).*again|\bretry\b|please wait|\bwait \d|später|\bbusy\b"),
    (
        ServerFault,
        r"(internal|system|server|i/o|disk|database|configuration)\b.*(error|problem|fail)",
    ),
    (ServerFault, r"out of memory|no space|child crashed|shutting down|connection is closed"),
)
_OF_ONE: Final = rf"\b(user|account|{_BOX})\b"
"""What is limited is the connections of one maildrop."""

_OUT_OF_ORDER: Final = (
    r"(user|name)\b.*\b(first|before|required)|bad sequence|out of (order|sequence)|pipelin"
    r"|(command|it) (is )?not (valid|allowed|permitted|accepted) (in|at|now)|wrong state"
    r"|synchroni[sz]ation"
)


def meaning(reply: Pop3Reply) -> type[ServerFault]:
    """Return what kind of fault a refusal is: of USER, PASS, or in place of the greeting."""
    code = next((k for c, k in _CODES.items() if re.match(rf"{c}(?![A-Z])", reply.code)), None)
    text = reply.text[:500]
    unsaid = ServerFault if reply.verb == GREETING else LoginRefused
    found = next((kind for kind, words in _WORDS if _says(words, text)), unsaid)
    if code is MaildropBusy and found is TooManyConnections and not _says(_OF_ONE, text):
        return found  # [IN-USE] and [SYS/TEMP] stand before it, too
    if code is not None:
        return code
    return ServerFault if found is LoginRefused and reply.verb == GREETING else found


def temporary(reply: Pop3Reply) -> bool:
    """Return whether a refusal, of whatever command, passes: nothing is to be learnt from it."""
    return not reply.ok and issubclass(meaning(reply), MaildropBusy)


def out_of_order(reply: Pop3Reply) -> bool:
    """Return whether a refusal complains of the order of commands.

    Of commands sent together in the right order, no server says so that keeps PIPELINING.
    """
    return not reply.ok and not reply.code and _says(_OUT_OF_ORDER, reply.text[:500])


def _says(words: str, text: str) -> bool:
    # Compiled when they are needed, and kept by ``re``: no start waits for it.
    return re.search(words, text, re.IGNORECASE) is not None
