"""The parser's verdict on whole messages: what goes on, what is corrupt and why."""

from dataclasses import replace

import pytest

from services.parser.header import ABOVE_LIMIT, ABOVE_SIZE
from services.parser.parse import parse
from shared.message import HEADER_LIMIT, Envelope, Fetched, Inline, Parsed, Raw, Spooled
from shared.outcome import Forward, Quarantine
from tests.corpus.messages import (
    corrupt_messages,
    fields,
    sample_messages,
    sound_messages,
    typical,
)

SOUND = sound_messages()
CORRUPT = corrupt_messages()


def fetched(raw: Raw | bytes) -> Envelope[Fetched]:
    carried = Inline(raw) if isinstance(raw, bytes) else raw
    return Envelope("0" * 32, "sales", Fetched(carried, "u1", "pop.example.net:995"), 1.7e9)


def parsed(raw: Raw | bytes) -> Parsed:
    outcome = parse(fetched(raw))
    assert isinstance(outcome, Forward), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, Parsed)
    return payload


def quarantined(raw: Raw | bytes) -> Quarantine:
    outcome = parse(fetched(raw))
    assert isinstance(outcome, Quarantine), outcome
    return outcome


def test_reads_what_later_stages_need() -> None:
    p = parsed(typical())
    assert p.return_path == "bounce+typical@lists.example.org"
    assert p.delivered_to == ()
    assert p.received == 2
    assert p.passed == ()
    assert p.summary.from_ == '"A. Sender" <a.sender@example.org>'
    assert p.summary.subject == "Offer typical"
    assert p.summary.message_id == "<typical@example.org>"
    assert p.summary.date == "Mon, 6 Nov 2023 10:11:10 +0100"
    assert (p.uidl, p.server) == ("u1", "pop.example.net:995")


def test_the_raw_message_is_passed_on_as_the_same_object() -> None:
    raw = Inline(typical())
    assert parsed(raw).raw is raw


@pytest.mark.parametrize("name", SOUND)
def test_odd_but_sound_messages_go_on(name: str) -> None:
    assert parsed(SOUND[name]).raw == Inline(SOUND[name])


def test_samples_go_on() -> None:
    for message in sample_messages(100):
        assert parsed(message).summary.message_id


NO_FIELDS_OF_PLAIN = ("one field", "space before colon", "8-bit subject", "UTF-8 header")


@pytest.mark.parametrize("name", [n for n in SOUND if n not in NO_FIELDS_OF_PLAIN])
def test_oddities_do_not_hide_the_fields(name: str) -> None:
    p = parsed(SOUND[name])
    assert p.return_path is not None
    assert p.return_path.startswith("bounce+") or name.endswith("line first")
    assert p.received == 1
    assert p.summary.from_ == '"A. Sender" <a.sender@example.org>'
    assert p.summary.message_id.endswith("@example.org>")


REASONS = {
    "empty": "The message is empty: its 0 bytes hold nothing but blank lines.",
    "one line end": "The message is empty: its 2 bytes hold nothing but blank lines.",
    "blank lines": "The message is empty: its 9 bytes hold nothing but blank lines.",
    "no header": "There is no header block: no header field in the first 2 line(s).",
    "NUL only": "There is no header block: no header field in the first 1 line(s).",
    "header over the limit": "The header block is over the limit: no blank line in the first"
    f" {HEADER_LIMIT} bytes of {len(CORRUPT['header over the limit'])}.",
    "endless line": "The header block is over the limit: no blank line in the first"
    f" {HEADER_LIMIT} bytes of {len(CORRUPT['endless line'])}.",
    "binary": "There is no header block: no header field in the first 41 line(s).",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_messages_are_quarantined_with_their_bytes(name: str) -> None:
    outcome = quarantined(CORRUPT[name])
    assert outcome.reason == REASONS[name]
    assert isinstance(outcome.payload, Fetched)
    assert outcome.payload.raw == Inline(CORRUPT[name])


@pytest.mark.parametrize("name", CORRUPT)
def test_what_an_operator_has_released_goes_on_whatever_it_looks_like(name: str) -> None:
    envelope = fetched(CORRUPT[name])
    released = replace(envelope, payload=replace(envelope.payload, released=True))
    outcome = parse(released)
    assert isinstance(outcome, Forward), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, Parsed)
    assert payload.raw == Inline(CORRUPT[name])


def test_what_can_be_read_of_a_corrupt_message_is_shown() -> None:
    outcome = quarantined(CORRUPT["header over the limit"])
    assert isinstance(outcome.payload, Fetched)
    assert outcome.payload.summary.subject == "Offer corrupt"
    assert outcome.payload.summary.message_id == "<corrupt@example.org>"


def test_the_limit_is_exact() -> None:
    sound, over = SOUND["huge header"], CORRUPT["header over the limit"]
    assert sound.index(b"\r\n\r\n") + 4 == HEADER_LIMIT
    assert over.index(b"\r\n\r\n") + 4 == HEADER_LIMIT + 1
    assert parsed(sound).raw.size == len(sound)
    assert "over the limit" in quarantined(over).reason


def test_a_spooled_message_is_judged_by_its_head() -> None:
    head = fields("spooled") + b"\r\n"
    raw = Spooled("key", 50_000_000, head)
    assert parsed(raw).raw is raw
    assert parsed(raw).summary.subject == "Offer spooled"


def test_a_spooled_message_without_end_of_header_is_over_the_limit() -> None:
    head = (b"X-Filler: f\r\n" * (HEADER_LIMIT // 13 + 1))[:HEADER_LIMIT]
    outcome = quarantined(Spooled("key", 50_000_000, head))
    assert outcome.reason.endswith(f"in the first {HEADER_LIMIT} bytes of 50000000.")


def test_a_spooled_message_that_begins_with_blank_lines_is_not_empty() -> None:
    outcome = quarantined(Spooled("key", 50_000_000, b"\r\n\r\nbody\r\n\r\n"))
    assert outcome.reason == "There is no header block: no header field in the first 1 line(s)."


def test_a_spooled_message_that_is_all_header_is_sound() -> None:
    head = fields("all") + b"X-Filler: " + b"f" * 200_000 + b"\r\n"
    assert parsed(Spooled("key", len(head), head)).received == 1


def test_only_the_top_header_block_is_read() -> None:
    body = b"\r\n".join((b"Received: inner", b"Delivered-To: in@x", b"X-POP3-Connector-Account: y"))
    for message in (fields("top") + b"\r\n" + body, b"Subject: s\n\n" + body):
        p = parsed(message)
        assert p.received == message.split(b"inner")[0].count(b"Received: from")
        assert "in@x" not in p.delivered_to
        assert p.passed == ()


def test_every_line_of_our_own_is_read() -> None:
    message = (
        b"X-POP3-Connector-For: sales@corp.example\r\nX-POP3-Connector-Account: sales\r\n"
        b"x-pop3-connector-for : <info@corp.example>\r\nx-pop3-connector-account:\tinfo \r\n\r\n"
    )
    p = parsed(message)
    assert p.delivered_to == ("sales@corp.example", "info@corp.example")
    assert p.passed == ("sales", "info")


def test_of_delivered_to_only_what_an_older_version_wrote_is_ours() -> None:
    provider = b"Delivered-To: sales@provider.example\r\n"
    ours = b"Delivered-To: ann@corp.example\r\nDelivered-To: bob@corp.example\r\n"
    account = b"X-POP3-Connector-Account: team\r\nX-POP3-Connector-Id: 1\r\n"
    for line_end in (b"\r\n", b"\n"):
        message = (ours + account + provider + b"Subject: s\r\n\r\n").replace(b"\r\n", line_end)
        assert parsed(message).delivered_to == ("ann@corp.example", "bob@corp.example")
    assert parsed(provider + b"Subject: s\r\n\r\n").delivered_to == ()
    assert parsed(provider + b"Subject: s\r\n" + account + b"\r\n").delivered_to == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Return-Path: <a@example.org>", "a@example.org"),
        (b"return-path:a@example.org", "a@example.org"),
        (b"Return-Path:\r\n <a@example.org>", "a@example.org"),
        (b"Return-Path: <>", ""),
        (b"Return-Path: <@relay.example,@two.example:a@example.org>", "a@example.org"),
        ("Return-Path: <grüße@example.org>".encode(), "grüße@example.org"),
        (b"Return-Path: <a@example.org>\r\nReturn-Path: <b@example.org>", "a@example.org"),
        (b"Return-Path: ", None),
        (b"Return-Path: <a b@example.org>", None),
        (b"Return-Path: <a@example.org> RCPT TO:<b@example.org>", "a@example.org"),
        (b"Return-Path: <a@example.org", "a@example.org"),
        (b"Return-Path: < a@example.org >", "a@example.org"),
        (b"Return-Path: <\ta@example.org>", "a@example.org"),
        (b"Return-Path: < >", ""),
        (b"Return-Path: <<a@example.org>>", "a@example.org"),
        (b"Return-Path: a@example.org (a (nested) comment)", "a@example.org"),
        (b"Return-Path: (a comment) <a@example.org> (another <x@y>)", "a@example.org"),
        (b"Return-Path: Ann Other <a@example.org>", "a@example.org"),
        (b'Return-Path: "Other, Ann <x@y>" <a@example.org>', "a@example.org"),
        (b"Return-Path: Ann Other a@example.org", "a@example.org"),
        (b'Return-Path: "a@example.org"', "a@example.org"),
        (b"Return-Path: 'a@example.org'", "a@example.org"),
        (b'Return-Path: <"a@example.org">', "a@example.org"),
        (b"Return-Path: <'a@example.org'>", "a@example.org"),
        (b'Return-Path: <"a b"@example.org>', '"a b"@example.org'),
        (b'Return-Path: "a b"@example.org', '"a b"@example.org'),
        (b'Return-Path: <"a\\"b"@example.org>', '"a\\"b"@example.org'),
        (b"Return-Path: <a@b@example.org>", "a@b@example.org"),
        (b"Return-Path: <@relay.example: a@example.org>", "a@example.org"),
        (b"Return-Path: \xef\xbb\xbf<a@example.org>", "a@example.org"),
        (b"Return-Path: <\xef\xbb\xbfa@example.org>", "a@example.org"),
        (b"Return-Path: \xc2\xa0<a@example.org>\xc2\xa0", "a@example.org"),
        (b"\xef\xbb\xbfReturn-Path: <a@example.org>", "a@example.org"),
        (b"Return-Path: J\xfcrgen <a@example.org>", "a@example.org"),
        (b"Return-Path: <a@example.org> (J\xfcrgen)", "a@example.org"),
        (b"Return-Path: <a@example.org>\0\x07", "a@example.org"),
        (b'Return-Path: "' + b"a long name " * 50 + b'" <a@example.org>', "a@example.org"),
        (b"Return-Path: " + b"(" * 5000 + b" <a@example.org>", None),
        (b"Return-Path: <MAILER-DAEMON>", "MAILER-DAEMON"),
        (b"Return-Path: Mail Delivery System", None),
        (b"Return-Path: ()", None),
        (b"Return-Path: <a\x07@example.org>", None),
        (b"Return-Path: <a\r@example.org>", None),
        (b"Return-Path: <\xff@example.org>", None),
        (b"Return-Path: <" + b"a" * 400 + b"@example.org>", None),
        (b"Return-Path: " + b"a" * 500 + b"@example.org", None),
        (b"X-Other: <a@example.org>", None),
    ],
)
def test_return_path(line: bytes, expected: str | None) -> None:
    assert parsed(line + b"\r\nSubject: s\r\n\r\n").return_path == expected


@pytest.mark.parametrize(
    ("lines", "subject"),
    [
        (b"Subject: one\r\n two\r\n\tthree\r\n", "one two three"),
        (b"Subject: one\n two\n\tthree\n", "one two three"),
        (b"Subject:\r\n one\r\n", "one"),
        (b"Subject : spaced\r\n", "spaced"),
        (b"SUBJECT\t:shouted\r\n", "shouted"),
        (b"Subject\r\nSubject: with a colon\r\n", "with a colon"),
        (b"Subject: first\r\nSubject: second\r\n", "first"),
        (b"Subject: a: b\r\n", "a: b"),
        (b"X-Subject: other\r\n", ""),
    ],
)
def test_lines_are_read_as_fields(lines: bytes, subject: str) -> None:
    assert parsed(lines + b"\r\nbody\r\n").summary.subject == subject


def test_an_overlong_address_is_cut() -> None:
    p = parsed(b"X-POP3-Connector-For: " + b"a" * 10_000 + b"\r\n\r\n")
    assert p.delivered_to == ("a" * 400,)


@pytest.mark.parametrize(
    ("strays", "header"),
    [
        (b"", b"Subject: s\r\n"),
        (b"\r\n", b"Subject: s\r\n"),
        (b"\n\r\n\r\r\n", b"X-Any: word\r\nSubject: s\r\n"),
        (b"From a@b Mon Nov  6\r\n", b"Subject: s\r\n"),
        (b"From a@b\r\n>From c@d\r\n>From e@f\r\n", b"X-Any: word\r\nSubject: s\r\n"),
        (b"From a@b Mon Nov  6\r\n\r\n", b"Subject: s\r\n"),
        (b"\r\n***** banner *****\r\n\r\n", b"received: x\r\nSubject: s\r\n"),
        (b"+OK 812 octets\r\n", b"Subject: s\r\n"),
        (b"\xef\xbb\xbf", b"Subject: s\r\n"),
        (b"\xef\xbb\xbf\r\n", b"Subject: s\r\n"),
        (b"\r\n" * 5000, b"Subject: s\r\n"),
        (b"stray\r\n" * ABOVE_LIMIT, b"Subject: s\r\n"),
    ],
)
def test_the_header_begins_below_what_is_no_field(strays: bytes, header: bytes) -> None:
    p = parsed(strays + header + b"\r\nReceived: in the body\r\n")
    assert (p.above, p.summary.subject, p.received) == (len(strays), "s", header.count(b"received"))


@pytest.mark.parametrize(("size", "above"), [(ABOVE_SIZE, ABOVE_SIZE), (ABOVE_SIZE + 1, None)])
def test_strays_are_no_book(size: int, above: int | None) -> None:
    assert parsed(b"x" * (size - 2) + b"\r\nSubject: s\r\n\r\n").above == above


def test_a_text_in_which_a_line_looks_like_a_field_is_all_body() -> None:
    text = b"line after line\r\n" * (ABOVE_LIMIT + 1) + b"Note: this is no header\r\n"
    p = parsed(text + b"Return-Path: <a@example.org>\r\n\r\nand more\r\n")
    assert (p.above, p.return_path) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        b"Dear all,\r\n\r\nNote: this is no header.\r\n",
        b"One.\r\n\r\nTwo.\r\n\r\nSubject: of the third paragraph\r\n",
    ],
)
def test_a_text_without_header_fields_is_for_the_operator(text: bytes) -> None:
    assert "no header field" in quarantined(text).reason


def test_hostile_strays_cost_no_more_than_others() -> None:
    """Each of these took minutes with a search that begins anew at every byte."""
    for byte in (b"\r", b"\n", b" ", b"x", b"\r\n", b"a\r", b"\n\r\r", b"(", b'"', b"<"):
        many = byte * (1_000_000 // len(byte))
        parse(fetched(many))
        parse(fetched(b"Subject: s\r\nReturn-Path: " + many))
    for line in (b"Delivered-To: a@b\r\n", b"DKIM-Signature: ;h\r\n", b"a\r\n", b"\r\n \r\n"):
        top = b"X-POP3-Connector-Account: sales\r\n"
        parse(fetched(top + line * (1_000_000 // len(line)) + b"To: c@d\r\n\r\nbody\r\n"))


def test_the_same_message_gives_the_same_outcome() -> None:
    for message in (*SOUND.values(), *CORRUPT.values()):
        assert parse(fetched(message)) == parse(fetched(message))
