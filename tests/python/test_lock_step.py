"""Streams that advance together: who is asked when, what is answered to whom, and how it ends."""

import pytest

from torchwhisper._lock_step import InTurn, drive, in_lock_step


def counting(name, questions, closed=None):
    """A stream that asks `questions` times and returns what it was answered."""
    heard = []
    try:
        for number in range(questions):
            heard += yield [f"{name}{number}"]
    finally:
        if closed is not None:
            closed.append(name)
    return heard


def failing(name, questions):
    yield from counting(name, questions)
    raise ValueError(name)


def run(streams, at_once):
    asked, ended = [], []

    def answer(questions):
        asked.append(questions)
        return [question.upper() for question in questions]

    drive(in_lock_step(streams, at_once, lambda number, outcome: ended.append((number, outcome))), answer)
    return asked, ended


def test_all_are_asked_at_once_and_each_hears_its_own_answers():
    asked, ended = run([counting("a", 2), counting("b", 3)], at_once=2)
    assert asked == [["a0", "b0"], ["a1", "b1"], ["b2"]]
    assert ended == [(0, ["A0", "A1"]), (1, ["B0", "B1", "B2"])]


def test_no_more_are_open_than_wanted_and_the_next_one_takes_a_free_place():
    opened = []

    def streams():
        for name in "abcd":
            opened.append(name)
            yield counting(name, {"a": 1, "b": 3}.get(name, 2))

    asked, ended = run(streams(), at_once=2)
    assert asked == [["a0", "b0"], ["b1", "c0"], ["b2", "c1"], ["d0"], ["d1"]]
    assert [number for number, _ in ended] == [0, 1, 2, 3]


def test_some_wishes_are_granted_when_all_streams_before_have_ended():
    asked = []

    def answer(questions):
        asked.append(questions)
        return questions

    streams = [counting("a", 2), counting("b", 3), counting("c", 1)]
    waits = {("b1",), ("c0",)}
    together = in_lock_step(streams, 3, lambda *_: None, waits=lambda wanted: tuple(wanted) in waits)
    drive(together, answer)
    assert asked == [["a0", "b0"], ["a1"], ["b1"], ["b2"], ["c0"]]


def test_streams_in_lock_step_are_a_stream():
    def nested(name):
        found = {}
        inner = [counting(f"{name}x", 1), counting(f"{name}y", 2)]
        yield from in_lock_step(inner, 2, found.__setitem__)
        return found

    asked, ended = run([nested("a"), counting("b", 2)], at_once=2)
    assert asked == [["ax0", "ay0", "b0"], ["ay1", "b1"]]
    assert dict(ended) == {0: {0: ["AX0"], 1: ["AY0", "AY1"]}, 1: ["B0", "B1"]}


def test_a_failure_ends_one_stream():
    asked, ended = run([failing("a", 1), counting("b", 2), failing("c", 0)], at_once=3)
    assert asked == [["a0", "b0"], ["b1"]]
    assert [(number, type(outcome)) for number, outcome in ended] == [
        (2, ValueError),
        (0, ValueError),
        (1, list),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whoever_answers_may_stop_everything(error):
    closed = []
    streams = [counting("a", 2, closed), counting("b", 2, closed)]

    def answer(questions):
        raise error

    with pytest.raises(error):
        drive(in_lock_step(streams, 2, lambda *_: None), answer)
    assert closed == ["a", "b"]


def test_whoever_is_told_may_stop_everything():
    closed = []

    def done(number, outcome):
        raise outcome

    with pytest.raises(ValueError, match="b"):
        drive(in_lock_step([counting("a", 9, closed), failing("b", 1)], 2, done), lambda asked: asked)
    assert closed == ["a"]


def test_lines_come_in_the_order_of_the_streams():
    said = []
    turns = InTurn(said.append)
    first, second, third = (turns.voice(number) for number in range(3))
    first("a0")
    second("b0")
    third("c0")
    assert said == ["a0"]
    turns.end(1)
    first("a1")
    assert said == ["a0", "a1"]
    turns.end(0)
    assert said == ["a0", "a1", "b0", "c0"]
    third("c1")
    assert said[-1] == "c1"
