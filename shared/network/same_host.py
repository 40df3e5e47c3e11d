"""Under which name a host is known, however a configuration writes it. Pure.

Known limit: no name is looked up, so two names of one machine count as two, but for ``localhost``.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_HERE: Final = "127.0.0.1"


def same_host(host: str) -> str:
    """Return one spelling for all that are obviously of one host.

    Args:
        host: a name or an address, as somebody wrote it.
    """
    name = host.lower().rstrip(".")
    if name == "localhost":
        return _HERE
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return _HERE if address.is_loopback else str(address)


def is_here(host: str) -> bool:
    """Return whether a host is this machine, so that nothing said to it goes over a network."""
    return same_host(host) == _HERE
