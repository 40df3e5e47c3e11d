"""What people are shown of a message: readable, harmless, short."""

import pytest

from services.parser.summary import SHOWN, readable
from tests.fuzz.watch import Memory


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b" plain ", "plain"),
        (b"", ""),
        (b" a\tb", "a b"),
        (b" =?utf-8?B?R3LDtsOfZQ==?=", "Größe"),
        (b" =?iso-8859-1?Q?caf=E9_noir?=", "café noir"),
        (b" =?utf-8?Q?one?= =?utf-8?Q?_two?=", "one two"),
        (b" =?utf-8?Q?=C3=A9?= <e@example.org>", "é <e@example.org>"),
        (b" =?utf-8*fr?Q?caf=C3=A9?=", "café"),
        ("Grüße".encode(), "Grüße"),
        (b"caf\xe9", "café"),
        (b" =?x-unknown?Q?caf=E9?=", "café"),
        (b" =?hex?Q?41?=", "41"),
        (b" =?utf-8?B?A?=", "=?utf-8?B?A?="),
        (b" =?utf-8?Q?=FF?=", "\N{REPLACEMENT CHARACTER}"),
        (b" \\u12 =?utf-8?Q?x?=", "\N{REPLACEMENT CHARACTER} x"),
        (b"a\x1b[31mred", "a\\x1b[31mred"),
        (b"a\rb", "a\\rb"),
        (b"a\0b", "a\\x00b"),
        (b" =?utf-8?Q?a=0D=0Ab=1B?=", "a\\r\\nb\\x1b"),
        (b" =?utf-7?Q?+2AA-?=", "\\ud800"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b".encode(), "a\\u202eb"),
    ],
)
def test_readable(body: bytes, shown: str) -> None:
    assert readable(body) == shown


@pytest.mark.parametrize("body", [b"x" * 100_000, "ü".encode() * 100_000, b"\x01" * 100_000])
def test_a_long_field_is_cut(body: bytes) -> None:
    shown = readable(body)
    assert shown.endswith("…")
    assert len(shown) <= SHOWN * 4 + 1


def test_a_charset_that_nobody_knows_is_not_remembered() -> None:
    memory = Memory()
    for number in range(1_000):
        assert readable(b"=?x-%d?Q?caf=E9?=" % number) == "café"
    memory.check()


def test_only_the_beginning_of_a_long_field_is_decoded() -> None:
    for words, end in ((50, "a tail"), (500, "a")):
        body = b"=?utf-8?Q?a?= " + b"=?utf-8?Q??= " * words + b"tail"
        assert readable(body).startswith(end)
        assert ("tail" in readable(body)) == (end == "a tail")


def test_a_field_is_cut_between_characters() -> None:
    assert readable("世".encode() * 5_000) == "世" * SHOWN + "…"
