"""Asks the operator before something that cannot be taken back; without a terminal it says how."""

from __future__ import annotations

import sys

import click


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
