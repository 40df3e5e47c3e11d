"""Refusals of real servers, and what each means."""

import pytest

from services.fetcher.pop3.protocol import GREETING, Pop3Reply
from services.fetcher.pop3.reply_meaning import meaning, out_of_order
from shared.errors import LoginRefused, MaildropBusy, ServerFault, TooManyConnections
from tests.fuzz.watch import no_hang

WRONG, BUSY, MANY, FAULT = LoginRefused, MaildropBusy, TooManyConnections, ServerFault

PASS = [
    # Gmail
    ("[AUTH] Username and password not accepted.", WRONG),
    ("[AUTH] Application-specific password required: https://support.example/185833", WRONG),
    ("[AUTH] Web login required: https://support.example/78754", WRONG),
    ("[IN-USE] Unable to lock maildrop: Mailbox is locked by POP server", BUSY),
    ("[SYS/TEMP] Temporary system problem. Please try again later.", BUSY),
    ("[SYS/PERM] Your account is not enabled for POP access. Please visit your settings", FAULT),
    # Exchange, Outlook.com
    ("Logon failure: unknown user name or bad password.", WRONG),
    ("Server Unavailable. 21", BUSY),
    ("Connection is closed. 10", FAULT),
    # Yahoo
    ("[AUTH] (#MBR1212) Incorrect username or password.", WRONG),
    ("[SYS/TEMP] Server error - Please try again later.", BUSY),
    # GMX, web.de, T-Online
    ("[LOGIN-DELAY] minimum time between mail checks violation", BUSY),
    ("minimum time between mail checks violation", BUSY),
    ("login only every 15 minutes", BUSY),
    ("Postfach wird bereits verwendet", BUSY),
    ("Benutzername oder Passwort falsch", WRONG),
    # Dovecot
    ("[AUTH] Authentication failed.", WRONG),
    ("Authentication failed.", WRONG),
    ("[SYS/TEMP] Temporary authentication failure. [mx1:2026-11-30 05:31:44]", BUSY),
    ("Temporary authentication failure.", BUSY),
    ("[IN-USE] Maximum number of connections from user+IP exceeded", BUSY),
    ("Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)", MANY),
    ("Disconnected: Connection queue full", MANY),
    ("[IN-USE] Too many connections from your IP address", MANY),
    ("[SYS/TEMP] Maximum number of connections reached, try later", MANY),
    ("[LIMIT] Too many connections for this mailbox", MANY),
    ("[AUTH] too many connections with a wrong password", WRONG),
    # Courier
    ("Login failed.", WRONG),
    ("Temporary problem, please try again later", BUSY),
    ("Your account is temporarily unavailable (+t bit set on home directory).", BUSY),
    ("POP3 access disabled for this account.", WRONG),
    # Cyrus, perdition
    ("[AUTH] Invalid login", WRONG),
    ("Unable to lock maildrop: Mailbox is locked by POP server", BUSY),
    ("[IN-USE] mailbox already in use by pid 12345", BUSY),
    # qpopper
    ("[IN-USE] /var/mail/.joe.pop lock busy!  Is another session active? (11)", BUSY),
    ("/var/mail/.joe.pop lock busy!  Is another session active? (11)", BUSY),
    ('[AUTH] Password supplied for "joe" is incorrect.', WRONG),
    ('Password supplied for "joe" is incorrect.', WRONG),
    # UW ipop3d, popa3d, qmail-pop3d and vpopmail, GNU mailutils, RFC 1939
    ("Can't get lock.  Mailbox in use", BUSY),
    ("Bad login", WRONG),
    ("Authentication failed (bad password?)", WRONG),
    ("authorization failed", WRONG),
    ("aack, child crashed", FAULT),
    ("Cannot lock mailbox", BUSY),
    ("unable to lock maildrop", BUSY),
    ("maildrop already locked", BUSY),
    ("invalid password", WRONG),
    ("sorry, no mailbox for frated here", WRONG),
    # hMailServer, MDaemon, Zimbra, Mercury, and others
    ("Your mailbox is already locked", BUSY),
    ("Invalid user name or password.", WRONG),
    ("Mailbox is in use by another process", BUSY),
    ("That mailbox is currently being accessed", BUSY),
    ("invalid username/password", WRONG),
    ("the account is in maintenance mode", BUSY),
    ("Maildrop is busy, try later", BUSY),
    ("server or maildrop is busy", BUSY),
    ("Too many concurrent logins", MANY),
    ("Too many simultaneous connections. (Failure)", MANY),
    ("too many connections from your IP address", MANY),
    ("connection limit reached", MANY),
    ("maximum number of sessions reached for this host", MANY),
    ("zu viele Verbindungen", MANY),
    ("system busy, try again later", BUSY),
    ("login frequency limited", BUSY),
    ("you log in too often", BUSY),
    ("internal server error", FAULT),
    ("database error", FAULT),
    ("come back later", BUSY),
    ("cannot open lock file", BUSY),
    ("There is already a session open for this mailbox", BUSY),
    ("unable to obtain exclusive access to the mailbox", BUSY),
    ("mailbox cannot be opened exclusively", BUSY),
    ("Exceeded the login limit for a 15 minute period. Reduce the frequency of requests", BUSY),
    ("mail check denied: too many checks", BUSY),
    ("Unable to process your request at this time", BUSY),
    ("Logon failure: mailbox database is offline", BUSY),
    ("Proxy: cannot connect to backend", BUSY),
    ("LDAP server not responding", BUSY),
    ("No more connections allowed from your IP", MANY),
    ("the maximum number of users is logged on", MANY),
    ("only one connection per mailbox allowed", MANY),
    ("Only one POP3 session allowed", MANY),
    # All that it may be, in one sentence, of QQ: mostly it is the password.
    ("Login fail. password is incorrect, login frequency limited, or system is busy.", WRONG),
    # To come again soon would make these worse.
    ("Too many failed login attempts, try again later", WRONG),
    ("too many bad auth attempts from your IP, connection closed", WRONG),
    ("account temporarily locked", WRONG),
    ("your IP is blocked for 30 minutes", WRONG),
    ("Authentication failed. Please try again later", WRONG),
    ("account locked by the administrator", WRONG),
    ("[AUTH] mailbox locked for good", WRONG),
    ("no", WRONG),
    ("", WRONG),
]


@pytest.mark.parametrize(("text", "kind"), PASS)
def test_a_refused_login(text: str, kind: type[ServerFault]) -> None:
    assert meaning(Pop3Reply("PASS", ok=False, text=text)) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[SYS/TEMP] full house", BUSY),
        ("[IN-USE] too many sessions", MANY),
        ("[SYS/TEMP] too many connections, try again later", MANY),
        ("too many connections from 192.0.2.1", MANY),
        ("Too many POP3 sessions, try again later", MANY),
        ("Sorry, the maximum number of clients (50) is connected already", MANY),
        ("server is shutting down", FAULT),
        ("service not available, closing channel", BUSY),
        ("access denied for your host", FAULT),
        ("", FAULT),
    ],
)
def test_a_refusal_in_place_of_a_greeting(text: str, kind: type[ServerFault]) -> None:
    assert meaning(Pop3Reply(GREETING, ok=False, text=text)) is kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("USER first", True),
        ("USER/PASS required.", True),
        ("bad sequence of commands", True),
        ("improper use of pipelining", True),
        ("command not valid in this state", True),
        ("[AUTH] user name required", False),
        ("wrong password", False),
    ],
)
def test_a_refusal_that_complains_of_the_order(text: str, expected: bool) -> None:
    assert out_of_order(Pop3Reply("PASS", ok=False, text=text)) is expected


def test_a_refusal_of_any_length_is_read_in_no_time() -> None:
    with no_hang():
        meaning(Pop3Reply("PASS", ok=False, text="too many connect mailbox " * 4_000))
