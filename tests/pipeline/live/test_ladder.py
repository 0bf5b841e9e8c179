"""The ladder of a live run, on made-up sequences of times."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.frames import Effort
from pipeline.live.ladder import Ladder, steps
from pipeline.live.settings import LadderConfig

CONFIG = LadderConfig(tolerance=3, calm=0.7, patience=10, longest_patience=80)


def take(ladder: Ladder, *times_ms: float) -> list[int]:
    """The step after each frame; the budget is 40 ms."""
    return [ladder.measure(ms, 40) for ms in times_ms]


def test_frames_within_their_budget_keep_the_top_step() -> None:
    assert take(Ladder(4, CONFIG), *[39] * 1000) == [0] * 1000


def test_one_slow_frame_is_forgiven() -> None:
    assert take(Ladder(4, CONFIG), 30, 120, *[30] * 20) == [0] * 22


def test_slow_frames_far_from_each_other_are_forgiven() -> None:
    assert set(take(Ladder(4, CONFIG), *[100, *[30] * 9] * 20)) == {0}


def test_lag_that_adds_up_leads_down_one_step_after_the_other() -> None:
    # 30 ms too much each: three budgets, 120 ms, are exceeded with the fifth frame.
    assert take(Ladder(4, CONFIG), *[70] * 20) == [0, 0, 0, 0, *[1] * 5, *[2] * 5, *[3] * 6]


def test_a_frame_that_takes_ever_so_long_leads_down_at_once() -> None:
    assert take(Ladder(3, CONFIG), 400, 400, 400) == [1, 2, 2]


def test_a_calm_step_leads_up_after_a_while_and_to_the_top() -> None:
    ladder = Ladder(3, CONFIG)
    take(ladder, 400, 400)
    went = take(ladder, *[20] * 30)
    assert went[:9] == [2] * 9
    assert went[9:19] == [1] * 10
    assert went[19:] == [0] * 11


def test_a_step_that_is_neither_calm_nor_late_is_kept() -> None:
    ladder = Ladder(3, CONFIG)
    take(ladder, 400)
    assert set(take(ladder, *[35] * 1000)) == {1}


def test_each_vain_step_up_doubles_the_wait_up_to_a_limit() -> None:
    ladder = Ladder(2, CONFIG)
    waits, since = [], 0
    for _ in range(700):
        was = ladder.step
        since += 1
        ladder.measure(400 if ladder.step == 0 else 1, 40)
        if was == 1 and ladder.step == 0:
            waits.append(since)
        if was == 0:
            since = 0
    assert waits == [10, 20, 40, 80, 80, 80, 80, 80, 80, 80]


def test_a_step_up_that_lasts_forgets_the_vain_ones() -> None:
    ladder = Ladder(2, CONFIG)
    take(ladder, 400, *[1] * 10, 400)
    assert take(ladder, *[1] * 20)[-2:] == [1, 0]  # the wait has doubled
    take(ladder, *[30] * 10, 400)
    assert take(ladder, *[1] * 10)[-2:] == [1, 0]


def test_an_error_leads_to_the_last_step_and_back_again() -> None:
    ladder = Ladder(5, CONFIG)
    assert ladder.fail() == 4
    assert take(ladder, *[1] * 10)[-1] == 3
    assert ladder.moves == 2


def names(*, restores: bool = True, has_light: bool = False, has_small: bool = False) -> list[str]:
    return [step.name for step in steps(restores=restores, has_light=has_light, has_small=has_small)]


def test_the_way_down_has_quicker_restorers_where_there_are_some() -> None:
    below = ["reuse", "one face", "bypass"]
    assert names(has_light=True, has_small=True) == ["full", "detect less", "fast", "smaller crop", *below]
    assert names(has_small=True) == ["full", "detect less", "smaller crop", *below]
    assert names() == ["full", "detect less", *below]
    assert names(restores=False) == ["full", "detect less", "bypass"]


def test_a_step_leaves_out_all_that_those_above_it_leave_out() -> None:
    way = [step.effort for step in steps(restores=True, has_light=True, has_small=True)[:-1]]
    for above, below in pairwise(way):
        assert below.detection_interval >= above.detection_interval
        assert below.light >= above.light
        assert below.small >= above.small
        assert below.least_carried >= above.least_carried
    assert {effort.carried_at_detection for effort in way} == {2}
    assert way[0] == Effort(carried_at_detection=2)
    assert [effort.most_asked for effort in way] == [None, None, None, None, 1, 1]
    assert [effort.most_faces for effort in way] == [None, None, None, None, None, 1]


@pytest.mark.parametrize(
    "wrong", [{"share": 0}, {"calm": 2}, {"tolerance": 0}, {"patience": 0}, {"longest_patience": 5}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LadderConfig(**wrong)  # type: ignore[arg-type]
