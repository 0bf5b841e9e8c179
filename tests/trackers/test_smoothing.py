from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from support.faces import landmarks_at
from trackers.smoothing import OneEuro, OneEuroConfig, OneEuroState, smooth_landmarks

Track = list[NDArray[np.float32]]


def straight(count: int, step: float = 2.0) -> Track:
    return [landmarks_at(100 + step * i, 80 + 0.5 * step * i) for i in range(count)]


def noisy(track: Sequence[NDArray[np.float32]], sigma: float = 0.6) -> Track:
    random = np.random.default_rng(0)
    return [(points + random.normal(0, sigma, (5, 2))).astype(np.float32) for points in track]


def jitter(track: Sequence[NDArray[np.float32]]) -> float:
    """Mean length of second differences: none in straight motion."""
    return float(np.linalg.norm(np.diff(np.stack(track), n=2, axis=0), axis=-1).mean())


def smoothed(track: Sequence[NDArray[np.float32] | None], sigma: float = 2.0) -> Track:
    return [smooth_landmarks(track, index, sigma) for index in range(len(track))]


def test_straight_motion_is_left_as_it_is_up_to_both_ends() -> None:
    track = straight(20, step=5)
    assert np.abs(np.stack(smoothed(track)) - np.stack(track)).max() < 1e-3


def test_jitter_falls_to_less_than_half_without_bias() -> None:
    truth = straight(120)
    track = smoothed(noisy(truth))
    assert jitter(track) < 0.5 * jitter(noisy(truth))
    assert np.abs((np.stack(track) - np.stack(truth)).mean((0, 1))).max() < 0.1
    error = np.linalg.norm(np.stack(track) - np.stack(truth), axis=-1).mean()
    assert error < 0.7 * np.linalg.norm(np.stack(noisy(truth)) - np.stack(truth), axis=-1).mean()


@pytest.mark.parametrize("jump", [4.0, 20.0, 200.0])
def test_a_jump_is_not_smeared(jump: float) -> None:
    track = [landmarks_at(100 + (jump if i >= 10 else 0), 80, size=40) for i in range(20)]
    worst = np.linalg.norm((np.stack(smoothed(track)) - np.stack(track)).mean(1), axis=-1).max()
    assert worst <= 0.04 * 40 + 1e-3


def test_gaps_are_bridged_by_straight_motion() -> None:
    truth = straight(15)
    track: list[NDArray[np.float32] | None] = list(truth)
    track[6] = track[7] = None
    assert np.abs(smooth_landmarks(track, 7, 2.0) - truth[7]).max() < 1e-3


def test_a_single_frame_stays_as_it_is() -> None:
    only = landmarks_at(50, 50)
    assert np.allclose(smooth_landmarks([None, only, None], 1, 2.0), only)
    assert np.allclose(smooth_landmarks([None, only, None], 0, 2.0), only)


def test_no_smoothing_on_request() -> None:
    track = noisy(straight(9))
    assert smooth_landmarks(track, 4, 0.0) is track[4]


def test_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame"):
        smooth_landmarks([None] * 5, 2, 2.0)
    with pytest.raises(ValueError, match="centre"):
        smooth_landmarks(straight(3), 3, 2.0)


def live(track: Sequence[NDArray[np.float32]], config: OneEuroConfig | None = None) -> Track:
    filter_ = OneEuro(config)
    state: OneEuroState | None = None
    results = []
    for points in track:
        state = filter_.step(state, points, 1 / 25)
        results.append(state.landmarks)
    return results


def test_live_jitter_falls_to_a_third_at_rest() -> None:
    track = noisy(straight(120, step=0))
    assert jitter(live(track)) < 0.33 * jitter(track)


def test_live_lag_is_bounded_in_fast_motion() -> None:
    track = straight(60, step=20)  # half an eye distance a frame
    lag = np.linalg.norm(live(track)[-1] - track[-1], axis=1).mean()
    assert lag < 0.25 * 40


def test_the_live_filter_arrives_after_a_jump_without_going_beyond() -> None:
    track = [landmarks_at(100 + (60 if i >= 5 else 0), 80) for i in range(40)]
    places = np.stack(live(track)).mean(1)[:, 0]
    middle = track[0].mean(0)[0]
    assert (np.diff(places) >= -1e-3).all()
    assert places[-1] == pytest.approx(middle + 60, abs=1.0)


def test_the_live_filter_keeps_no_state_of_its_own() -> None:
    filter_ = OneEuro()
    first = filter_.step(None, landmarks_at(0, 0), 0.04)
    once = filter_.step(first, landmarks_at(9, 3), 0.04)
    filter_.step(None, landmarks_at(500, 500), 0.04)
    again = filter_.step(first, landmarks_at(9, 3), 0.04)
    assert np.array_equal(once.landmarks, again.landmarks)


def test_time_must_go_on() -> None:
    filter_ = OneEuro()
    state = filter_.step(None, landmarks_at(0, 0), 0.04)
    with pytest.raises(ValueError, match="elapsed_seconds"):
        filter_.step(state, landmarks_at(0, 0), 0.0)
