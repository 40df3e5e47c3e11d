"""The line for a connection: in order, and nobody is lost in it."""

from services.deliverer.servers.waiting_line import WaitingLine


def line(*names: str) -> WaitingLine[str]:
    made = WaitingLine[str]()
    for name in names:
        made.join(name)
    return made


def taken(waiting: WaitingLine[str]) -> list[str]:
    return [one for _ in range(len(waiting)) if (one := waiting.take_next()) is not None]


def test_who_has_waited_longest_is_next() -> None:
    waiting = line("anna", "bert")
    waiting.join("carl")
    assert len(waiting) == 3
    assert [waiting.take_next() for _ in range(4)] == ["anna", "bert", "carl", None]


def test_who_is_put_back_is_next() -> None:
    waiting = line("anna", "bert")
    first = waiting.take_next()
    assert first is not None
    waiting.put_back(first)
    assert waiting.take_next_if(lambda who: who == "bert") is None
    assert waiting.take_next_if(lambda who: who == "anna") == "anna"


def test_who_leaves_is_passed_over() -> None:
    waiting = line("anna", "bert", "carl")
    waiting.remove(lambda who: who == "bert")
    assert taken(waiting) == ["anna", "carl"]


def test_those_who_have_waited_least_are_the_last() -> None:
    waiting = line("anna", "bert", "carl")
    assert waiting.take_last(2) == ["carl", "bert"]
    assert taken(waiting) == ["anna"]
    assert waiting.take_last(5) == []
