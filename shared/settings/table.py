"""What every table of the configuration is: frozen, and without room for keys that do not exist."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from shared.settings.secret import Secret, sources


class Table(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )


def given_secret(table: Table, key: str) -> Secret | None:
    """Return the secret that a table holds, whichever way it was given.

    Args:
        table: has a field for each of the four keys.
        key: the one whose value is the secret itself.

    Raises:
        ValueError: it was given more than once.
    """
    names = sources(key)
    given = [name for name in names if getattr(table, name) is not None]
    if len(given) > 1:
        what = key.replace("_", " ")
        raise ValueError(f"the {what} is given {len(given)} times: {', '.join(given)}")
    secret: Secret | None = getattr(table, given[0]) if given else None
    return secret
