"""The rewriter's outcomes: where messages go, which ones go to the operator, what stays intact."""

import email
import email.policy
from dataclasses import replace

import dkim
import pytest

from services.rewriter.rewrite import RECEIVED_LIMIT, Rewriter, Route, is_mailbox
from shared.message import Inline, Requeue
from shared.outcome import DeadLetter, Outcome, Retry
from tests.corpus.messages import dkim_signed, fields, sample_messages, sound_messages, typical
from tests.unit.rewriter.envelopes import addressed, arrives, parsed

SOUND = sound_messages()
ROUTES = {
    "sales": Route(("sales@corp.example",), "default"),
    "team": Route(("ann@corp.example", "bob@corp.example"), "archive"),
}
REWRITER = Rewriter(ROUTES, "connector.corp.example", "0.1.0")


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, DeadLetter), outcome
    assert outcome.payload is None
    return outcome.reason


def test_directs_a_message_by_the_route_of_its_account() -> None:
    to_sales = addressed(REWRITER.handle(parsed(typical())))
    assert to_sales.recipients == ("sales@corp.example",)
    assert to_sales.destination == "default"
    to_team = addressed(REWRITER.handle(parsed(typical(), account="team")))
    assert to_team.recipients == ("ann@corp.example", "bob@corp.example")
    assert to_team.destination == "archive"


def test_passes_on_what_it_does_not_change() -> None:
    envelope = parsed(typical(), uidl="u77")
    payload = addressed(REWRITER.handle(envelope))
    assert payload.raw is envelope.payload.raw
    assert payload.summary == envelope.payload.summary
    assert (payload.uidl, payload.server) == ("u77", "pop.example.net:995")


def test_a_route_to_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        Route((), "default")


@pytest.mark.parametrize(
    ("return_path", "sender"),
    [
        ("bounce@lists.example.org", "bounce@lists.example.org"),
        ("grüße@example.org", "grüße@example.org"),
        ('"a@b"@example.org', '"a@b"@example.org'),
        ("", ""),
        (None, ""),
        ("no-domain", ""),
        ("a@", ""),
        ("@example.org", ""),
        ("a@b c", ""),
        ("a@b>\r\nRCPT TO:<c@d", ""),
        ("a@b\n", ""),
        ("a\0@b", ""),
        ("a" * 400 + "@example.org", ""),
    ],
)
def test_envelope_sender(return_path: str | None, sender: str) -> None:
    envelope = parsed(typical())
    envelope = replace(envelope, payload=replace(envelope.payload, return_path=return_path))
    assert addressed(REWRITER.handle(envelope)).sender == sender
    assert is_mailbox(return_path or "") == (sender != "")


def test_an_account_that_is_not_configured_yet_is_waited_for() -> None:
    outcome = REWRITER.handle(parsed(typical(), account="new\x1b"))
    assert isinstance(outcome, Retry)
    assert "The account new\\x1b is not configured here" in outcome.reason
    assert outcome.payload is None


BOB, ANN = "bob@corp.example", "ann@corp.example"
SALES, EVE = "sales@corp.example", "eve@corp.example"


@pytest.mark.parametrize(
    ("account", "requeue", "recipients", "destination"),
    [
        ("team", Requeue(), (ANN, BOB), "archive"),
        ("team", Requeue(undelivered=(BOB,)), (BOB,), "archive"),
        ("team", Requeue(undelivered=(BOB, ANN)), (ANN, BOB), "archive"),
        ("team", Requeue(undelivered=("bbo@corp.example",)), (ANN, BOB), "archive"),
        ("team", Requeue(undelivered=(ANN, "bbo@corp.example")), (ANN, BOB), "archive"),
        ("team", Requeue(undelivered=(BOB,), destination="default"), (BOB,), "default"),
        ("sales", Requeue(undelivered=("slaes@corp.example",)), (SALES,), "default"),
        ("sales", Requeue((EVE,)), (EVE,), "default"),
        ("sales", Requeue((EVE, ANN), undelivered=(ANN,)), (ANN,), "default"),
        ("gone", Requeue((EVE,)), (EVE,), "default"),
        ("gone", Requeue((EVE,), "archive"), (EVE,), "archive"),
    ],
)
def test_what_is_tried_again_is_directed_anew_to_those_who_do_not_have_it(
    account: str, requeue: Requeue, recipients: tuple[str, ...], destination: str
) -> None:
    envelope = replace(parsed(typical(), account=account), requeue=requeue)
    payload = addressed(REWRITER.handle(envelope))
    assert (payload.recipients, payload.destination) == (recipients, destination)
    usual = ROUTES.get(account)
    if usual is None or usual.recipients != recipients:
        for recipient in recipients:
            assert recipient.encode() in payload.prefix
    assert b"slaes" not in payload.prefix


def test_what_nobody_directs_is_waited_for_also_when_it_is_tried_again() -> None:
    envelope = replace(parsed(typical(), account="gone"), requeue=Requeue(undelivered=(EVE,)))
    assert isinstance(REWRITER.handle(envelope), Retry)


@pytest.mark.parametrize("count", [RECEIVED_LIMIT, RECEIVED_LIMIT + 1])
def test_too_many_received_lines_are_a_loop(count: int) -> None:
    raw = b"Received: from a by b; date\r\n" * count + b"Subject: s\r\n\r\n"
    outcome = REWRITER.handle(parsed(raw))
    if count <= RECEIVED_LIMIT:
        assert addressed(outcome)
    else:
        assert f"it has {count} Received lines, more than {RECEIVED_LIMIT}" in reason(outcome)


@pytest.mark.parametrize("account", list(ROUTES))
def test_what_comes_back_through_the_same_account_is_a_loop(account: str) -> None:
    once = arrives(REWRITER.handle(parsed(typical(), account=account)))
    why = reason(REWRITER.handle(parsed(once, account=account)))
    assert f"delivered to {ROUTES[account].recipients[0]} through account {account}" in why


@pytest.mark.parametrize("account", list(ROUTES))
def test_what_an_operator_sends_round_again_has_left_the_loop(account: str) -> None:
    """Whatever forwarded it was mended, or somebody wrote lines like ours into it."""
    once = arrives(REWRITER.handle(parsed(typical(), account=account)))
    again = replace(parsed(once, account=account), requeue=Requeue())
    assert addressed(REWRITER.handle(again)).recipients == ROUTES[account].recipients


def test_a_loop_of_what_an_older_version_marked_is_seen() -> None:
    once = arrives(REWRITER.handle(parsed(typical())))
    older = once.replace(b"X-POP3-Connector-For:", b"Delivered-To:")
    assert older != once
    assert "loop" in reason(REWRITER.handle(parsed(older)))
    passed = older.replace(b"sales@corp.example", b"info@corp.example")
    provider = b"Delivered-To: sales@corp.example\r\n"
    assert addressed(REWRITER.handle(parsed(provider + passed)))
    assert addressed(REWRITER.handle(parsed(passed.replace(b"Subject", provider + b"Subject"))))


def test_a_loop_is_seen_whatever_the_case_of_the_address() -> None:
    once = arrives(REWRITER.handle(parsed(typical())))
    shouted = once.replace(b"sales@corp.example", b"SALES@Corp.Example")
    assert "loop" in reason(REWRITER.handle(parsed(shouted)))
    shouting = Rewriter({"sales": Route(("SALES@corp.example",), "default")}, "h", "1")
    assert "loop" in reason(shouting.handle(parsed(once)))


def test_a_loop_through_an_address_that_needs_utf8_is_seen() -> None:
    rewriter = Rewriter({"sales": Route(("grüße@corp.example",), "default")}, "h", "1")
    once = arrives(rewriter.handle(parsed(typical())))
    assert "loop" in reason(rewriter.handle(parsed(once)))


def test_a_delivered_to_of_the_providers_is_no_loop() -> None:
    raw = b"Delivered-To: sales@corp.example\r\n" + fields("own") + b"\r\nbody\r\n"
    assert addressed(REWRITER.handle(parsed(raw)))


def test_having_passed_another_account_is_no_loop() -> None:
    """One connector's account may well feed a mailbox that another account fetches."""
    once = arrives(REWRITER.handle(parsed(typical(), account="sales")))
    assert addressed(REWRITER.handle(parsed(once, account="team")))


def test_having_passed_to_another_mailbox_is_no_loop() -> None:
    """The account was given another mailbox since."""
    once = arrives(REWRITER.handle(parsed(typical())))
    moved = Rewriter({"sales": Route(("new@corp.example",), "default")}, "h", "1")
    assert addressed(moved.handle(parsed(once)))


@pytest.mark.parametrize("canonical", [b"simple", b"relaxed"])
@pytest.mark.parametrize("account", list(ROUTES))
def test_a_dkim_signature_still_verifies(canonical: bytes, account: str) -> None:
    signed, dns = dkim_signed(canonicalize=(canonical, canonical))
    arrived = arrives(REWRITER.handle(parsed(signed, account=account)))
    assert dkim.verify(arrived, dnsfunc=dns)
    assert not dkim.verify(arrived.replace(b"Offer", b"offer"), dnsfunc=dns)


def test_a_dkim_signature_below_an_mbox_line_still_verifies() -> None:
    signed, dns = dkim_signed()
    arrived = arrives(REWRITER.handle(parsed(b"From a@b Mon Nov  6 10:11:12 2023\r\n" + signed)))
    assert dkim.verify(arrived, dnsfunc=dns)


@pytest.mark.parametrize("name", SOUND)
def test_odd_messages_arrive_whole_below_our_lines(name: str) -> None:
    raw = SOUND[name]
    payload = addressed(REWRITER.handle(parsed(raw)))
    assert payload.raw == Inline(raw)
    lines = payload.prefix.split(b"\r\n")
    assert lines[-1] in (b"", b"X-POP3-Connector-First-Line: ")
    assert b"" not in lines[:-1]
    skipped = raw[: payload.skip].replace(b"\n", b"\r\n").replace(b"\r\r", b"\r").split(b"\r\n")
    assert all(line in payload.prefix for line in skipped)


@pytest.mark.parametrize("name", [n for n in SOUND if n != "huge header"])
def test_our_lines_neither_swallow_nor_hide_a_field(name: str) -> None:
    """The parser, reading what arrived, sees what it saw before, and our own lines above it."""
    before = parsed(SOUND[name])
    after = parsed(arrives(REWRITER.handle(before))).payload
    assert after.summary == before.payload.summary
    assert after.return_path == before.payload.return_path
    assert after.received == before.payload.received + 1
    assert after.delivered_to == ("sales@corp.example", *before.payload.delivered_to)
    assert after.passed == ("sales", *before.payload.passed)


def test_other_readers_see_one_header_block_too() -> None:
    """Python's email parser reads it, and so do mail servers: one field more for each line."""
    for raw in (*sample_messages(20), *(SOUND[n] for n in SOUND if n.endswith("line first"))):
        arrived = arrives(REWRITER.handle(parsed(raw)))
        message = email.message_from_bytes(arrived, policy=email.policy.compat32)
        assert message.defects == [] or "junk" in str(message.defects)
        assert message.keys()[:5] == [
            "Received",
            "X-POP3-Connector-For",
            "X-POP3-Connector-Account",
            "X-POP3-Connector-Id",
            "X-POP3-Connector-UIDL",
        ]
        assert message["Message-ID"] is not None
        assert message["Subject"] is not None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mbox line first", ["From a@example.org Mon Nov  6 10:11:12 2023"]),
        ("quoted mbox line first", [">From a@example.org Mon Nov  6"]),
        ("second mbox line first", ["From a@b Mon Nov  6 10:11:12 2023", ">From c@d Mon Nov  6"]),
        ("mbox line and blank line first", ["From a@b Mon Nov  6 10:11:12 2023", ""]),
        ("blank line first", [""]),
        ("blank lines first", ["(3 blank lines)"]),
        (
            "blank, junk and blank line first",
            ["", "this line is no field", "this line is no field", "(2 blank lines)"],
        ),
        ("BOM first", ["\ufeff"]),
        ("BOM and mbox line first", ["\ufeffFrom a@b"]),
        ("folded line first", ["folded onto nothing"]),
        ("junk line first", ["this line is no field"]),
        ("dot line first", ["."]),
        ("white line first", [""]),
        ("plain", []),
    ],
)
def test_what_is_no_field_above_the_header_becomes_the_value_of_one(
    name: str, values: list[str]
) -> None:
    arrived = arrives(REWRITER.handle(parsed(SOUND[name])))
    message = email.message_from_bytes(arrived, policy=email.policy.default)
    strays = message.get_all("X-POP3-Connector-First-Line", [])
    assert [value.strip(" \t") for value in strays] == values
    assert message["X-POP3-Connector-UIDL"] == "u1"
    assert message["Message-ID"] == "<odd@example.org>"
    assert message.get_payload() in ("b\r\n", "body\r\n")


def test_only_the_line_in_place_is_not_copied() -> None:
    """One stray line costs the message nothing: an older deliverer delivers the same bytes."""
    for name in ("mbox line first", "blank line first", "junk line first"):
        assert addressed(REWRITER.handle(parsed(SOUND[name]))).skip == 0


def test_a_message_without_a_header_stays_body() -> None:
    text = b"A scanner sent this.\r\n\r\nNote: there is no header.\r\n"
    envelope = parsed(typical())
    payload = replace(envelope.payload, raw=Inline(text), above=None)
    message = email.message_from_bytes(arrives(REWRITER.handle(replace(envelope, payload=payload))))
    assert message.get_payload() == text.decode()
    assert message["X-POP3-Connector-Account"] == "sales"


def test_a_stray_line_that_an_older_parser_did_not_tell_of_is_completed_all_the_same() -> None:
    envelope = parsed(SOUND["mbox line first"])
    older = replace(envelope, payload=replace(envelope.payload, above=0))
    assert REWRITER.handle(older) == REWRITER.handle(envelope)


def test_the_same_envelope_gets_the_same_bytes() -> None:
    other = Rewriter(ROUTES, "connector.corp.example", "0.1.0")
    for raw in SOUND.values():
        assert REWRITER.handle(parsed(raw)) == other.handle(parsed(raw))


def test_it_keeps_its_own_copy_of_the_routes() -> None:
    routes = dict(ROUTES)
    rewriter = Rewriter(routes, "h", "1")
    routes.clear()
    assert addressed(rewriter.handle(parsed(typical()))).raw == Inline(typical())
