"""What stands in braces in the path of a destination, and what a recipient makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from services.deliverer.addresses import unstorable
from services.deliverer.courier import Result
from shared.log import printable

PLACEHOLDERS: Final = ("mailbox", "local", "domain")
"""What may stand in braces in a path: the recipient's whole address, its local part, its domain."""

_PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")
_IN_BRACES: Final = re.compile(r"\{[^{}/]*\}?|\}")


def filled(template: str, recipient: str, safe: Callable[[str], str] = str) -> str | Result:
    """Return a path for a recipient, or the permanent result for one who can have none.

    Args:
        template: a path with known placeholders.
        recipient: an envelope address.
        safe: makes of a part of the address what can stand in the path.
    """
    local, _, domain = recipient.rpartition("@") if "@" in recipient else (recipient, "", "")
    values = {"mailbox": recipient, "local": local, "domain": domain}
    for name in _PLACEHOLDER.findall(template):
        why = unstorable(values[name])
        if why is not None:
            shown = printable(values[name], 100)
            return Result("permanent", f"{{{name}}} of this recipient, {shown}, is no name: {why}")
    return _PLACEHOLDER.sub(lambda found: safe(values[found[1]]), template)


def unknown_placeholders(template: str) -> list[str]:
    """Return what stands in braces, or behind one without another, and means nothing here."""
    known = [f"{{{name}}}" for name in PLACEHOLDERS]
    return [found for found in _IN_BRACES.findall(template) if found not in known]
