"""What a server offers and does not keep, so that a session does without it.

A promise that is broken shows itself in a session (``PromiseBroken``); the next session does
without, and what that comes to decides whether it is remembered (``quirk_tracker``). None of it can
lose mail as long as something is left that lists messages.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Quirks:
    """What to do without, in one session.

    Attributes:
        no_pipelining: it offers PIPELINING (RFC 2449 section 6.6), and loses or mixes up answers.
        no_capa: CAPA makes it hang or hang up.
        no_uidl: it offers UIDL, and refuses it, or UIDL makes it hang or hang up.
        no_list: LIST makes it hang or hang up.
        no_stat: STAT makes it hang or hang up.
        no_utf8: it offers UTF8 (RFC 6856), and refuses it or hangs up.
        no_top: TOP makes it hang or hang up.
        no_covert_login: it offers a mechanism that does not show the password, and refuses it so.
        bare_ends: it ends messages by a dot alone on a line, and lines by LF, after a status line
            that ends in CRLF.
    """

    no_pipelining: bool = False
    no_capa: bool = False
    no_uidl: bool = False
    no_list: bool = False
    no_stat: bool = False
    no_utf8: bool = False
    no_top: bool = False
    no_covert_login: bool = False
    bare_ends: bool = False

    def having(self, quirk: str) -> Quirks:
        """Return these and one more, given by the name of its field."""
        return replace(self, **{quirk: True})

    def has(self, quirk: str) -> bool:
        """Return whether the one of this name is among them."""
        return bool(getattr(self, quirk))

    def would_ask_nothing(self, quirk: str) -> bool:
        """Return whether, with one more, nothing is left to learn from how many messages there are.

        A server that answers none of them has broken no promise: it does not work just now.
        """
        return quirk in LISTINGS and all(q == quirk or self.has(q) for q in LISTINGS)


NONE: Final = Quirks()

NAMES: Final = tuple(field.name for field in fields(Quirks))
"""The names by which quirks are remembered."""

LISTINGS: Final = ("no_list", "no_stat", "no_uidl")
"""Those without which a session knows less of what there is."""

OF_SERVERS: Final = frozenset({"no_pipelining", "no_capa", "no_utf8"})
"""Those of the program that serves. All others may be of one maildrop (its index, one message), and
prove nothing of its neighbours."""

_CAPABILITIES: Final[Mapping[str, str]] = {
    "no_pipelining": "PIPELINING",
    "no_uidl": "UIDL",
    "no_utf8": "UTF8",
    "no_top": "TOP",
}


def left_out(quirks: Quirks) -> frozenset[str]:
    """Return the capabilities that are not believed."""
    return frozenset(name for quirk, name in _CAPABILITIES.items() if quirks.has(quirk))


def begun_with(names: Container[str]) -> Quirks:
    """Return with which of these to begin a poll: either LIST or STAT is always asked.

    Args:
        names: what is remembered.
    """
    quirks = Quirks(**{name: True for name in NAMES if name in names})
    return replace(quirks, no_stat=False) if quirks.no_list else quirks
