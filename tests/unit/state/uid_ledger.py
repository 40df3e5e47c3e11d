"""The UID ledger: what was taken over from each maildrop."""

import asyncio

from shared.ledger import IMPORTED, Claim, LedgerEntry, imported, imported_head
from shared.state import State
from tests.clock import ManualClock
from tests.ledger import claim_one, finish_one
from tests.unit.state.opening import DAY, HOUR, Opening


class Ledger(Opening):
    """What holds of UIDLs and identities on every database."""

    async def test_messages_are_alike_that_were_seen_before(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        entries = [LedgerEntry(f"u{n}", f"i{n}", loose=n) for n in (-(2**63), 7, 2**63 - 1)]
        await one.record("a", [*entries, LedgerEntry(None, "bare", loose=8)])
        await one.record("b", [LedgerEntry("u", "other", loose=9)])
        moment = clock.now() + 1
        await clock.advance(2)
        await one.record("a", [LedgerEntry("late", "late", loose=10), LedgerEntry("v", "i7")])
        asked = [-(2**63), 7, 7, 2**63 - 1, 8, 9, 10, 11]
        assert await two.alike("a", asked, before=moment) == 5
        assert await two.alike("a", asked, before=clock.now() + 1) == 6
        assert await two.alike("a", [], before=moment) == 0

    async def test_what_is_recorded_is_known(self, one: State, two: State) -> None:
        await one.record(
            "sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b"), LedgerEntry(None, "c")]
        )
        await one.record("other", [LedgerEntry("u1", "d")])
        assert {uidl: k.id for uidl, k in (await two.known("sales")).items()} == {
            "u1": "a",
            "u2": "b",
        }
        assert await two.known("nobody") == {}
        assert set(await two.seen(["a", "c", "d", "z", "a"])) == {"a", "c", "d"}
        assert await two.seen([]) == {}

    async def test_recording_again_keeps_when_it_was_first_seen(
        self, one: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        await one.record("sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b")])
        await clock.advance(HOUR)
        await one.record(
            "sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "x"), LedgerEntry("u3", "b")]
        )
        assert await one.known("sales") == {
            "u1": ("a", start, None),
            "u2": ("x", start + HOUR, None),  # the server gave an old UIDL to a new message
            "u3": ("b", start, None),  # it is as old as its message
        }

    async def test_what_list_said_and_what_top_would_say_is_kept(self, one: State) -> None:
        await one.record("sales", [LedgerEntry("u1", "a", 2**40, "ha"), LedgerEntry("u2", "b")])
        assert {u: k.size for u, k in (await one.known("sales")).items()} == {
            "u1": 2**40,
            "u2": None,
        }
        assert await one.heads("sales", ["u1", "u2", "u3"]) == {"u1": "ha"}
        await one.record("sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b", 20, "hb")])
        await one.measure("sales", {"u2": 21, "nobody": 1})
        await one.measure("other", {"u1": 1})
        assert {u: k.size for u, k in (await one.known("sales")).items()} == {
            "u1": 2**40,
            "u2": 21,
        }
        assert await one.heads("sales", ["u1", "u2"]) == {"u1": "ha", "u2": "hb"}
        await one.record("sales", [LedgerEntry("u1", "another")])
        assert (await one.known("sales"))["u1"].size is None
        assert await one.heads("sales", ["u1"]) == {}

    async def test_a_message_is_as_old_as_it_was_when_its_uidl_was_forgotten(
        self, one: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        await one.record("sales", [LedgerEntry("u1", "a"), LedgerEntry(None, "b")])
        for _ in range(3):
            clock.set(2 * DAY)
            await one.forget("sales", ["u1"])
            await one.record("sales", [LedgerEntry("u1", "a"), LedgerEntry(None, "b")])
        assert (await one.known("sales"))["u1"].first_seen == start
        assert await one.seen(["a", "b"]) == {"a": start, "b": start}

    async def test_an_identity_is_kept_from_when_its_uidl_was_forgotten(
        self, one: State, clock: ManualClock
    ) -> None:
        await one.record("sales", [LedgerEntry("u1", "a")])
        await one.record("sales", [LedgerEntry("u2", "b")])
        clock.set(100 * DAY)
        await one.forget("sales", ["u1", "u2"])
        clock.set(80 * DAY)
        await one.prune(90 * DAY)
        assert set(await one.seen(["a", "b"])) == {"a", "b"}
        clock.set(11 * DAY)
        await one.prune(90 * DAY)
        assert await one.seen(["a", "b"]) == {}

    async def test_the_same_uidl_twice_at_once(self, one: State) -> None:
        await asyncio.gather(
            one.record(
                "sales", [LedgerEntry("u1", "a"), LedgerEntry("u1", "b"), LedgerEntry("u2", "b")]
            ),
            one.record("sales", [LedgerEntry("u2", "b"), LedgerEntry("u3", "c")]),
            one.record("sales", []),
        )
        known = await one.known("sales")
        assert {uidl: k.id for uidl, k in known.items()} == {"u1": "b", "u2": "b", "u3": "c"}
        assert set(await one.seen(["a", "b", "c"])) == {"a", "b", "c"}

    async def test_what_is_forgotten_keeps_its_identity(self, one: State) -> None:
        await one.record("sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b")])
        await one.record("other", [LedgerEntry("u1", "c")])
        await one.forget("sales", ["u1", "never there"])
        await one.forget("sales", [])
        assert set(await one.known("sales")) == {"u2"}
        assert set(await one.known("other")) == {"u1"}
        assert set(await one.seen(["a"])) == {"a"}

    async def test_hostile_text_comes_back_as_it_was(self, one: State) -> None:
        texts = ["\0", "a\0b", "\ud800", "\\", "\\x00", "ä", "\x7f\r\n", "日本", "'; --", "%s"]
        await one.record("sales", [LedgerEntry(t, str(n)) for n, t in enumerate(texts)])
        known = await one.known("sales")
        assert {uidl: k.id for uidl, k in known.items()} == {t: str(n) for n, t in enumerate(texts)}
        await one.record("sales", [LedgerEntry(None, f"id{t}") for t in texts])
        assert set(await one.seen([f"id{t}" for t in texts])) == {f"id{t}" for t in texts}
        await finish_one(one, "id", "default", {t: t for t in texts})
        assert await claim_one(one, "id", "default") == Claim(frozenset(texts), replay=False)
        await one.forget("sales", texts)
        assert await one.known("sales") == {}

    async def test_what_was_delivered_to_nobody_is_found_and_forgotten(
        self, one: State, clock: ManualClock
    ) -> None:
        await one.record("sales", [LedgerEntry("old", "old")])
        await clock.advance(HOUR)
        since = clock.now() - 1
        await one.record(
            "sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b"), LedgerEntry(None, "c\\")]
        )
        await one.record("info", [LedgerEntry("u1", "d"), LedgerEntry("gone", "e")])
        await one.forget("info", ["gone"])
        await finish_one(one, "b", "default", {"anna": "250 ok"})
        lost = await one.delivered_to_nobody(since)
        assert [tuple(each) for each in lost] == [
            ("info", "d", True),
            ("info", "e", False),
            ("sales", "a", True),
            ("sales", "c\\", False),
        ]
        await one.forget_lost(lost[1:])
        assert set(await one.known("sales")) == {"old", "u2"}
        assert set(await one.known("info")) == {"u1"}
        assert set(await one.seen(["a", "b", "c\\", "d", "e", "old"])) == {"b", "d", "old"}
        await one.forget_lost([])

    async def test_a_large_maildrop(self, one: State) -> None:
        entries = [LedgerEntry(f"uid{n:020}", f"{n:064x}") for n in range(30_000)]
        await one.record("sales", entries)
        known = await one.known("sales")
        assert {LedgerEntry(uidl, k.id) for uidl, k in known.items()} == set(entries)
        assert len(await one.seen([entry.id for entry in entries])) == 30_000

    async def test_what_was_imported_stands_beside_what_was_recorded(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        await one.record("sales", [LedgerEntry("u1", "a", 5, "ha")])
        odd = "\\ \0 \udc80"
        await one.import_uidls("sales", {"u1": 1.0, "u2": 1_600_000_000.25, odd: 3.0})
        await one.import_uidls("sales", {"u2": 7.0})
        await two.import_uidls("other", {"u2": 9.0})
        assert await two.known("sales") == {
            "u1": ("a", start, 5),
            "u2": (IMPORTED, 1_600_000_000.25, None),
            odd: (IMPORTED, 3.0, None),
        }
        assert (await two.installation()).used

    async def test_an_imported_message_is_known_by_its_header_from_then_on(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        await one.record("sales", [LedgerEntry("u1", "a", 5, "ha")])
        await one.import_uidls("sales", {"u2": 1.0, "u3": 2.0})
        await one.look_at("sales", {"u1": "hx", "u2": "h2", "nobody": "h"})
        await one.look_at("sales", {"u2": "h9"})  # what was seen first counts
        known = await two.known("sales")
        assert [known[u].id for u in ("u1", "u2", "u3")] == ["a", imported("h2"), IMPORTED]
        assert imported_head(known["u2"].id) == "h2"
        assert await two.heads("sales", ["u1", "u2", "u3"]) == {"u1": "ha", "u2": "h2"}
        await one.record("sales", [LedgerEntry("u2", "b", 7, "hb")])
        assert (await two.known("sales"))["u2"] == ("b", clock.now(), 7)
