"""What of the words of a server is hidden, and what is not."""

import base64

import pytest

from shared.redaction.redaction import Redaction

ODD = 'pä&s s"w'


@pytest.mark.parametrize(
    ("password", "said", "shown"),
    [
        ("swordfish", "xswordfishy SwordFish", "x***y ***"),
        ("swordfish", "73776F726466697368", "***"),
        ("swordfish", "s%77ord%66ish =73=77=6f=72=64=66=69=73=68", "*** ***"),
        ("swordfish", r"s\x77ordfish s\167ordfish &#115;wordfish", "*** *** ***"),
        ("open-sesame", "open%2Dsesame open=2Dsesame open\\-sesame", "*** *** ***"),
        (ODD, 'p%C3%A4&amp;s+s\\"w', "***"),
        (ODD, ODD.encode().decode("latin-1"), "***"),
        (ODD, r"p\u00e4&s s\"w", "***"),
        ("correct horse", "unknown command horse, horses", "unknown command ***, horses"),
        ("a.c+d", "abc+d a.c+d", "abc+d ***"),
        (
            "swordfish",
            "\\x \\ \\u12 \\² \\777 % =1 &#x; swordfish",
            "\\x \\ \\u12 \\² \\777 % =1 &#x; ***",
        ),
        ("", "no ", "no "),
    ],
)
def test_a_password_is_hidden_however_it_is_written(password: str, said: str, shown: str) -> None:
    assert Redaction(password, "anna").hidden(said) == shown
    assert Redaction(password, "anna").holds(said) is (said != shown)


@pytest.mark.parametrize("password", ["abc", "q/ä", "abcd", "swordfish", "correct horse battery"])
@pytest.mark.parametrize("sent", ["{}", "\0anna\0{}", "anna\0{}", "anna:{}"])
def test_base64_of_it_is_hidden_as_a_whole(password: str, sent: str) -> None:
    encoded = base64.b64encode(sent.format(password).encode()).decode()
    redaction = Redaction(password, "anna")
    assert redaction.hidden(f"bad {encoded} now") == "bad *** now"
    assert redaction.hidden(f"bad {encoded.rstrip('=')}") == "bad ***"


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "abcd"])
def test_base64_is_found_at_any_offset(before: str) -> None:
    encoded = base64.urlsafe_b64encode(f"{before}sword?fish>>/more".encode()).decode()
    assert Redaction("sword?fish>>").hidden(f"<{encoded}>") == "<***>"


@pytest.mark.parametrize("password", ["a", "ok", "err", "12"])
def test_a_short_password_mangles_no_words(password: str) -> None:
    redaction = Redaction(password)
    said = "-ERR a1 bank errors 1200 smoke maildrop took"
    assert redaction.hidden(said) == said.replace("-ERR", "-***" if password == "err" else "-ERR")
    assert redaction.hidden(f"no <{password}>") == "no <***>"


def test_a_stand_in_is_the_same_for_the_same_and_tells_nothing() -> None:
    one, again = (Redaction("swordfish", "anna", "mail:110") for _ in range(2))
    names = ["swordfish-1", "swordfish-2", "SWORDFISH-1"]
    stand_ins = [one.pseudonym(name) for name in names]
    assert len(set(stand_ins)) == 3
    assert stand_ins == [again.pseudonym(name) for name in names]
    assert not any(one.holds(stand_in) for stand_in in stand_ins)
    assert stand_ins[0] != Redaction("swordfish", "anna", "other:110").pseudonym(names[0])
