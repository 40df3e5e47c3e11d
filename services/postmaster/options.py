"""Options that several of the operator's commands have, and the text of a duration in one."""

from __future__ import annotations

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
