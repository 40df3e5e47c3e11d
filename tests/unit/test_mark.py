"""What marks tell of a state database."""

import pytest

from shared.mark import Mark, doubt, read

OWN = Mark("mine", 7, 1_000_000.0)


def test_a_mark_is_read_as_it_was_written() -> None:
    assert read(OWN.text()) == read(OWN.text().encode()) == OWN


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", b"\xff\xfe", '{"state": "x", "number": "y", "at": 1}', "1" * 9999],
)
def test_what_is_no_mark_is_none(text: str | bytes) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("own", "used", "found", "why"),
    [
        (None, False, [], None),  # a first installation
        (None, True, [], None),  # one of an older version
        (OWN, True, [], None),  # queues and spool are new
        (OWN, True, [Mark("mine", 7, 0)], None),
        (OWN, True, [Mark("mine", 3, 0)], None),  # queues of yesterday
        (OWN, True, [Mark("mine", 8, 0)], "an earlier one was put back"),
        (OWN, False, [Mark("mine", 8, 0)], "an earlier one was put back"),
        (OWN, True, [Mark("mine", 7, 0), Mark("mine", 9, 0)], "an earlier one was put back"),
        (None, False, [Mark("other", 1, 0)], "the state database is new, and"),
        (None, True, [Mark("other", 1, 0)], "the state database has other mail in it, and"),
        (OWN, True, [Mark("other", 1, 0)], "the state database has other mail in it, and"),
        (OWN, False, [Mark("other", 1, 1e300)], "the state database is new, and"),
    ],
)
def test_a_state_database_and_marks_go_together_or_not(
    own: Mark | None, used: bool, found: list[Mark], why: str | None
) -> None:
    said = doubt(own, used, [("the queues", mark) for mark in found])
    assert (said is None) if why is None else (said is not None and why in said)
