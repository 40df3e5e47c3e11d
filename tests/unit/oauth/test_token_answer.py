"""What an authorization server may say, and what is made of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.oauth.token_answer import (
    LIFETIME,
    Refusal,
    TokenAnswer,
    Unreadable,
    in_words,
    read_json,
    refusal,
    tokens_in,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KEYS = ("access_token", "token_type", "expires_in", "refresh_token", "refresh_token_expires_in")


def test_tokens_are_read() -> None:
    said = {
        "access_token": "a",
        "token_type": "bearer",
        "expires_in": "3599",  # as Microsoft's older endpoint writes it
        "refresh_token": "r",
        "refresh_token_expires_in": 604_799,
        "more": {},
    }
    assert tokens_in(said) == TokenAnswer("a", 3599.0, "r", 604_799.0)


@pytest.mark.parametrize(
    "value", [None, "soon", 0, "0", -1, float("nan"), float("inf"), True, [3600]]
)
def test_a_lifetime_that_is_none_is_the_usual_one(value: object) -> None:
    assert tokens_in({"access_token": "a", "expires_in": value}).lasts == LIFETIME


@pytest.mark.parametrize("key", ["refresh_token_expires_in", "refresh_expires_in"])
def test_a_refresh_token_that_lasts_for_0_seconds_does_not_end(key: str) -> None:
    assert tokens_in({"access_token": "a", key: 0}).refresh_lasts is None


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_whatever_is_said_is_tokens_that_can_be_used_or_refused(said: dict[str, Any]) -> None:
    try:
        found = tokens_in(said)
    except Unreadable:
        return
    for token in filter(None, (found.access_token, found.refresh_token)):
        assert token.isascii()
        assert token.isprintable()
        assert " " not in token
    assert 0 <= found.lasts < 1e9


@given(st.integers(100, 599), st.text(), st.text(), st.binary() | JSON.map(json.dumps))
def test_whatever_comes_is_an_object_or_refused(
    status: int, kind: str, location: str, body: bytes | str
) -> None:
    try:
        said = read_json(status, kind, location, body.encode() if isinstance(body, str) else body)
    except Unreadable:
        return
    assert not 300 <= status < 400
    refusal(status, said)


def test_what_a_person_has_to_mend_is_told_from_what_passes() -> None:
    assert refusal(400, {"error": "invalid_grant"}) == Refusal("invalid_grant", "invalid_grant")
    for code, for_good in {
        "invalid_grant": True,
        "invalid_client": True,
        "interaction_required": True,
        "server_error": False,
        "temporarily_unavailable": False,
        "whatever": False,
    }.items():
        found = refusal(400, {"error": code})
        assert found is not None
        assert found.for_good == for_good, code
    assert refusal(200, {"access_token": "a"}) is None


def test_the_words_of_microsoft_are_shown_without_what_is_for_its_support() -> None:
    said = (
        "AADSTS700082: The refresh token has expired due to inactivity.\r\n"
        "Trace ID: 5bb45ff8 Correlation ID: 3f4d Timestamp: 2026-12-01 10:00:00Z"
    )
    assert in_words("invalid_grant", said) == (
        "invalid_grant: AADSTS700082: The refresh token has expired due to inactivity."
    )
