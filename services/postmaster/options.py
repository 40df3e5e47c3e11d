"""Options that several of the operator's commands have, and what they mean.

``--yes`` stands for the answer to a question before something that cannot be taken back; without a
terminal to ask on, a command says so.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from shared.settings.values import duration

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option: Final = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def seconds(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Return the seconds that the value of an option means; None where it is not given.

    Raises:
        click.BadParameter: it is no duration.
    """
    try:
        return None if value is None else duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error


def require_confirmed(question: str, what: str, otherwise: str) -> None:
    """Return when the operator says yes.

    Args:
        question: what is asked.
        what: what the command does, as a clause, for where nobody can be asked.
        otherwise: what has come of it after a no.

    Raises:
        click.ClickException: there is no terminal to ask on, or the answer is no.
        click.Abort: it was interrupted.
    """
    if not sys.stdin.isatty():
        raise click.ClickException(f"{what}; pass --yes where there is no terminal to confirm on")
    if not click.confirm(question, err=True):
        raise click.ClickException(otherwise)
