from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.align import transform
from support.faces import landmarks_at, moved, textured
from trackers.follower import Followed, Follower, FollowerConfig

SIZE = 24.0
BOX = np.array([75, 45, 125, 115], np.float32)


def follow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], landmarks: NDArray[np.float32] | None = None
) -> Followed | None:
    return Follower().follow(
        before, after, landmarks_at(100, 80, SIZE) if landmarks is None else landmarks, BOX
    )


@pytest.mark.parametrize(
    "motion",
    [
        {},
        {"x": 1.3, "y": -0.7},
        {"x": -6, "y": 4},
        {"scale": 1.06},
        {"scale": 0.94, "x": 2},
        {"angle": 5, "y": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("enlarged", [1, 3])
def test_landmarks_follow_the_picture(motion: dict[str, float], enlarged: int) -> None:
    picture = textured(160 * enlarged, 200 * enlarged, seed=1, detail=2.0 * enlarged)
    shift = {key: value * (enlarged if key in "xy" else 1) for key, value in motion.items()}
    after, matrix = moved(picture, **shift)
    landmarks = landmarks_at(100 * enlarged, 80 * enlarged, SIZE * enlarged)
    followed = follow(picture, after, landmarks)
    assert followed is not None
    assert np.abs(followed.landmarks - transform(matrix, landmarks)).max() < 0.3 * enlarged
    assert followed.reliability > 0.8


def test_the_box_moves_and_grows_with_the_face() -> None:
    picture = textured(160, 200, seed=1)
    after, matrix = moved(picture, x=5, scale=1.1)
    followed = follow(picture, after)
    assert followed is not None
    centre = transform(matrix, ((BOX[:2] + BOX[2:]) / 2)[None])[0]
    assert np.allclose((followed.box[:2] + followed.box[2:]) / 2, centre, atol=0.5)
    assert np.allclose(followed.box[2:] - followed.box[:2], 1.1 * (BOX[2:] - BOX[:2]), rtol=0.02)


def test_noise_does_not_pull_the_points_apart_over_many_frames() -> None:
    picture, random = textured(160, 200, seed=2), np.random.default_rng(0)
    start = landmarks = landmarks_at(100, 80, SIZE)
    before = picture
    for step in range(1, 31):
        clean, matrix = moved(picture, x=0.5 * step)
        after = np.clip(clean + random.normal(0, 4, clean.shape), 0, 255).astype(np.uint8)
        followed = Follower().follow(before, after, landmarks, BOX)
        assert followed is not None
        before, landmarks = after, followed.landmarks
    assert np.abs(landmarks - transform(matrix, start)).max() < 0.1 * SIZE


def test_another_picture_loses_the_face() -> None:
    assert follow(textured(160, 200, seed=1), textured(160, 200, seed=9)) is None


def test_a_covered_face_is_lost() -> None:
    before = textured(160, 200, seed=1)
    after = before.copy()
    after[40:130, 60:140] = textured(90, 80, seed=7)
    assert follow(before, after) is None


def test_a_partly_covered_face_is_less_reliable() -> None:
    before = textured(160, 200, seed=1)
    after = before.copy()
    after[88:140, 60:140] = textured(52, 80, seed=7)
    followed = follow(before, after)
    assert followed is None or followed.reliability < 0.8


def test_a_face_less_alike_than_asked_for_is_lost() -> None:
    before = textured(160, 200, seed=1)
    noise = np.random.default_rng(0).normal(0, 12, before.shape)
    after = np.clip(before + noise, 0, 255).astype(np.uint8)
    face = (landmarks_at(100, 80, SIZE), BOX)
    assert Follower().follow(before, after, *face) is not None
    assert Follower(FollowerConfig(min_likeness=0.999)).follow(before, after, *face) is None


def test_a_flat_picture_loses_the_face() -> None:
    flat = np.full((160, 200), 90, np.uint8)
    assert follow(flat, flat) is None


def test_a_face_outside_the_picture_is_lost() -> None:
    picture = textured(160, 200, seed=1)
    assert follow(picture, picture, landmarks_at(260, 80, SIZE)) is None
    assert follow(picture, picture, landmarks_at(np.nan, 80, SIZE)) is None


def test_equal_input_gives_equal_results() -> None:
    before, (after, _) = textured(160, 200, seed=3), moved(textured(160, 200, seed=3), x=3, angle=3)
    results = [follow(before, after) for _ in range(3)]
    assert all(r is not None and np.array_equal(r.landmarks, results[0].landmarks) for r in results)  # type: ignore[union-attr]


def test_pictures_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        follow(textured(160, 200, seed=1), textured(160, 100, seed=1))


def test_a_small_disagreement_corrects_a_little() -> None:
    carried = landmarks_at(100, 80, 40)
    corrected = Follower().correct(carried, carried + 1, 40).landmarks
    assert np.allclose(corrected - carried, FollowerConfig().correction, atol=1e-4)


def test_a_large_disagreement_believes_the_detection() -> None:
    carried = landmarks_at(100, 80, 40)
    assert np.allclose(Follower().correct(carried, carried + 12, 40).landmarks, carried + 12)


def test_correction_depends_on_size_on_screen() -> None:
    carried = landmarks_at(100, 80, 40)
    near = Follower().correct(carried, carried + 5, 200).landmarks - carried
    far = Follower().correct(carried, carried + 5, 20).landmarks - carried
    assert near.mean() < far.mean()


def corrections(shifts: Sequence[float]) -> list[float]:
    """How far a face is moved in all by detections that lie so far from where it was first seen."""
    start = landmarks_at(100, 80, 40)
    places, known = [start], ()
    for shift in shifts:
        corrected = Follower().correct(places[-1], start + np.float32(shift), 40, known)
        places.append(corrected.landmarks)
        known = corrected.disagreements
    return [float((place - start).mean()) for place in places[1:]]


def test_one_misled_detection_among_others_moves_nothing() -> None:
    # 5 of 40 pixels, as scratches and grain mislead the detector.
    assert np.abs(corrections([0, 0, 5, 0, 0, -5, 0])).max() < 0.1


def test_drift_that_all_detections_show_is_corrected() -> None:
    assert corrections([0, 0] + 8 * [5])[-1] > 4


@pytest.mark.parametrize("setting", [{"min_share": 1.5}, {"max_scale_change": 1.0}, {"correction": 0.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        FollowerConfig(**setting)  # type: ignore[arg-type]
