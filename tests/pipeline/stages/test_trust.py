"""Strength eases where a face cannot be trusted, and never pops."""

from __future__ import annotations

import numpy as np
import pytest

from models.protocols import Face
from pipeline.stages.trust import FULL, LOST, Trust, TrustConfig, ease, trust
from support.fakes import square_landmarks

CONFIG = TrustConfig()


def face(side: float = 120, turn: float = 0.0) -> Face:
    """A frontal face `side` pixels wide; `turn` moves the nose towards one eye, as a turned head does."""
    box = np.array([50, 50, 50 + side, 50 + side], np.float32)
    landmarks = square_landmarks(box)
    landmarks[2, 0] += turn * (landmarks[1, 0] - landmarks[0, 0])
    return Face(box, landmarks, 0.9)


def value(shown: Face, reliability: float = 1.0, missed: int = 0, clarity: float = 1.0) -> Trust:
    return trust(shown, reliability=reliability, missed=missed, clarity=clarity, config=CONFIG)


def test_a_clear_frontal_face_is_trusted_fully() -> None:
    assert value(face()) == FULL


@pytest.mark.parametrize(
    ("doubtful", "reason"),
    [
        (value(face(side=14)), "small"),
        (value(face(turn=1.2)), "profile"),
        (value(face(), reliability=0.2), "lost"),
        (value(face(), clarity=0.3), "covered"),
    ],
)
def test_each_cause_takes_trust_to_nothing_and_is_named(doubtful: Trust, reason: str) -> None:
    assert doubtful.value == 0
    assert doubtful.reason == reason


def test_a_face_that_a_detection_missed_is_half_trusted() -> None:
    assert value(face(), missed=1) == Trust(0.5, "covered")


def eased(values: list[Trust | None]) -> list[float]:
    return [ease(values, at, 4).value for at in range(len(values))]


def test_strength_has_come_down_when_the_cause_appears_and_moves_in_small_steps() -> None:
    values: list[Trust | None] = [FULL] * 20 + [Trust(0.0, "covered")] * 3 + [FULL] * 20
    strengths = eased(values)
    assert strengths[20:23] == [0, 0, 0]
    assert strengths[0] == strengths[-1] == 1
    assert max(np.abs(np.diff(strengths))) <= 1 / 9 + 1e-9


def test_a_lone_good_frame_does_not_flash() -> None:
    values: list[Trust | None] = [LOST] * 10 + [FULL] + [LOST] * 10
    assert max(eased(values)) == 0


def test_a_face_that_enters_within_a_shot_fades_in() -> None:
    strengths = eased([None] * 10 + [FULL] * 20)
    assert strengths[10] < 0.2
    assert strengths[-1] == 1
    assert all(np.diff(strengths[10:]) >= 0)


def test_the_ends_of_a_shot_need_no_fade() -> None:
    assert eased([FULL] * 12) == [1.0] * 12


def test_without_easing_each_frame_stands_for_itself() -> None:
    assert ease([FULL, None, FULL], 1, 0) == LOST
    assert ease([FULL, None, FULL], 2, 0) == FULL
