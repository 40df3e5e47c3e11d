"""Which folder a recipient has: the path of a destination's URL, and how its server names folders.

In the URL a slash stands between a folder and the one within it, and a recipient's address, or a
part of it, may be (part of) a name. A server has a delimiter of its own (RFC 3501 section 5.1.1),
and may keep all of a user's folders below a prefix such as ``INBOX.`` (RFC 2342). A delimiter
within an address is none there: it becomes ``_``, so that no address leads into another folder.
It does no I/O.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from services.deliverer.courier import Result
from services.deliverer.placeholders import filled

INBOX: Final = "INBOX"


class Naming(NamedTuple):
    """How a server names folders.

    Attributes:
        delimiter: what stands between a folder and one within it; "" where there is no such thing.
        prefix: what stands before the name of each folder of ours but INBOX.
        utf8: names are UTF-8, not modified UTF-7.
    """

    delimiter: str = "/"
    prefix: str = ""
    utf8: bool = False


def folder_of(template: str, recipient: str, naming: Naming) -> str | Result:
    """Return the folder of a recipient, or the permanent result for one who can have none.

    Args:
        template: the path of the URL, without the slash that it begins with; "" for INBOX.
        recipient: an envelope address.
        naming: that of the server.
    """
    path = filled(template, recipient, lambda value: _within_a_name(value, naming))
    if isinstance(path, Result):
        return path
    first, *rest = path.split("/")
    if rest and not naming.delimiter:
        return Result("permanent", f"{path!a}: this server has no folders within folders")
    if first.upper() in ("", INBOX):
        return naming.delimiter.join([INBOX, *rest])
    name = naming.delimiter.join([first, *rest])
    return name if name.startswith(naming.prefix) else naming.prefix + name


def _within_a_name(value: str, naming: Naming) -> str:
    return value.replace(naming.delimiter, "_") if naming.delimiter else value
