"""What ~/.netrc knows of a server: some programs look for passwords there."""

from __future__ import annotations

import netrc
from pathlib import Path

from services.postmaster.moving.found import Place, Wrong


def password_in(path: Path, server: str) -> tuple[str, str] | None:
    """Return the user name and the password for a server, None where there is none.

    Args:
        path: of the file; it need not be there.
        server: as it is named in it.

    Raises:
        Wrong: the file cannot be read.
    """
    try:
        found = netrc.netrc(str(path)).authenticators(server)
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None) or 1
        raise Wrong(Place(str(path), line), "this is no netrc file that can be read") from None
    return None if found is None or not found[2] else (found[0], found[2])
