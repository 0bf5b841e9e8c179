"""What every detector keeps to. A new one joins by a line in `DETECTORS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import insightface
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from models.detector import CenterFaceDetector, InsightFaceDetector
from models.protocols import Detector

SCRFD = os.environ.get("ANCHORFACE_SCRFD")
DETECTORS: dict[str, Callable[[], Detector]] = {
    "centerface": lambda: CenterFaceDetector(threads=1),
    "insightface": lambda: InsightFaceDetector(str(SCRFD), input_size=384),
}


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param == "insightface" and not SCRFD:
        pytest.skip("ANCHORFACE_SCRFD names no SCRFD model")
    return DETECTORS[request.param]()


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    return np.asarray(data.astronaut(), np.uint8)


@pytest.fixture(scope="module")
def group() -> NDArray[np.uint8]:
    """Six people round a table; landmarks clear to the eye are in the tests."""
    picture_bgr = cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))
    return np.ascontiguousarray(picture_bgr[..., ::-1])


class TestDetector:
    def test_landmarks_come_in_the_agreed_order(
        self, detector: Detector, portrait: NDArray[np.uint8]
    ) -> None:
        (face,) = detector.detect(portrait)
        # Read off the picture by eye.
        seen = [[204, 102], [247, 104], [223, 128], [203, 142], [243, 144]]
        assert np.abs(face.landmarks - seen).max() < 6

    def test_every_face_of_a_group_is_found(self, detector: Detector, group: NDArray[np.uint8]) -> None:
        noses = np.array([f.landmarks[2] for f in detector.detect(group)])
        seen = [[121, 338], [303, 226], [512, 362], [774, 426], [920, 152], [1171, 345]]
        assert len(noses) == 6
        assert all(np.linalg.norm(noses - nose, axis=1).min() < 10 for nose in seen)

    def test_eyes_are_above_mouths_and_left_is_left(
        self, detector: Detector, group: NDArray[np.uint8]
    ) -> None:
        for face in detector.detect(group):
            eyes, mouth = face.landmarks[:2], face.landmarks[3:]
            assert eyes[0, 0] < eyes[1, 0]
            assert mouth[0, 0] < mouth[1, 0]
            assert eyes[:, 1].max() < mouth[:, 1].min()

    def test_best_score_comes_first_and_scores_are_shares(
        self, detector: Detector, group: NDArray[np.uint8]
    ) -> None:
        scores = [face.score for face in detector.detect(group)]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)

    def test_boxes_are_clipped_to_the_image(self, detector: Detector, portrait: NDArray[np.uint8]) -> None:
        cut = np.ascontiguousarray(portrait[85:, 195:])  # forehead and left cheek are outside
        for face in detector.detect(cut):
            assert (face.box[:2] >= 0).all()
            assert face.box[2] <= cut.shape[1] - 1
            assert face.box[3] <= cut.shape[0] - 1

    def test_positions_are_those_of_the_image_whatever_its_size(
        self, detector: Detector, portrait: NDArray[np.uint8]
    ) -> None:
        half = np.asarray(cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        (large,), (small,) = detector.detect(portrait), detector.detect(half)
        assert np.abs((small.landmarks + 0.5) * 2 - 0.5 - large.landmarks).max() < 5

    def test_an_image_without_faces_gives_none(self, detector: Detector) -> None:
        assert detector.detect(np.full((90, 160, 3), 127, np.uint8)) == []

    def test_one_detector_takes_images_of_any_shape(self, detector: Detector) -> None:
        for shape in [(64, 64), (33, 500), (500, 33), (1, 1), (181, 97)]:
            assert detector.detect(np.zeros((*shape, 3), np.uint8)) == []

    def test_the_image_is_not_changed(self, detector: Detector, portrait: NDArray[np.uint8]) -> None:
        before = portrait.copy()
        detector.detect(portrait)
        assert (portrait == before).all()

    @pytest.mark.parametrize(
        "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)]
    )
    def test_other_images_are_refused(self, detector: Detector, image: NDArray[np.uint8]) -> None:
        with pytest.raises(ValueError, match="uint8"):
            detector.detect(image)
