from collections.abc import Sequence

import pytest

from shared.halving import run_halving


class Away(Exception):
    """Nobody's fault."""


class Counting:
    """Answers for what is positive; refuses a batch with anything else in it; counts its runs."""

    def __init__(self, away_after: int = 10**6) -> None:
        self.runs: list[list[int]] = []
        self.done: list[int] = []
        self._away_after = away_after

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.runs.append(list(items))
        if len(self.runs) > self._away_after:
            raise Away
        for item in items:
            if item <= 0:
                raise ValueError(f"{item}")
        self.done += items
        return [2 * item for item in items]


def whole(item: int) -> Sequence[int]:
    return (item,)


def said(answers: Sequence[int | Exception]) -> list[int | str]:
    return [a if isinstance(a, int) else str(a) for a in answers]


def test_a_sound_batch_is_done_at_once() -> None:
    run = Counting()
    assert run_halving(run, [1, 2, 3], whole, Away) == [2, 4, 6]
    assert len(run.runs) == 1


def test_a_bad_item_is_answered_for_alone_and_costs_few_runs() -> None:
    run = Counting()
    items = [*range(1, 700), -7, *range(700, 1000)]
    answers = run_halving(run, items, whole, Away)
    assert said(answers) == ["-7" if i < 0 else 2 * i for i in items]
    assert len(run.runs) < 25
    assert run.done == [i for i in items if i > 0]


def test_what_concerns_all_is_not_halved() -> None:
    run = Counting(away_after=0)
    with pytest.raises(Away):
        run_halving(run, [1, 2, 3, 4], whole, Away)
    assert run.runs == [[1, 2, 3, 4]]


def test_what_was_done_before_it_went_away_is_answered_for() -> None:
    run = Counting(away_after=2)
    answers = run_halving(run, [1, 2, -3, 4], whole, Away)
    assert answers[:2] == [2, 4]
    assert [type(a) for a in answers[2:]] == [Away, Away]


def test_an_item_that_is_several_is_done_without_what_is_bad_in_it() -> None:
    run = Counting()
    answers = run_halving(run, [-34], lambda item: (3, -4, 5) if item == -34 else (item,), Away)
    assert said(answers) == ["-4"]
    assert run.done == [3, 5]
