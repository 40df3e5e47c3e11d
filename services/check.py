"""``check-config``: whether a configuration would do, judged by the code that will use it.

What ``run`` refuses at its start is refused here, and what would make every poll of an account
fail. All problems are told at once. ``--connect`` also tries state database, broker and spool, each
login and each destination. Limit: without that it connects to nothing, and opens no file in
``data_dir``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from services.check_connections import try_connections
from services.deliverer.destinations import courier_for
from services.deliverer.files.durable_files import require_writable
from services.fetcher.pop3.connection import tls_context
from services.fetcher.wiring import timetable, trust
from services.postmaster import configuration, show
from services.postmaster.authorizations import ending_soon
from services.postmaster.invocation import Invocation
from shared.authentication import ntlm
from shared.broker import amqp_url
from shared.errors import ConfigError, StateUnavailable, Unreachable
from shared.log import MailLog, printable
from shared.log_lines import configure
from shared.network.tls import SYSTEM, Trust
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.access_tokens import (
    client_of_account,
    client_of_destination,
    require_certificate,
    require_usable,
    unstored_tokens,
)
from shared.settings.advice import warnings
from shared.settings.model import DestinationSettings, Settings
from shared.settings.oauth import OAuthSettings
from shared.settings.problems import Problem, WrongSettings
from shared.settings.secret import Secret
from shared.spool import Spool
from shared.sqlite.presence import LEDGERS_LOST, QUEUES_LOST, require_there
from shared.state.database import file_of

_Check: TypeAlias = Callable[[Settings], Iterator[Problem]]


def main(invocation: Invocation, *, connect: bool, as_json: bool) -> int:
    """Check the configuration, and print what it means; return the exit status.

    Args:
        invocation: says which configuration.
        connect: try logins and destinations. Passwords that cannot be had then are what is told of
            them, and the others are tried all the same.
        as_json: print JSON.

    Raises:
        ConfigError: it is wrong.
    """
    path, settings = invocation.path(), invocation.settings()
    advice = warnings(settings, path)
    checks = _CHECKS if connect else (*_CHECKS, _passwords)
    if found := asyncio.run(_problems(settings, checks)):
        raise WrongSettings(found)
    lines = configure("DEBUG" if invocation.debug else "INFO")
    trials = (
        asyncio.run(try_connections(settings, MailLog("check-config", lines=lines)))
        if connect
        else None
    )
    if connect:
        with suppress(ConfigError, StateUnavailable):  # that is said already
            advice += ending_soon(settings)
    if as_json:
        show.as_json(configuration.record(settings, path, advice, trials))
    else:
        configuration.report(settings, path, advice, trials)
    return 1 if any(not trial.ok for trial in trials or ()) else 0


async def _problems(settings: Settings, checks: tuple[_Check, ...]) -> list[Problem]:
    # In an event loop: couriers are made for one.
    return [problem for check in checks for problem in check(settings)]


def _problem_in(name: str, check: Callable[[], object]) -> Iterator[Problem]:
    """Yield what is raised about something in the configuration, if anything is."""
    try:
        check()
    except ConfigError as error:
        yield Problem(f"{name}: {error.where}" if name else error.where, error.what)
    except Unreachable as error:  # a place on this machine
        yield Problem(name or error.server, str(error) if name else error.said)
    except UnicodeError:
        yield Problem(name, "this cannot be the name of a host")


def _broker(settings: Settings) -> Iterator[Problem]:
    table = settings.broker
    yield from _problem_in("", partial(amqp_url.parsed, [url.reveal() for url in table.every_url]))
    if (file := table.ca_file) is not None:
        yield from _problem_in("", partial(amqp_url.tls_context, str(file)))


def _places(settings: Settings) -> Iterator[Problem]:
    """Look at what is kept on this machine: whether it can be written, or made."""
    if settings.uses_data_dir:
        place = str(settings.data_dir.absolute())
        yield from _problem_in("data_dir", partial(require_writable, place))
    if settings.broker.embedded:
        yield from _problem_in(
            "", partial(_sqlite_file, settings.queue_file.absolute(), QUEUES_LOST)
        )
    yield from _problem_in("", partial(Spool, settings.spool_url, settings.spool.options))
    if (url := settings.state.url) is not None:
        yield from _problem_in("", partial(_database, url.reveal()))
    else:
        file = settings.data_dir.absolute() / "state.db"
        yield from _problem_in("", partial(_sqlite_file, file, LEDGERS_LOST))


def _database(url: str) -> None:
    if (file := file_of(url)) is not None:
        require_writable(str(file.absolute().parent))
        _sqlite_file(file.absolute(), LEDGERS_LOST)


def _sqlite_file(path: Path, loss: str) -> None:
    """Make sure that a file, if there is one, may be one of ours; only opening it would tell all.

    Raises:
        ConfigError: it may not be read and written, is another kind of file, or was made and is
            gone.
    """
    require_there(path, loss)
    if not os.path.lexists(path):
        return
    if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        raise ConfigError(str(path), "this user may not read and write it as a file")
    with path.open("rb") as file:
        begin = file.read(len(_SQLITE))
    if begin and begin != _SQLITE:
        raise ConfigError(str(path), "this is no SQLite database")


def _monitor(settings: Settings) -> Iterator[Problem]:
    """See whether the address is ours; the port may be in use by a connector that runs."""
    if (listen := settings.monitor.listen) is None:
        return
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        with socket.socket(family) as probe:
            probe.bind((address[0], 0))
        if int(port) > _LAST_PORT:
            yield Problem("monitor.listen", f"expected a port up to {_LAST_PORT}")
    except (OSError, UnicodeError, OverflowError) as error:
        yield Problem("monitor.listen", f"cannot listen on {printable(listen)}: {error}")


def _destinations(settings: Settings) -> Iterator[Problem]:
    for name, table in settings.every_destination.items():
        address = _address(table)
        yield from _problem_in("", partial(_courier, name, address, table))
        host = urlsplit(address).hostname or ""
        yield from _problem_in(f"the url of destination {name!r}", partial(host.encode, "idna"))


def _courier(name: str, address: str, table: DestinationSettings) -> None:
    tokens = None
    if table.oauth is not None:
        tokens = unstored_tokens(client_of_destination(name, table), KnownSecrets())
    courier_for(name, address, tokens=tokens)


def _address(table: DestinationSettings) -> str:
    """Return the URL with some password, where there is to be one: the real one may not be had."""
    if table.secret is None:
        return table.address() or ""
    return table.url.with_credentials(table.username, "unknown").reveal()


def _accounts(settings: Settings) -> Iterator[Problem]:
    for table in settings.accounts:
        known_by = trust(table)
        if known_by != SYSTEM:
            yield from _problem_in(f"account {table.name}", partial(tls_context, known_by))
        yield from _problem_in(f"account {table.name}: host", partial(table.host.encode, "idna"))
        yield from _problem_in(f"account {table.name}", partial(timetable, table))
        if table.auth == "ntlm" and not ntlm.is_there():
            yield Problem(f"account {table.name}: auth", ntlm.LACKING)


def _oauth(settings: Settings) -> Iterator[Problem]:
    """Look at what access tokens are had and kept with."""
    if next(settings.oauth_tables, None) is None:
        return
    yield from _problem_in("", partial(require_usable, settings))
    clients = [client_of_account(a) for a in settings.accounts if a.oauth is not None]
    tables = settings.every_destination
    clients += [client_of_destination(n, t) for n, t in tables.items() if t.oauth is not None]
    for client in clients:
        if client.certificate is not None:
            yield from _problem_in(client.whose, partial(require_certificate, client))
        if client.ca_file is not None:
            trust = Trust(client.ca_file)
            yield from _problem_in(client.whose, partial(tls_context, trust))


def _own_passwords(settings: Settings) -> Iterator[Problem]:
    yield from _secret("broker", settings.broker.secret)
    yield from _secret("state", settings.state.secret)


def _passwords(settings: Settings) -> Iterator[Problem]:
    for account in settings.accounts:
        yield from _secret(f"account {account.name}", account.secret)
        yield from _secrets(f"account {account.name}: oauth", account.oauth)
    for name, destination in settings.every_destination.items():
        yield from _secret(f"destination {name}", destination.secret)
        yield from _secrets(f"destination {name}: oauth", destination.oauth)


def _secrets(name: str, oauth: OAuthSettings | None) -> Iterator[Problem]:
    for secret in () if oauth is None else oauth.secrets:
        yield from _secret(name, secret)


def _secret(name: str, secret: Secret | None) -> Iterator[Problem]:
    """Try a password that stands in a file or variable; a command is not run for a check."""
    if secret is not None and not secret.runs:
        yield from _problem_in(name, partial(_on_one_line, secret))


def _on_one_line(secret: Secret) -> None:
    if not _UNSENDABLE.isdisjoint(secret.reveal()):
        raise ConfigError(str(secret), "there is a line break or NUL in it: no login can send it")


_UNSENDABLE: Final = frozenset("\r\n\0")
_SQLITE: Final = b"SQLite format 3\0"
_LAST_PORT: Final = 65535
_CHECKS: Final[tuple[_Check, ...]] = (
    _broker,
    _places,
    _monitor,
    _destinations,
    _accounts,
    _oauth,
    _own_passwords,
)
"""What is looked at, whatever is tried afterwards."""
