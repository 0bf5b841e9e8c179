"""Faces are found in several sizes, and a doubtful find needs another one that agrees."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from models.align import crop_matrix, transform
from models.degradation.stills import SEVERE, preset_sample
from models.detection import Find, agreed, levels, look_at_all_sizes, look_closely, look_once
from models.detector import CenterFaceDetector
from models.protocols import Face
from support.faces import face_at
from support.portraits import ASTRONAUT_LANDMARKS


class Doubtful:
    """Finds one face in the middle, with a score for each width of the picture that it sees."""

    min_score = 0.5
    size = 1 / 4
    """Distance of the eyes in widths of the picture."""

    def __init__(self, scores: dict[int, float], shifts: dict[int, float] | None = None) -> None:
        self.scores, self.shifts = scores, shifts or {}

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return self.candidates(image, self.min_score)

    def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
        width = image.shape[1]
        score = self.scores.get(width, 0.0)
        middle, shift = (width - 1) / 2, self.shifts.get(width, 0.0) * width
        face = face_at(middle + shift, middle, size=width * self.size, score=score)
        return [face] if score >= min_score else []


BLANK = np.zeros((512, 512, 3), np.uint8)


def sure(finds: Sequence[Find]) -> list[Face]:
    return [find.face for find in finds if find.sure]


@pytest.fixture(scope="module")
def detector() -> CenterFaceDetector:
    return CenterFaceDetector(threads=1)


def test_a_blurred_face_that_fills_the_picture_is_found(detector: CenterFaceDetector) -> None:
    matrix = crop_matrix(ASTRONAUT_LANDMARKS, 512)
    portrait = cv2.warpAffine(astronaut(), matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
    blurred = preset_sample(np.asarray(portrait, np.uint8), 1, SEVERE, 0.9)
    assert detector.detect(blurred) == []
    (face,) = sure(look_at_all_sizes(detector, blurred))
    assert np.linalg.norm(face.landmarks - transform(matrix, ASTRONAUT_LANDMARKS), axis=1).mean() < 0.08 * 512


def test_a_face_is_found_under_grain_and_specks(detector: CenterFaceDetector) -> None:
    small = cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    errors = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        grainy = np.clip(small + random.normal(0, 100, small.shape), 0, 255)
        grainy[random.random((256, 256)) < 0.2] = 255
        picture = grainy.astype(np.uint8)
        if seed == 0:
            assert sure(look_at_all_sizes(detector, picture)) == []
        (face,) = sure(look_closely(detector, picture))
        errors.append(np.abs(face.landmarks - (ASTRONAUT_LANDMARKS + 0.5) / 2 + 0.5).max())
    assert np.median(errors) < 8


def test_a_single_doubtful_find_does_not_count() -> None:
    assert sure(look_at_all_sizes(Doubtful({128: 0.4}), BLANK)) == []


def test_two_doubtful_finds_that_agree_count() -> None:
    (face,) = sure(look_at_all_sizes(Doubtful({128: 0.4, 64: 0.3}), BLANK))
    assert face.score == pytest.approx(0.4)


def test_two_doubtful_finds_at_different_places_do_not_count() -> None:
    assert sure(look_at_all_sizes(Doubtful({128: 0.4, 64: 0.4}, shifts={64: 0.2}), BLANK)) == []


def test_a_smoothed_look_may_be_the_one_that_agrees() -> None:
    # 152 pixels is a size between those of the plain looks.
    assert sure(look_closely(Doubtful({128: 0.4}), BLANK)) == []
    assert len(sure(look_closely(Doubtful({128: 0.4, 152: 0.3}), BLANK))) == 1


def test_doubtful_finds_of_few_pixels_have_no_vote() -> None:
    class Small(Doubtful):
        size = 1 / 20

    assert sure(look_at_all_sizes(Small({256: 0.4, 181: 0.4}), BLANK)) == []
    assert len(sure(look_at_all_sizes(Small({512: 0.4, 256: 0.4}), BLANK))) == 1


def test_more_votes_may_be_asked_for() -> None:
    detector = Doubtful({128: 0.4, 64: 0.3})
    assert sure(look_at_all_sizes(detector, BLANK, votes=3)) == []


def test_a_sure_find_counts_alone() -> None:
    assert len(sure(look_at_all_sizes(Doubtful({128: 0.6}), BLANK))) == 1


def test_one_face_in_many_sizes_is_one_with_the_landmarks_of_the_size_that_is_liked() -> None:
    # Distance of the eyes: 128 pixels in the largest level, 32 in the one of 128.
    detector = Doubtful({512: 0.9, 128: 0.8, 64: 0.7}, shifts={512: 0.02, 64: -0.02})
    (find,) = look_at_all_sizes(detector, BLANK)
    assert find.face.landmarks[:, 0].mean() == pytest.approx(255.5, abs=0.01)
    assert find.face.score == pytest.approx(0.9)


def test_of_two_faces_at_one_place_the_surer_is_kept() -> None:
    def find(x: float, score: float) -> Find:
        return Find(face_at(x, 100, score=score), sure=True, level_px=40)

    assert [kept.face.score for kept in agreed([[find(100, 0.7), find(125, 0.8), find(300, 0.6)]])] == [
        0.8,
        0.6,
    ]


def test_halved_looks_find_large_faces_that_are_expected() -> None:
    assert sure(look_once(Doubtful({128: 0.9}), BLANK)) == []
    assert len(sure(look_once(Doubtful({128: 0.9}), BLANK, halvings=[2]))) == 1


def test_a_detector_that_knows_no_doubt_is_believed() -> None:
    class Plain:
        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            return [face_at(image.shape[1] / 2, image.shape[0] / 2, image.shape[1] / 4, score=0.1)]

    assert len(sure(look_at_all_sizes(Plain(), BLANK))) == 1


def test_all_smaller_levels_together_cost_less_than_the_largest() -> None:
    first, *smaller = (level.shape[0] * level.shape[1] for level in levels(np.zeros((432, 768, 3), np.uint8)))
    assert sum(smaller) < first / 2
