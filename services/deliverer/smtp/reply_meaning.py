"""What a mail server's reply means for a message, by one table: the first rule that fits decides.

Told by reply code (RFC 5321 section 4.2), enhanced status code (RFC 3463, the IANA registry) and,
where servers say with words alone what they mean, by those. Servers are not trusted to use codes as
they were meant: the known misuses come before the general rules. What nobody foresaw is temporary,
and so is what might be: a try too many costs less than mail in Failed Mail for no reason.
docs/delivery.md has replies of real servers beside what is made of them.

Known limit: the words are English, as nearly all servers speak.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

from services.deliverer.smtp.reply import SmtpReply, SmtpStep

Meaning: TypeAlias = Literal["delivered", "temporary", "permanent", "session", "rate", "sender"]
"""The verdict on a message. Three are not about the message: ``session``, the destination is out of
order or does not let us in; ``rate``, it wants less mail, or more slowly; ``sender``, the form
or the domain of the sender is not to its liking, and another one would be."""

_ANY: Final = frozenset(SmtpStep)
_SETUP: Final = frozenset({SmtpStep.GREETING, SmtpStep.HELLO, SmtpStep.STARTTLS, SmtpStep.AUTH})
_ENVELOPE: Final = frozenset({SmtpStep.MAIL, SmtpStep.RCPT, SmtpStep.DATA})
_MESSAGE: Final = _ENVELOPE | {SmtpStep.END}
_MAIL: Final = frozenset({SmtpStep.MAIL})
_RCPT: Final = frozenset({SmtpStep.RCPT})
_NAMES: Final = frozenset({SmtpStep.MAIL, SmtpStep.RCPT})
_END: Final = frozenset({SmtpStep.END})


class _Rule(NamedTuple):
    """Fits replies to some steps, by their key and, unless it is None, by their words.

    The key is ``552 2.2``: code, and subject and detail of the enhanced code; ``552`` without one.
    """

    steps: frozenset[SmtpStep]
    key: str
    meaning: Meaning
    words: str | None = None


_GREYLISTED: Final = r"gr[ae]y-?\s?list"
_RATE: Final = (
    r"too many (\w+ ){0,2}?(connections?|sessions|messages|mails|e-?mails|requests|deliveries"
    r"|transactions)\b"
    r"|too many recipients (received )?(this|in|per|within|from)|too much (mail|load)|throttl"
    r"|slow down|slower"
    r"|(rate|connections?|threads?|send|sending|hourly|daily)[ -]?(limit|quota|control)"
    r"|sending rate|at a rate|unusual rate|rate (is |was )?exceeded|exceed\w* .{0,20}\brate\b"
    r"|too (quickly|fast|frequently|often)|(mail|message|recipient|connection)s? (per|in|every) "
    r"(a |an |\d+ ?)?(s|sec|second|min|minute|hour|day)s?\b|server (is )?busy|too busy"
    r"|congest|maximum (\w+ ){0,5}connections"
)
_LOGIN: Final = (
    r"authenti\w+ (is )?(required|needed)|requires authenti|not authenticated"
    r"|must (first )?(log ?in|authenticate)|login (is )?required|issue a starttls"
)
_OUR_HOST: Final = (
    r"client host (rejected|\S+ blocked)|helo command rejected|cannot find your (reverse )?hostname"
    r"|(is|listed) in an? (rbl|dnsbl|black ?list)|banned sending ip|reverse dns|poor reputation"
    r"|\b(\d{1,3}\.){3}\d{1,3}[])]* (is |was |has been )?(listed|refused|blocked|banned|black)"
)
_SENDER: Final = (
    r"sender verif|callback setup failed|unrout\w+ sender|domain of sender"
    r"|domain name required for sender"
    r"|(sender|return)( e-?mail)?( address)?( rejected)?[: ].{0,80}?(domain not found|not exist"
    r"|not resolve|unresolvable|malformed|fully[ -]qualified|contain a domain"
    r"|unverified|undeliverable|not accept mail)"
    r"|(invalid|malformed|bad|illegal|syntactically incorrect) (sender|return path|reverse[ -]path)"
    r"|sender domain.{0,30}(exist|resolv|found|empty|invalid|mx)|sender must exist"
    r"|mx for your from address|unknown sender domain|sender address rejected: user unknown"
)
_FULL: Final = (
    r"quota|(mailbox|inbox|folder|maildir|account|user)( is| has)? (full|over\b|exceed)"
    r"|full mailbox|mailbox .{0,20}limit|out of (disk |storage )?space|disk (is )?full"
    r"|storage allocation|(insufficient|not enough|no|low) (disk|system|storage|free|space)"
)
_LATER: Final = (
    _GREYLISTED + r"|temporar|(try|again|retry|come back) (it )?later|(again|try) in (a |\d)"
    r"|try after some ?time|ip you're using to send"
)
_VERDICT: Final = (
    r"(rejected|refused|blocked)((?!too m|\brate|limit).){0,40}"
    r"\b((virus|malware|spam)(?![ -]?(scan|filter|check|engine|assassin))|attachment|subject\b)"
    r"|\b(virus|malware|spam) (\S+ )?(found|detected)\b|infected|looks like spam"
    r"|attachments? .{0,60}(not (allowed|permitted|accepted)|forbidden|prohibited)"
    r"|(with|has) (the|a) subject\b"
)
_NOBODY: Final = (
    r"^(?!.*(sender|later|temporar|over (its |the )?quota|exceed|full\b))"
    r".*\b((user|mailbox|recipient|account|address|alias)\b.{0,40}(unknown|not found|n[o']t exist)"
    r"|(no such|unknown) (user|mailbox|recipient|account|address|alias|person))"
)
_ONCE_MORE: Final = r"\btry (it )?again"
_SIZE: Final = r"size|too (big|large)|larger than"
_CONTENT: Final = (
    r"lines?\b.{0,12}(too long|exceed)|line length|headers?\b.{0,24}(too (large|long|big)|exceed)"
    r"|too many header"
    r"|mime parts|content|attachment|virus|malware|spam|security"
)

_RULES: Final = (
    # What is said of the message or of the recipient may name anything: what a filter has found in
    # the one, what the other is called. A limit that is stated in 5xx is none of the two.
    _Rule(_END, r"5", "permanent", _VERDICT),
    _Rule(_RCPT, r"5.. 1\.([0-69]|10)$|5\d\d$", "permanent", _NOBODY),
    _Rule(_MESSAGE, r"[45]", "temporary", _GREYLISTED),
    _Rule(_ANY, r"[45].. (7\.28|4\.5)$|4.. 7\.[56]\d\d$", "rate"),
    _Rule(_ANY, r"[45]", "rate", _RATE),
    _Rule(_MAIL, r"4[35]. 3\.2$", "rate"),  # it "is not accepting network messages"
    _Rule(_SETUP, r"[^2]", "session"),
    # 530, 534, 535, 538 (RFC 4954, RFC 3207) and X.7.0, X.7.8 ... X.7.11 without a reply code of
    # the kind: authentication or TLS is asked for, or ours was refused. 521 (RFC 7504): no mail.
    _Rule(_MESSAGE, r"534", "permanent", _SIZE),  # Courier's own
    # Policy put off, of a message as such (X.7.0, X.7.1): filters say so of limits, few words said.
    _Rule(_END, r"4(21|5[01]) 7\.[01]$", "rate"),
    _Rule(_END, r"521 [67]\.", "permanent"),  # Postfix: REJECT, and hang up
    _Rule(_ANY, r"53[0458]|521|421", "session"),
    _Rule(_MAIL, r"[45].. 7\.(0|8|9|10|11)$", "session"),
    _Rule(_MAIL, r"[45]", "session", _LOGIN),
    # To RCPT it may be about this recipient: others need no login, and must not be kept waiting.
    _Rule(_RCPT, r"[45]", "temporary", _LOGIN),
    # It is our host that is refused, though servers wait with it until they know the recipients
    # (Postfix: smtpd_delay_reject). All mail would end in Failed Mail for that.
    _Rule(_ENVELOPE, r"[45].. 7\.25$|5.. 7\.(511|6[0-4]\d|7[0-4]\d)$", "session"),
    _Rule(_ENVELOPE, r"[45]", "session", _OUR_HOST),
    # Bad syntax or domain of a sender (X.1.7, X.1.8), non-ASCII (X.6.7), SPF (X.7.23, X.7.24),
    # a domain that takes no mail (X.7.27). 417 and 517 are Courier's own.
    _Rule(_ENVELOPE, r"[45].. (1\.[78]|7\.2[347])$", "sender"),
    _Rule(_MAIL, r"5", "permanent", "badmailfrom"),
    _Rule(_MAIL, r"[45].. 6\.7$|[45]17$|5(01|04|53|55)( [0-6]\.\d+)?$", "sender"),
    _Rule(_MAIL, r"55", "sender", "syntax"),
    _Rule(_ENVELOPE, r"[45]", "sender", _SENDER),
    # Over quota (X.2.2): servers give it 552, 554 or 550, and the mailbox is emptied some day.
    _Rule(_MESSAGE, r"5.. 2\.2$", "temporary"),
    _Rule(_MESSAGE, r"552 (2\.3|3\.4)$", "permanent"),
    _Rule(_MESSAGE, r"5", "temporary", _FULL),
    # Out of space, closed, badly configured; its directory is away; too many recipients at once.
    _Rule(_MESSAGE, r"5.. (2\.12[12]|3\.[125]|4\.3|5\.3)$", "temporary"),
    _Rule(
        _MESSAGE, r"5", "temporary", _LATER + "|too many recipients|maximum number of recipients"
    ),
    # Said of an address, or of a size, it means another one.
    _Rule(_MESSAGE, r"5.. 7\.", "temporary", _ONCE_MORE),
    # What does not please it in the message, whatever the code (RFC 5321 section 4.5.3.1.9: 500).
    _Rule(_END, r"5.. [67]\.", "permanent"),
    _Rule(_END, r"5(00|52)", "permanent", _CONTENT),
    # Without an enhanced code, 552 to MAIL is about SIZE (RFC 1870 section 6.1); to RCPT it means
    # "too many recipients" (RFC 5321 section 4.5.3.1.10); at the end "exceeded storage allocation".
    _Rule(_MAIL, r"552", "permanent"),
    _Rule(_END, r"552", "permanent", _SIZE),
    _Rule(_MESSAGE, r"552", "temporary"),
    # Of a name, 504 is what the server thinks of it; of a parameter we send what EHLO offered.
    _Rule(_NAMES, r"504", "permanent"),
    # The two sides do not understand each other; that is not the message's fault.
    _Rule(_ANY, r"50[0234]", "temporary"),
    _Rule(_ANY, r"5", "permanent"),
)

_QUOTED: Final = re.compile(
    r"<[^<>]*>|[^\s<>()\[\]\"':;,=]+@[\w.-]*\w"
    r"|(?<!\w)'[^']*'(?!\w)|\"[^\"]*\""
    r"|[\w.-]+\.(?:exe|scr|pif|bat|cmd|js|vbs|lnk|iso|img|zip|rar|7z|gz|docm?|docx|xls[mx]?|pdf"
    r"|html?|eml|txt|jar)\b",
    re.IGNORECASE,
)
"""Addresses, text in quotation marks, and names of files."""

_ENHANCED: Final = re.compile(r"#?([245])\.(\d{1,3}\.\d{1,3})(?![\w.])|.*?\(#([245])\.(\d\.\d)\)")


_CONNECTIONS: Final = r"connections?\b(?! rate)|sessions|concurren|4\.3\.2"


def crowds(reply: SmtpReply) -> bool:
    """Return whether a reply that means ``rate`` is about the number of connections."""
    return re.search(_CONNECTIONS, reply.text, re.IGNORECASE) is not None


def meaning(reply: SmtpReply, step: SmtpStep) -> Meaning:
    """Return what a reply to a step of the session means."""
    if 200 <= reply.code < 300:
        return "delivered"
    text = reply.words
    found = _ENHANCED.match(text)  # first of all, or as qmail has it: last, and (#5.1.1)
    subject = found and (found[2] or found[4])
    key = f"{reply.code} {subject}" if subject else str(reply.code)
    words = _QUOTED.sub("<>", text)  # somebody may be called quota@, a subject be "server busy"
    contradicts = found and (found[1] or found[3]) != key[0] and step not in _SETUP
    for rule in _RULES:
        if step in rule.steps and re.match(rule.key, key) and _has(rule.words, words):
            # Where the server contradicts itself (550 4.2.1), permanent is too much.
            return "temporary" if contradicts and rule.meaning == "permanent" else rule.meaning
    return "temporary"


def _has(words: str | None, text: str) -> bool:
    # Compiled when they are needed, and kept by ``re``: no start waits for it.
    return words is None or re.search(words, text, re.IGNORECASE) is not None
