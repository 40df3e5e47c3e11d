"""From an mpoprc to accounts (mpop(1), CONFIGURATION).

Commands stand one a line, in accounts that may take over what others say. ``eval`` is not done: it
runs programs.
"""

from __future__ import annotations

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
from services.postmaster.moving.options import (
    TOKEN,
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
    seconds,
    shown,
    unless,
    without_tls,
)

_ON: Final = ("", "on")
_SIZE: Final = re.compile(r"([0-9]{1,12})([km]?)")
_UNITS: Final = {"": "B", "k": "KiB", "m": "MiB"}
_MECHANISMS: Final = names("user plain login apop cram-md5 scram-sha-1 scram-sha-256 ntlm")


def _auth(text: str) -> Keys:
    if text in _ON:
        return {}
    if text in ("xoauth2", "oauthbearer"):
        return TOKEN(text)
    if text not in _MECHANISMS:
        raise NotCarried("there is no such login here: auth of the account has a list")
    return {"auth": text}


def size(text: str) -> str:
    """Return a size of mpop as one of ours.

    Raises:
        ValueError: it is none.
    """
    if (found := _SIZE.fullmatch(text)) is None or not int(found[1]):
        raise ValueError("expected a size")
    return f"{found[1]}{_UNITS[found[2]]}"


def _if_off(row: Row) -> Row:
    return lambda text: {} if text in _ON else row(text)


ROWS: Final[Mapping[str, Row]] = {
    "timeout": unless("off", key("timeout", seconds)),
    "auth": _auth,
    "keep": lambda text: {"keep": "forever" if text in _ON else "delete"},
    "skipsize": unless("off", key("max_size", size)),
    "tls_trust_file": unless("system", unless("", key("ca_file", file_at))),
    "tls_fingerprint": unless("", key("tls_fingerprint", fingerprint)),
    "tls_key_file": unless("", key("client_key", file_at)),
    "tls_cert_file": unless("", key("client_cert", file_at)),
    "tls_certcheck": _if_off(
        lost("certificates are always verified: pin this one (tls_fingerprint), or set ca_file")
    ),
    "tls_crl_file": unless("", lost("revocation lists are not read")),
    "tls_priorities": unless("", lost("TLS 1.2 or later, with the ciphers of Python")),
    "tls_min_dh_prime_bits": nothing,
    "tls_force_sslv3": unless("off", lost("TLS 1.2 or later")),
    "tls_host_override": unless("", lost("certificates are verified by the name of the host")),
    "source_ip": unless("", key("bind")),
    "ntlmdomain": unless("", lost("write it before the username: DOMAIN\\\\name")),
    "only_new": _if_off(lost("what was fetched is not fetched again, but by account fetch-again")),
    "filter": unless("", lost("no commands are run for messages: let your mail server filter")),
    "received_header": _if_off(lost("a Received: line is always written")),
    "pipelining": nothing,
    "uidls_file": nothing,
    "eval": lost("programs are not run to read a configuration: write what it prints"),
}
"""What commands become; those below are looked at together."""

_TOGETHER: Final = names(
    """
    host port user password passwordeval tls tls_starttls delivery killsize proxy_host
    proxy_port socket
    """
)


def read(path: Path, text: str, home: Home) -> Found:
    """Return what an mpoprc configures.

    Args:
        path: of it.
        text: all of it.
        home: of the user who runs mpop.

    Raises:
        Wrong: it is none.
    """
    found = Found()
    for place, name, options in _accounts(_commands(text, path.name)):
        _Account(place, name, options, home, found).add()
    return found


def _commands(text: str, file: str) -> Sequence[Option]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            command, _, argument = stripped.partition(" ")
            command, tab, rest = command.partition("\t")
            argument = f"{rest} {argument}".strip() if tab else argument.strip()
            if len(argument) > 1 and argument[0] == argument[-1] == '"':
                argument = argument[1:-1]
            found.append(Option(Place(file, number), command, argument))
    return found


def _accounts(
    commands: Sequence[Option],
) -> Sequence[tuple[Place, str, Mapping[str, Option]]]:
    """Return the accounts, with what they take over from defaults and others.

    One that others take over, and that nobody logs in to, is none.
    """
    defaults: dict[str, Option] = {}
    own: dict[str, dict[str, Option]] = {}  # without the defaults: only that is inherited
    every: dict[str, tuple[Place, dict[str, Option]]] = {}
    bases: set[str] = set()
    into: list[dict[str, Option]] = []
    for option in commands:
        if option.name == "defaults":
            into = [defaults]
        elif option.name == "account":
            name, _, others = option.value.partition(":")
            name = name.strip()
            inherited: dict[str, Option] = {}
            for other in filter(None, map(str.strip, others.split(","))):
                if other not in own:
                    raise Wrong(option.place, "it takes over an account that is not there yet")
                inherited |= own[other]
                bases.add(other)
            if not name or name in own:
                raise Wrong(option.place, "expected the name of a new account")
            own[name] = dict(inherited)
            every[name] = option.place, {**defaults, **inherited}
            into = [own[name], every[name][1]]
        elif not into:
            raise Wrong(option.place, "expected account or defaults first")
        else:
            for table in into:
                table[option.name] = option
    return [
        (place, name, options)
        for name, (place, options) in every.items()
        if name not in bases or text_of(options, "user")
    ]


class _Account:
    def __init__(
        self, place: Place, name: str, options: Mapping[str, Option], home: Home, found: Found
    ) -> None:
        self._place = place
        self._name = name
        self._options = options
        self._home = home
        self._found = found

    def add(self) -> None:
        """Add the account to what was found."""
        host = text_of(self._options, "host")
        if not host:
            self._found.leave(self._place, f"account {self._name}", "it has no host")
            return
        keys: dict[str, object] = {
            "host": host,
            **self._tls(),
            "username": text_of(self._options, "user"),
        }
        account = FoundAccount(self._place, self._maildrop(keys), keys)
        keys["keep"] = "delete"
        for option in self._options.values():
            if option.name not in _TOGETHER:
                apply(ROWS, option, account, self._found)
        without_tls(keys)
        keys.update(self._too_large(keys))
        keys.update(self._proxy())
        keys.update(self._password(host))
        if text_of(self._options, "socket"):
            self._leave("socket", "POP3 servers are reached by TCP: write host and port")
        account.delivery = self._delivery()
        user = account.maildrop.user
        keys["mailbox"] = deliveries.mailbox(user if "@" in user else f"{user}@{host}")
        self._found.accounts.append(account)

    def _leave(self, name: str, advice: str) -> None:
        option = self._options[name]
        self._found.leave(option.place, shown(option), advice)

    def _tls(self) -> Keys:
        tls, starttls = self._options.get("tls"), self._options.get("tls_starttls")
        if tls is None or tls.value not in _ON:
            mode = "none"
        else:
            mode = "starttls" if starttls is None or starttls.value in _ON else "implicit"
        port = text_of(self._options, "port")
        return {"port": int(port), "tls": mode} if port.isdecimal() else {"tls": mode}

    def _maildrop(self, keys: Keys) -> Maildrop:
        host, user = str(keys["host"]), str(keys["username"])
        port = keys.get("port", 995 if keys["tls"] == "implicit" else 110)
        template = text_of(self._options, "uidls_file")
        usual = self._home.path / ".mpop_uidls"
        files: tuple[Path, ...] = (usual / f"{user}_at_{host}", usual)  # the second up to 1.0
        if template:
            name = template.replace("%U", user).replace("%H", host)
            files = (self._home.expanded(name),)
        return Maildrop((host,), port if isinstance(port, int) else 110, user, files)

    def _too_large(self, keys: Keys) -> Keys:
        text = text_of(self._options, "killsize")
        if not text or text == "off":
            return {}
        if keys["keep"] != "forever":
            self._leave("killsize", "nothing is deleted that was not fetched: see max_size")
            return {}
        try:
            return {"max_size": size(text)} if "skipsize" not in self._options else {}
        except ValueError:
            self._leave("killsize", "it fetches nothing: account adopt is for that")
            return {}

    def _proxy(self) -> Keys:
        host = text_of(self._options, "proxy_host")
        return (
            {"proxy": f"socks5://{host}:{text_of(self._options, 'proxy_port') or 1080}"}
            if host
            else {}
        )

    def _password(self, host: str) -> Keys:
        if password := text_of(self._options, "password"):
            return {"password": password}
        if command := text_of(self._options, "passwordeval"):
            # mpop has a shell run it, and takes the first line.
            return {"password_command": shlex.join(["sh", "-c", f"({command}) | head -n 1"])}
        known = self._home.password(host)
        if known is not None and known[0] in ("", text_of(self._options, "user")):
            return {"password": known[1]}
        user = text_of(self._options, "user")
        self._found.leave(
            self._place,
            "no password",
            'mpop asks for it, or a key ring: write password_command = "secret-tool lookup host'
            f' {host} service pop3 user {user}", see Passwords in the docs',
        )
        return {}

    def _delivery(self) -> FoundDestination | None:
        option = self._options.get("delivery")
        if option is None:
            self._found.leave(self._place, "no delivery", "choose a destination")
            return None
        method, _, argument = option.value.partition(" ")
        argument = argument.strip()
        try:
            match method:
                case "maildir":
                    return deliveries.maildir(argument, self._home)
                case "exchange":
                    return deliveries.pickup(argument, self._home)
                case "mbox":
                    raise deliveries.mbox()
                case _:
                    raise deliveries.program(argument)
        except NotCarried as why:
            self._leave("delivery", str(why))
            return None
