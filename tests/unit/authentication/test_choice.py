"""Which mechanism is taken: the strongest offered, and none that gives the password away."""

import pytest

from shared.authentication.choice import APOP, KINDS, SETTINGS, USER, Offer, choose

EVERYTHING = frozenset(kind.sasl for kind in KINDS if kind.sasl)


def chosen(setting: str = "auto", *, token: bool = False, weak: bool = False, **offer) -> list[str]:  # type: ignore[no-untyped-def]
    kinds = choose(setting, Offer(**offer), by_token=token, in_clear_first=weak)
    return [kind.sasl or kind.setting.upper() for kind in kinds]


@pytest.mark.parametrize(
    ("sasl", "commands", "within_tls", "in_clear"),
    [
        (EVERYTHING, (USER, APOP), ["SCRAM-SHA-256", "USER"], ["SCRAM-SHA-256"]),
        ({"CRAM-MD5", "PLAIN"}, (USER,), ["CRAM-MD5", "USER"], ["CRAM-MD5"]),
        ({"PLAIN", "LOGIN"}, (USER,), ["USER"], ["USER"]),
        ({"PLAIN", "LOGIN"}, (), ["PLAIN"], ["PLAIN"]),
        ({"LOGIN"}, (), ["LOGIN"], ["LOGIN"]),
        ((), (USER, APOP), ["USER"], ["APOP"]),
        ({"NTLM"}, (USER,), ["USER"], ["NTLM"]),
        ({"NTLM"}, (), ["NTLM"], ["NTLM"]),
        ((), (APOP,), ["APOP"], ["APOP"]),
        ({"XOAUTH2"}, (), [], []),
    ],
)
def test_the_strongest_that_is_safe(sasl, commands, within_tls, in_clear) -> None:  # type: ignore[no-untyped-def]
    assert chosen(sasl=sasl, commands=commands, hidden=True) == within_tls
    assert chosen(sasl=sasl, commands=commands, hidden=False) == in_clear


def test_a_binding_is_used_where_there_is_one() -> None:
    assert chosen(sasl=EVERYTHING, hidden=True, bound=True)[0] == "SCRAM-SHA-256-PLUS"
    assert chosen("scram-sha-1", sasl=EVERYTHING, bound=True) == ["SCRAM-SHA-1-PLUS"]


def test_what_has_failed_for_no_fault_of_the_password_is_not_tried_again() -> None:
    assert chosen(sasl=EVERYTHING, commands=(USER,), hidden=True, weak=True) == ["USER"]
    # In clear the password stays hidden, whatever has failed.
    assert "USER" not in chosen(sasl=EVERYTHING, commands=(USER,), weak=True)


@pytest.mark.parametrize(
    ("sasl", "expected"),
    [
        ({"XOAUTH2", "PLAIN"}, ["XOAUTH2"]),
        ({"OAUTHBEARER", "PLAIN"}, ["OAUTHBEARER"]),
        ({"OAUTHBEARER", "XOAUTH2"}, ["XOAUTH2"]),
        ((), ["XOAUTH2"]),
        ({"PLAIN"}, []),
    ],
)
def test_a_token_goes_by_what_takes_tokens(sasl, expected) -> None:  # type: ignore[no-untyped-def]
    assert chosen(sasl=sasl, token=True, hidden=True) == expected
    assert chosen(sasl=sasl, token=True, hidden=False) == []


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "auto"])
def test_what_is_named_is_taken_whether_or_not_it_is_offered(setting: str) -> None:
    (kind,) = choose(setting, Offer(()), by_token=False)
    assert kind.setting == setting
    assert not kind.sasl.endswith("-PLUS")
