"""Queues, and files of them, that are not there: of those nobody can say that they are empty.

A wrong virtual host, another node or another ``data_dir`` looks like a connector without mail. So
whoever looks into queues says which are absent, and ends with 1; what is in the others is shown and
moved all the same. It trusts the broker to tell a queue that is empty from one that is not there.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from services.postmaster.errors import Unfit
from services.postmaster.opening import open_steward
from shared.broker import Steward
from shared.log import printable
from shared.settings.model import Settings

if TYPE_CHECKING:
    from services.postmaster.mail_folder import MailFolder

STATUS: Final = 1
"""The exit status where something is absent."""


def absent(steward: Steward, among: Container[str] | None = None) -> list[str]:
    """Return the queues of the topology that do not exist.

    Args:
        steward: the broker.
        among: the queues that matter, None for all.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    depths = steward.depths()
    return [q for q, n in depths.items() if n is None and (among is None or q in among)]


def words(settings: Settings, queues: Sequence[str]) -> str:
    """Return what to tell an operator of queues that are absent, and what to do."""
    if settings.broker.embedded:
        file = settings.queue_file
        where = f"there is no {printable(str(file))}" if not file.exists() else _named(queues)
        return f"{where}. Is data_dir right? If so: pop3-connector topology declare"
    from shared.broker.amqp_url import parsed  # with what only RabbitMQ needs

    nodes = " or ".join(map(str, parsed(settings.broker.addresses())))
    return (
        f"{_named(queues)} at {printable(nodes)}. Are the broker and its virtual host the right"
        " ones? If so: pop3-connector topology declare"
    )


@contextmanager
def open_folder(settings: Settings, folder: MailFolder) -> Iterator[tuple[Steward, Sequence[str]]]:
    """Yield the operator's side of the broker, and which queues of a folder are absent.

    Those are told at once, and the command ends with ``STATUS`` for them, when it has done what it
    can do without.

    Raises:
        Unfit: all of them are absent.
        ConfigError: the broker's URL, credentials or file are wrong.
        BrokerUnavailable: it does not answer.
    """
    with open_steward(settings) as steward:
        missing = absent(steward, folder.queues)
        if len(missing) == len(folder.queues):
            raise Unfit(words(settings, missing))
        if missing:
            click.echo(f"not looked into: {words(settings, missing)}", err=True)
        yield steward, missing
    if missing:
        click.get_current_context().exit(STATUS)


def _named(queues: Sequence[str]) -> str:
    none = "are no queues" if len(queues) > 1 else "is no queue"
    return f"there {none} {', '.join(map(printable, queues))}"
