"""From getmail's rc files to accounts: one each (getmail's documentation, "Configuration").

Values are Python where they are lists; they are read as literals, and nothing is evaluated.
"""

from __future__ import annotations

import ast
import configparser
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from services.postmaster.moving import deliveries
from services.postmaster.moving.found import (
    Found,
    FoundAccount,
    FoundDestination,
    Home,
    Maildrop,
    Option,
    Place,
    Wrong,
    text_of,
)
from services.postmaster.moving.netrc import password_in
from services.postmaster.moving.options import (
    Keys,
    NotCarried,
    Row,
    apply,
    file_at,
    fingerprint,
    key,
    lost,
    names,
    nothing,
    number,
    seconds,
    shown,
    unless,
    without_tls,
)

_YES: Final = ("true", "yes", "on", "1")
_KINDS: Final = re.compile(
    r"(Simple|BrokenUIDL|Multidrop)POP3(SSL)?Retriever|MultidropSDPSRetriever"
)
_FILE: Final = re.compile(r"[/\\:;<>|]+")
"""What stands as a hyphen in the names of getmail's files."""


def _strings(text: str) -> tuple[str, ...]:
    """Return a tuple of strings as getmail has it.

    Raises:
        ValueError: it is none.
    """
    try:
        found = ast.literal_eval(text or "()")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("expected a list in parentheses") from None
    if isinstance(found, tuple):
        return tuple(map(str, found))
    raise ValueError("expected a list in parentheses, with a comma")


def _one_fingerprint(text: str) -> object:
    found = [fingerprint(one) for one in _strings(text)]
    return found[0] if len(found) == 1 else found


def _command(text: str) -> str:
    if not (words := _strings(text)):
        raise ValueError("expected a command")
    return shlex.join(words)


def _if_false(row: Row) -> Row:
    return lambda text: {} if text.lower() in _YES else row(text)


def _if_true(row: Row) -> Row:
    return lambda text: row(text) if text.lower() in _YES else {}


_RETRIEVER: Final[Mapping[str, Row]] = {
    "timeout": key("timeout", seconds),
    "password_command": key("password_command", _command),
    "use_apop": _if_true(key("auth", lambda _: "apop")),
    "delete_dup_msgids": _if_true(lost("messages under one UIDL are fetched all the same")),
    "ca_certs": key("ca_file", file_at),
    "ssl_fingerprints": key("tls_fingerprint", _one_fingerprint),
    "keyfile": key("client_key", file_at),
    "certfile": key("client_cert", file_at),
    "ssl_version": nothing,
    "ssl_ciphers": lost("TLS 1.2 or later, with the ciphers of Python"),
    "ssl_cert_hostname": lost("certificates are verified by the name of the host"),
    "envelope_recipient": nothing,
}
_OPTIONS: Final[Mapping[str, Row]] = {
    "verbose": nothing,
    "message_log": nothing,
    "message_log_verbose": nothing,
    "message_log_syslog": nothing,
    "logfile": nothing,
    "fingerprint": nothing,
    "skip_imap_fetch_size": nothing,
    "to_oldmail_on_each_mail": nothing,
    "delivered_to": nothing,
    "received": _if_false(lost("a Received: line is always written")),
    "max_message_size": unless("0", key("max_size", number)),
    "delete_bigger_than": unless("0", lost("nothing is deleted that was not fetched")),
    "max_messages_per_session": unless("0", lost("all that is new is fetched")),
    "max_bytes_per_session": unless("0", lost("all that is new is fetched")),
}
_TOGETHER: Final = names(
    """
    type server port username password delete delete_after read_all use_netrc netrc_file
    """
)
_Sections = Mapping[str, Mapping[str, Option]]


def read(path: Path, text: str, home: Home) -> Found:
    """Return what an rc file of getmail configures.

    Args:
        path: of it.
        text: all of it.
        home: of the user who runs getmail.

    Raises:
        Wrong: it is none.
    """
    found = Found()
    sections = _sections(path, text)
    if "retriever" not in sections or "destination" not in sections:
        raise Wrong(Place(path.name, 1), "expected [retriever] and [destination]")
    if "type" not in sections["retriever"]:
        raise Wrong(Place(path.name, 1), "expected a type in [retriever]")
    _Account(path, sections, home, found).add()
    return found


def _sections(path: Path, text: str) -> _Sections:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text, path.name)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or 1
        # Not its own words: they quote the line, which may hold a secret.
        raise Wrong(Place(path.name, line), "this is no section and no option") from None
    lines = _lines(text)
    return {
        section.lower(): {
            name: Option(Place(path.name, lines.get((section, name), 1)), name, value.strip())
            for name, value in parser.items(section)
        }
        for section in parser.sections()
    }


def _lines(text: str) -> Mapping[tuple[str, str], int]:
    """Return where each option of each section stands."""
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number_, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\[([^\]]+)\]", line):
            section = head[1]
        elif option := re.match(r"([^\s=:#;][^=:]*?)\s*[=:]", line):
            found.setdefault((section, option[1].lower()), number_)
    return found


class _Account:
    def __init__(self, path: Path, sections: _Sections, home: Home, found: Found) -> None:
        self._path = path
        self._sections = sections
        self._home = home
        self._found = found
        self._retriever = sections["retriever"]
        self._options = sections.get("options", {})
        self._place = Place(path.name, 1)
        self._override = ""  # the recipient, whosever the maildrop is

    def add(self) -> None:
        """Add the account to what was found."""
        kind = _KINDS.fullmatch(text_of(self._retriever, "type"))
        if kind is None:
            self._leave(self._retriever["type"], "only POP3 is polled: ask the provider for it")
            return
        secret = self._netrc()
        tls = "implicit" if kind[2] else "none"
        user = secret.pop("username", text_of(self._retriever, "username"))
        keys: dict[str, object] = {
            "host": text_of(self._retriever, "server"),
            **self._port(),
            "tls": tls,
            "username": user,
            "keep": self._keep(),
        }
        account = FoundAccount(self._place, self._maildrop(keys), keys)
        for rows, options in ((_RETRIEVER, self._retriever), (_OPTIONS, self._options)):
            for option in options.values():
                if option.name not in _TOGETHER:
                    apply(rows, option, account, self._found)
        without_tls(keys)
        keys.update(secret or self._password())
        if not account.keys.keys() & {"password", "password_command"}:
            self._found.leave(
                self._retriever["type"].place,
                "no password",
                "getmail asks for it, or a key ring: see Passwords in docs/configuration.md",
            )
        account.delivery = self._delivery()
        name = str(user)
        usual = name if "@" in name else f"{name}@{keys['host']}"
        keys["mailbox"] = deliveries.mailbox(self._override or usual)
        self._note_kind(kind, account)
        self._note_filters()
        self._found.accounts.append(account)

    def _note_kind(self, kind: re.Match[str], account: FoundAccount) -> None:
        if kind[1] == "BrokenUIDL":
            self._leave(
                self._retriever["type"],
                "getmail keeps no UIDLs of such a server: what lies there is fetched once more, or"
                " choose pop3-connector account adopt before the first poll",
            )
        elif kind[1] != "Simple":
            account.keys["enabled"] = False
            account.note = "whose a message is: getmail looks into it (multidrop), we do not"
            self._leave(
                self._retriever["type"],
                "all mail of an account goes to one mailbox: ask the provider for a maildrop for"
                " each, or let your mail server sort; it is written disabled",
            )

    def _note_filters(self) -> None:
        for name, options in self._sections.items():
            if name.startswith("filter") and options:
                first = next(iter(options.values()))
                self._found.leave(
                    first.place,
                    f"[{name}]",
                    "no commands are run for messages: let your mail server filter",
                )

    def _leave(self, option: Option, advice: str) -> None:
        self._found.leave(option.place, shown(option), advice)

    def _port(self) -> Keys:
        port = text_of(self._retriever, "port")
        return {"port": int(port)} if port.isdecimal() else {}

    def _keep(self) -> str:
        after = text_of(self._options, "delete_after")
        if text_of(self._options, "delete").lower() in _YES:
            return "delete"
        if after.isdecimal() and int(after):
            return f"{int(after)}d"
        again = self._options.get("read_all")
        if again is not None and again.value.lower() in _YES:
            self._leave(again, "what was fetched is not fetched again, but by account fetch-again")
        return "forever"

    def _netrc(self) -> dict[str, object]:
        """Return user name and password of a netrc file, where there is to be one."""
        if text_of(self._options, "use_netrc").lower() not in _YES:
            return {}
        server, file = text_of(self._retriever, "server"), text_of(self._options, "netrc_file")
        if file:
            known = password_in(self._home.expanded(file), server)
        else:
            known = self._home.password(server)
        if known is None:
            return {}
        return {**({"username": known[0]} if known[0] else {}), "password": known[1]}

    def _password(self) -> Keys:
        password = text_of(self._retriever, "password")
        return {"password": password} if password else {}

    def _maildrop(self, keys: Keys) -> Maildrop:
        host, user = str(keys["host"]), str(keys["username"])
        usual = 995 if keys["tls"] == "implicit" else 110
        port = keys.get("port", usual)
        at = port if isinstance(port, int) else usual
        name = oldmail(host, at, user)
        places = (
            self._path.parent,
            self._home.path / ".getmail",
            self._home.path / ".config/getmail",
        )
        return Maildrop((host,), at, user, tuple(place / name for place in places))

    def _delivery(self) -> FoundDestination | None:
        option = self._sections["destination"].get("type")
        if option is None:
            self._found.leave(self._place, "no type of [destination]", "choose a destination")
            return None
        try:
            return self._destination(self._sections["destination"])
        except NotCarried as why:
            self._leave(option, str(why))
            return None

    def _destination(self, options: Mapping[str, Option]) -> FoundDestination:
        kind = text_of(options, "type")
        for name in ("user", "group", "filemode", "fallback", "locktype", "unixfrom"):
            if name in options and kind in ("Maildir", "MDA_lmtp"):
                self._leave(
                    options[name],
                    "files are made by the user whom the connector runs as, 0600"
                    if name != "fallback"
                    else "what is refused goes to Failed Mail",
                )
        match kind:
            case "Maildir":
                return deliveries.maildir(text_of(options, "path"), self._home)
            case "MDA_lmtp":
                self._override = text_of(options, "override")
                port = text_of(options, "port")
                at = int(port) if port.isdecimal() else None
                return deliveries.lmtp(text_of(options, "host"), at, self._home)
            case "Mboxrd":
                raise deliveries.mbox()
            case "MDA_external" | "MDA_qmaillocal":
                raise deliveries.program(text_of(options, "path"))
            case "MultiDestination":
                return self._only_one(self._strings_of(options, "destinations"))
            case _:
                raise NotCarried("mail is not sorted by its header: let your mail server sort")

    def _strings_of(self, options: Mapping[str, Option], name: str) -> Sequence[str]:
        try:
            return _strings(text_of(options, name))
        except ValueError as why:
            raise NotCarried(f"this is not understood: {why}") from None

    def _only_one(self, names: Sequence[str]) -> FoundDestination:
        """Return the destination of a list of one: a Maildir, an mbox, or a section."""
        if len(names) != 1:
            raise NotCarried("an account has one destination: let your mail server make the copies")
        name = names[0]
        if name.startswith("["):
            section = self._sections.get(name.strip("[]").lower())
            if section is None or text_of(section, "type") == "MultiDestination":
                raise NotCarried("there is no such section")
            return self._destination(section)
        if name.endswith("/"):
            return deliveries.maildir(name, self._home)
        raise deliveries.mbox()


def oldmail(host: str, port: int, user: str) -> str:
    """Return the name of the file in which getmail remembers a maildrop."""
    return _FILE.sub("-", f"oldmail-{host}-{port}-{user}")
