"""Plans of windows."""

from hypothesis import given
from hypothesis import strategies as st

from torchwhisper.training import PackOptions, Utterance
from torchwhisper.training.pack import Sizes, plan_epoch

ROOM = (30.0, 440)


def utterances(n, languages=("en",)):
    return [Utterance(audio="", text="", language=languages[i % len(languages)]) for i in range(n)]


sizes = st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 438)), min_size=1, max_size=60)


@given(sizes, st.integers(0, 8), st.floats(0, 2), st.integers(0, 3))
def test_every_utterance_once_within_the_room(given_sizes, most, gap, epoch):
    seconds, tokens = zip(*given_sizes, strict=True)
    everyone = utterances(len(seconds), ("en", "de"))
    plan = plan_epoch(everyone, Sizes(seconds, tokens), ROOM, PackOptions(most, gap), (7, epoch))
    assert sorted(i for window in plan for i in window.members) == list(range(len(seconds)))
    for window in plan:
        assert len({everyone[i].language for i in window.members}) == 1
        assert len(window.members) <= (most or 60)
        assert sum(tokens[i] + 2 for i in window.members) <= ROOM[1]
        end = 0.0
        for i, start in zip(window.members, window.starts, strict=True):
            assert end <= start <= end + gap
            end = start + seconds[i]
        assert end <= ROOM[0]
    assert plan == plan_epoch(everyone, Sizes(seconds, tokens), ROOM, PackOptions(most, gap), (7, epoch))


def test_one_by_one_in_a_new_order_each_epoch():
    plans = [
        plan_epoch(utterances(50), Sizes([1.0] * 50, [3] * 50), ROOM, PackOptions(1), (0, epoch))
        for epoch in range(2)
    ]
    assert all(len(plan) == 50 for plan in plans)
    assert plans[0] != plans[1]


def test_windows_are_filled_to_all_degrees():
    plan = plan_epoch(utterances(3000), Sizes([0.4] * 3000, [1] * 3000), ROOM, PackOptions(20, 0.1), (0, 0))
    counts = [len(window.members) for window in plan]
    assert set(counts) == set(range(1, 21))
    assert 9 < sum(counts) / len(counts) < 12
    full = plan_epoch(utterances(3000), Sizes([0.4] * 3000, [1] * 3000), ROOM, PackOptions(0, 0.0), (0, 0))
    ends = [window.starts[-1] + 0.4 for window in full]
    assert min(ends) < 3 and max(ends) > 27
