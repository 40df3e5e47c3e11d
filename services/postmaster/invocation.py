"""What every command of the command line is given: which configuration, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import click

from shared.errors import ConfigError
from shared.settings.source import PREFIX

if TYPE_CHECKING:
    from shared.settings.model import Settings

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE: Final = "POP3_CONNECTOR_CONFIG"
PLACES: Final = (Path("connector.toml"), Path("/etc/pop3-connector/connector.toml"))


@dataclass(slots=True)
class Invocation:
    """One call of the program. The configuration is read only by commands that need it.

    Attributes:
        given: the file that ``--config`` names, None without it.
        environ: the environment.
        debug: whether to log more, and to show where an unexpected error came from.
    """

    environ: Mapping[str, str]
    given: Path | None = None
    debug: bool = False

    def path(self) -> Path | None:
        """Return the configuration file, None where the environment alone has settings.

        Raises:
            ConfigError: there is neither.
        """
        named = self.given or self.environ.get(VARIABLE)
        if named:
            return Path(named)
        if found := next((place for place in PLACES if place.exists()), None):
            return found
        if any(name.startswith(PREFIX) for name in self.environ):
            return None
        places = " and ".join(map(str, PLACES))
        raise ConfigError(
            "--config", f"no configuration: expected a file (looked for {places}), or {PREFIX}..."
        )

    def settings(self) -> Settings:
        """Return the settings, for a command of any kind: what it would open is theirs.

        Raises:
            ConfigError: there are none, they are wrong, or lead to the data of another
                configuration.
        """
        # Not at the top: it loads pydantic, and main has first to put off the garbage collector.
        from shared.settings.load import load
        from shared.settings.owner import require_own

        path = self.path()
        settings = load(path, self.environ)
        require_own(settings, path, self.environ)
        return settings


def _config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    invocation = context.find_object(Invocation)
    if invocation is not None and value is not None:
        invocation.given = value


def _debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    invocation = context.find_object(Invocation)
    if invocation is not None and value:
        invocation.debug = True


_pass = click.make_pass_decorator(Invocation)
_config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_config,
    help=f"Configuration file; else ${VARIABLE}, {', '.join(f'{place}' for place in PLACES)}.",
)
_debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_debug,
    help="Log more, and show where an unexpected error came from.",
)


def pass_invocation(function: Callable[Concatenate[Invocation, P], R]) -> Callable[P, R]:
    """Make the invocation the first argument of a command, and give the command these options.

    Every command has them, so that they can stand before its name or after it.
    """
    return _config_option(_debug_option(_pass(function)))
