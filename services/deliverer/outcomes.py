"""What the results for each recipient mean for the message as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from services.deliverer.courier import Result
from shared.log import printable
from shared.message import Addressed
from shared.outcome import DeadLetter, Done, Outcome, Retry, Split, Verdict


def outcome_of(mail: Addressed, results: Mapping[str, Result]) -> Outcome:
    """Return what the results for each recipient mean for the message.

    Recipients of ``mail`` without a result had the message before, and need nothing more.
    """
    if {result.verdict for result in results.values()} == {"delivered"}:
        return Done(_reason(results))
    found: list[Verdict] = []
    by_verdict = {
        verdict: {r: result for r, result in results.items() if result.verdict == verdict}
        for verdict in ("delivered", "temporary", "permanent")
    }
    if done := by_verdict["delivered"]:
        found.append(Done(_reason(done)))
    if later := by_verdict["temporary"]:
        found.append(Retry(_reason(later), payload=_only(mail, later)))
    if never := by_verdict["permanent"]:
        found.append(DeadLetter(_reason(never), payload=_only(mail, never)))
    return found[0] if len(found) == 1 else Split(tuple(found))


def _only(mail: Addressed, recipients: Iterable[str]) -> Addressed | None:
    kept = tuple(recipients)
    return None if kept == mail.recipients else replace(mail, recipients=kept)


def _reason(results: Mapping[str, Result]) -> str:
    """Return the replies as one line; where they differ, each with those whom it is about."""
    replies = {result.reply for result in results.values()}
    if len(replies) == 1:
        return replies.pop()
    about: dict[str, list[str]] = {}
    for recipient, result in results.items():
        about.setdefault(result.reply, []).append(printable(recipient))
    return "; ".join(f"{', '.join(names)}: {reply}" for reply, names in about.items())
