import pytest

from services.deliverer.addresses import refusals, sendable, unsendable, unstorable

BAD = [
    "",
    "a\r\nRCPT TO:<x@y>",
    "a\nb@c.example",
    "a\0b@c.example",
    "a b@c.example",
    "a>b@c.example",
    "<a@c.example",
    "a\x7f@c.example",
    "a\x85@c.example",
    "a\u2028@c.example",
    "a\ud800@c.example",
    "a" * 1000 + "@c.example",
]


@pytest.mark.parametrize("address", BAD)
def test_what_could_leave_its_line_is_not_sendable(address: str) -> None:
    why = unsendable(address)
    assert why is not None
    assert why.isprintable()


@pytest.mark.parametrize("address", ["anna@corp.example", "anna", "chloé@été.example", "a+b@[::1]"])
def test_ordinary_addresses_are_sendable(address: str) -> None:
    assert unsendable(address) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".ssh", "a/b", "/etc", "a\0b", "a\nb", "ä" * 128, "a\ud800"]
)
def test_what_could_leave_its_directory_is_not_storable(name: str) -> None:
    assert unstorable(name) is not None


@pytest.mark.parametrize("name", ["anna@corp.example", "a..b", "ä" * 127, "a b"])
def test_ordinary_names_are_storable(name: str) -> None:
    assert unstorable(name) is None


def test_each_bad_recipient_is_refused_alone() -> None:
    results = refusals(["anna@corp.example", "a\r\nb", ""])
    assert {r: result.verdict for r, result in results.items()} == dict.fromkeys(
        ["a\r\nb", ""], "permanent"
    )


def test_a_sender_that_cannot_be_sent_becomes_the_null_sender() -> None:
    assert [sendable(s) for s in ("", "a b", "x@corp.example")] == ["", "", "x@corp.example"]
