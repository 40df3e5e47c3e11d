"""The result of a soak for people: a few tables in Markdown."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.soak.crew import stage_of
from tests.soak.mail import FATES
from tests.soak.verdict import Verdict

MANY = 50
"""Lines about what is wrong, at the most."""
PLACES = {
    "maildir": "Maildir",
    "smtp": "SMTP (Postfix)",
    "lmtp": "LMTP (Dovecot)",
    "failed": "Failed Mail",
    "quarantine": "quarantine",
}


def report(verdict: Verdict) -> str:
    """Return the tables, and what is wrong."""
    sections = [_what_became(verdict), _by_place(verdict), _gap(verdict), _faults(verdict)]
    wrong = [f"- {what}" for what in verdict.wrong]
    end = ["Wrong:", *wrong[:MANY]] if wrong else ["All is well."]
    if len(wrong) > MANY:
        end.append(f"- and {len(wrong) - MANY} more")
    how_long = f"All mail had arrived {verdict.drained:.0f} s after the last fault was healed."
    return "\n\n".join([*sections, how_long, "\n".join(end)])


def _what_became(verdict: Verdict) -> str:
    whole = verdict.whole
    copies = Counter(copy.id for copy in verdict.copies)
    once = whole.delivered - len(copies) - verdict.fates["maildir"].duplicates
    row = (
        whole.accepted,
        once,
        whole.duplicates,
        len(verdict.lost),
        verdict.fates["failed"].delivered,
        verdict.fates["quarantine"].delivered,
    )
    head = ("sent", "delivered once", "duplicated", "lost", "failed", "quarantined")
    return _table(head, [row])


def _by_place(verdict: Verdict) -> str:
    rows = [
        (
            PLACES[fate],
            tally.accepted,
            tally.delivered,
            tally.duplicates,
            tally.lost,
            tally.strangers,
        )
        for fate in FATES
        for tally in [verdict.fates[fate]]
    ]
    head = ("where it must end", "sent", "arrived", "copies beyond the first", "missing", "others")
    return _table(head, rows)


def _gap(verdict: Verdict) -> str:
    """The duplicates by SMTP and LMTP, next to the faults that can be between dot and ledger."""
    why = Counter((PLACES[c.destination], c.why or "no reason found") for c in verdict.copies)
    rows = [(*key, count) for key, count in sorted(why.items())] or [("any", "none", 0)]
    deaths = [death for death in verdict.deaths if stage_of(death.name) == "deliverer"]
    kinds = Counter(fault.name for fault in verdict.struck)
    cuts = sum(count for name, count in kinds.items() if name.startswith(("SMTP c", "LMTP c")))
    said = (
        f"For comparison: {len(deaths)} deliverers were killed, and the connections of SMTP or"
        f" LMTP were cut {cuts} times."
    )
    return _table(("second copies by", "because of", "count"), rows) + "\n\n" + said


def _faults(verdict: Verdict) -> str:
    kinds = Counter((fault.component, fault.name) for fault in verdict.struck)
    rows = [(name, count) for (_, name), count in sorted(kinds.items())]
    steps = Counter(death.armed.partition("#")[0] for death in verdict.deaths if death.armed)
    poison = sum(count for step, count in steps.items() if step.endswith(".handled"))
    rows += [
        (f"killed at `{step}`", count)
        for step, count in sorted(steps.items())
        if not step.endswith(".handled")
    ]
    rows += [("killed by a poisonous message", poison)] if poison else []
    total = f"{len(verdict.struck)} faults; {len(verdict.deaths)} processes were killed."
    return _table(("fault", "count"), rows) + "\n\n" + total


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
