"""Where the connector keeps its data where the configuration does not say: a place that stays.

It must not depend on the directory that a process happens to be started in: who finds no ledger
delivers again what is still at the providers. So what lies in a former place is used on, and where
two places hold data nobody but the user can say which is meant. Limits: what a shell knows by its
own ``$XDG_STATE_HOME`` a cron job without it does not find; ``data_dir`` ends all doubt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FORMER: Final = Path("connector-data")
"""The default of versions up to 0.1.0, in the working directory."""

_OF_THE_SYSTEM: Final = Path("/var/lib/pop3-connector")
_NAME: Final = "pop3-connector"
_DATA: Final = ("state.db", "queue.db", "spool")


def places(environ: Mapping[str, str]) -> list[Path]:
    """Return where data may lie: the place for new data first, then those of other occasions.

    The first is ``$STATE_DIRECTORY`` (systemd.exec(5)); else ``/var/lib/pop3-connector`` for root,
    and for everybody else ``$XDG_STATE_HOME/pop3-connector``, by default below ``~/.local/state``
    (XDG Base Directory Specification).

    Args:
        environ: the environment of the process.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    own = [_OF_THE_SYSTEM] if os.geteuid() == 0 else _of_the_user(environ)
    return [*([Path(given)] if given.startswith("/") else own), FORMER]


def holding(environ: Mapping[str, str]) -> list[Path]:
    """Return those of the places that hold a ledger, queues or a spool."""
    found = places(environ)
    # Not Path.exists, which raises where we may not look.
    return [p for p in found if any(os.path.exists(p / name) for name in _DATA)]  # noqa: PTH110


def usual(environ: Mapping[str, str]) -> Path:
    """Return where data lies already; without any, where new data goes."""
    return (holding(environ) or places(environ))[0]


def _of_the_user(environ: Mapping[str, str]) -> list[Path]:
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  (that one raises)
    homes = (environ.get("XDG_STATE_HOME", ""), f"{home}/.local/state")
    # Relative ones do not count, says the specification; "~" is left where there is no home.
    found = dict.fromkeys(Path(h, _NAME) for h in homes if h.startswith("/"))
    return list(found) or [_OF_THE_SYSTEM]
