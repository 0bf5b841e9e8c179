"""Faces are sought with the effort that the moment asks for; faces that lie are found standing."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from models.detector import CenterFaceDetector
from models.protocols import Detector, Face
from pipeline.frames import Frame
from pipeline.pixels.colour import read_crop
from pipeline.pixels.geometry import Geometry
from pipeline.stages.perception import Perception, PerceptionConfig
from pipeline.stages.search import SearchDepth, find_faces
from support.faces import face_at, textured
from support.fakes import ColourRecogniser
from trackers.people import People, PeopleConfig
from trackers.shots import ShotDetector
from trackers.tracks import NorfairTracker

SIDE = 512
LANDMARKS = np.array([[204, 102], [247, 104], [223, 128], [203, 142], [243, 144]], np.float32)
"""Of the astronaut, by eye."""


def frame_of(picture: NDArray[np.uint8], index: int = 0) -> Frame:
    native = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="gbrp")
    native.pts, native.time_base = index, Fraction(1, 25)
    return Frame(index, index, Fraction(1, 25), native)


def turned(quarters: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The astronaut turned counter-clockwise, and the landmarks."""
    picture, points = np.asarray(astronaut(), np.uint8), LANDMARKS
    for _ in range(quarters):
        picture, points = np.rot90(picture), np.stack([points[:, 1], SIDE - 1 - points[:, 0]], 1)
    return np.ascontiguousarray(picture), points


def perception(detector: Detector, config: PerceptionConfig) -> Perception:
    return Perception(
        config,
        detector=detector,
        recogniser=ColourRecogniser(),
        tracker=NorfairTracker(),
        shots=ShotDetector(),
        people=People(PeopleConfig(min_similarity=0.9)),
        crop_size=64,
    )


class Nobody:
    """Finds nothing, and notes the pixels of each picture that it sees."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        self.seen.append(image.shape[0] * image.shape[1])
        return []


class Upright:
    """Finds a face only where the brightest quarter of the picture is the one at the top left."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        quarters = [image[y : y + height, x : x + width].mean() for y in (0, height) for x in (0, width)]
        return [face_at(width / 2, height / 2, size=width / 4)] if max(quarters) == quarters[0] > 0 else []


class EitherWay:
    """Finds one face in a turned picture, and sees it upside down as well, less surely."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = image.shape[:2]
        if width >= height:
            return []
        brighter_left = image[:, : width // 2].mean() > image[:, width // 2 :].mean()
        return [face_at(width / 2, height / 2, size=width / 4, score=0.9 if brighter_left else 0.6)]


class Doubts:
    """Finds one doubtful face, at one place of a picture of 384 pixels."""

    min_score = 0.5

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return []

    def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
        return [face_at(200, 150, score=0.3)] if image.shape[1] == 384 and min_score <= 0.3 else []


@pytest.fixture(scope="module")
def centerface() -> CenterFaceDetector:
    return CenterFaceDetector(threads=1)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("geometry", [Geometry(), Geometry(90)], ids=["as it is", "shown turned"])
def test_a_face_on_its_side_is_found_so_that_its_crop_stands(
    centerface: CenterFaceDetector, quarters: int, geometry: Geometry
) -> None:
    picture, landmarks = turned(quarters)
    native = frame_of(picture).native
    (face,) = find_faces(native, centerface, geometry, SIDE, SearchDepth.THOROUGH)
    assert np.abs(face.landmarks - landmarks).max() < 8
    crop, upright = (
        read_crop(native_, Geometry().crop_matrix(points, 128), 128).float().numpy()
        for native_, points in ((native, face.landmarks), (frame_of(turned(0)[0]).native, LANDMARKS))
    )
    assert np.corrcoef(crop.ravel(), upright.ravel())[0, 1] > 0.8


def test_a_face_on_its_side_is_followed_and_found_again(centerface: CenterFaceDetector) -> None:
    picture, landmarks = turned(1)
    wide = np.zeros((SIDE, SIDE + 120, 3), np.uint8)
    looking = perception(centerface, PerceptionConfig(detect_every=4, patience=1))
    for index in range(14):
        wide[:, 4 * index : 4 * index + SIDE] = picture
        seen = looking.look(frame_of(wide, index))
        (sighting,) = seen.sightings.values()
        assert np.abs(sighting.face.landmarks - landmarks - (4 * index, 0)).max() < 10
        assert sighting.missed == 0


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_face_that_only_a_turned_picture_shows_is_found(quarters: int) -> None:
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[:200, :200] = 200
    native = frame_of(np.ascontiguousarray(np.rot90(picture, quarters))).native
    found = [
        find_faces(native, Upright(), Geometry(), 400, effort)
        for effort in (SearchDepth.THOROUGH, SearchDepth.GLANCE)
    ]
    assert [len(faces) for faces in found] == [1, int(quarters == 0)]
    assert Geometry().turn_of(found[0][0].landmarks) == (360 - 90 * quarters) % 360


@pytest.mark.parametrize(("bright", "turn"), [(np.s_[:150], 90), (np.s_[150:], 270)])
def test_a_face_that_two_turned_pictures_show_is_one_the_surer(bright: slice, turn: int) -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[bright] = 200
    (face,) = find_faces(frame_of(picture).native, EitherWay(), Geometry(), 400, SearchDepth.THOROUGH)
    assert (Geometry().turn_of(face.landmarks), face.score) == (turn, 0.9)


def test_a_doubtful_find_counts_where_a_face_is_known() -> None:
    native = frame_of(np.zeros((300, 384, 3), np.uint8)).native
    sought = [
        find_faces(native, Doubts(), Geometry(), 384, SearchDepth.GLANCE, known)
        for known in ([], [face_at(203, 152)], [face_at(260, 150)])
    ]
    assert [len(faces) for faces in sought] == [0, 1, 0]


def looked_at(frames: int, config: PerceptionConfig) -> list[int]:
    """Pixels that a detector sees while it finds nothing in a shot of so many frames."""
    still = np.repeat(textured(180, 320, seed=1)[..., None], 3, 2)
    detector = Nobody()
    looking = perception(detector, config)
    for index in range(frames):
        looking.look(frame_of(still, index))
    return detector.seen


def test_a_shot_without_faces_costs_little_more_than_plain_looks() -> None:
    every_frame = PerceptionConfig(detect_every=1, detect_width=160, search_width=320)
    plain = looked_at(
        400, PerceptionConfig(detect_every=1, detect_width=160, search_width=320, thorough=False)
    )
    thorough = looked_at(400, every_frame)
    assert sum(thorough) < 1.3 * sum(plain)
    # Six times at all sizes, smooth and turned in the first hundred frames, and seldom after that.
    searches = [len(looked_at(frames, every_frame)) - frames for frames in (100, 200, 400)]
    assert searches[2] - searches[1] <= 2 * (searches[1] - searches[0]) + 80


@pytest.mark.parametrize("thorough", [True, False])
def test_the_thorough_search_can_be_left_out(thorough: bool) -> None:
    assert (len(looked_at(1, PerceptionConfig(thorough=thorough))) > 1) == thorough


def test_the_rhythm_between_searches_is_one_look(centerface: CenterFaceDetector) -> None:
    calls: list[int] = []

    class Counted:
        min_score = 0.5

        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            return centerface.detect(image)

        def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
            calls.append(image.shape[1])
            return centerface.candidates(image, min_score)

    looking = perception(Counted(), PerceptionConfig(detect_every=1, search_every=5))
    picture = cv2.resize(astronaut(), (384, 384), interpolation=cv2.INTER_AREA)
    counts: Sequence[int] = []
    for index in range(5):
        looking.look(frame_of(np.asarray(picture, np.uint8), index))
        counts = [*counts, len(calls)]
        calls.clear()
    assert list(counts[1:]) == [1, 1, 1, 1]
