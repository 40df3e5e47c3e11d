"""What other programs remember, read and written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postmaster.moving.found import Maildrop, Wrong
from services.postmaster.moving.records import FORMATS, Remembered, Seen, files_at, read, unfit

SALES = Maildrop(("pop.example.net", "work"), 110, "joe smith@corp.example")
OTHER = Maildrop(("pop.example.net",), 110, "joe")
_UIDL = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"))


def parsed(format_: str, text: str, maildrop: Maildrop = SALES) -> Seen:
    return FORMATS[format_].read(text, maildrop, Path("records"))


@pytest.mark.parametrize("format_", FORMATS)
@given(
    mine=st.dictionaries(_UIDL, st.integers(0, 2**33).map(float)),
    others=st.dictionaries(_UIDL, st.integers(0, 2**33).map(float)),
)
def test_what_is_written_is_read_again(format_: str, mine: Seen, others: Seen) -> None:
    ours = Maildrop(("a.net",), 110, "sales")
    mine = {uidl: at for uidl, at in mine.items() if uidl not in unfit(mine)}
    others = {uidl: at for uidl, at in others.items() if uidl not in unfit(others)}
    every = [Remembered(OTHER, others), Remembered(ours, mine)]
    texts = dict(FORMATS[format_].write(every))
    text = texts.get("oldmail-a.net-110-sales") or next(iter(texts.values()))
    found = parsed(format_, text if format_ != "getmail" or mine else "", ours)
    dated = format_ == "getmail"
    assert found == (mine if dated else dict.fromkeys(mine))


def test_fetchids_with_blanks_and_signs_in_names_and_uidls() -> None:
    text = (
        "joe smith@corp.example@pop.example.net 1@in.net\n"
        "Joe Smith@Corp.example@WORK <2 \t\n"
        "joe@pop.example.net 3\n"
        "nonsense\n\n"
    )
    assert parsed("fetchmail", text) == {"1@in.net": None, "<2": None}
    assert parsed("fetchmail", text, OTHER) == {"3": None}


def test_what_a_crash_left_in_a_file_is_left_out(tmp_path: Path) -> None:
    """File systems fill up with NUL what was not written yet; no database takes it in a text."""
    damaged = tmp_path / "ids"
    damaged.write_bytes(b"joe@pop.example.net 1\njoe@pop.example.net 2\0\0\0\0")
    assert read(damaged, FORMATS["fetchmail"], OTHER) == {"1": None}


def test_of_oldmail_lines_that_are_none_are_left_out() -> None:
    text = "a\x001700000000\nb\0\nc\nd\0x\n\x005\ne f\x0017\n"
    assert parsed("getmail", text) == {"a": 1_700_000_000.0, "e f": 17.0}


@pytest.mark.parametrize(
    "text",
    [
        *("uid\n", " 2 a.net joe\nx\n", " 2 a.net joe\nx\n 1 b.net joe\ny\n", " x a joe\n"),
        f" {'9' * 5000} a.net joe\nx\n",
    ],
)
def test_of_mpops_files_those_that_are_cut_off_are_refused(text: str) -> None:
    with pytest.raises(Wrong, match="records:"):
        parsed("mpop", text)


def test_mpops_files_hold_several_maildrops() -> None:
    text = "# made\n 1 a.net x\nu0\n 1 a.net joe\nu9\n 2 pop.example.net joe\nu1\nu2\n"
    assert parsed("mpop", text, OTHER) == {"u1": None, "u2": None}
    assert parsed("mpop", text) == {}


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "none", FORMATS["mpop"], SALES) == {}


def test_where_the_programs_keep_their_records(tmp_path: Path) -> None:
    names = {"fetchmail": ".fetchids", "mpop": "joe_at_pop.example.net"}
    names["getmail"] = "oldmail-pop.example.net-110-joe"
    for format_, name in names.items():
        assert files_at(tmp_path, format_, OTHER) == [tmp_path / name]
    one = tmp_path / "oldmail-other-110-joe"
    assert (files_at(one, "getmail", OTHER), files_at(one, "mpop", OTHER)) == ([], [one])


def test_what_has_no_place_in_a_line_is_told() -> None:
    assert unfit(dict.fromkeys(["ok", "", " x", "#x", "x ", "a\0b", "é"], 0.0)) == [
        "",
        " x",
        "#x",
        "x ",
        "a\0b",
    ]
