"""Tracks through a whole stage: bright squares stand for faces, colours for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.protocols import Face
from pipeline.frames import Frame, TrackedFrame
from pipeline.stages.perception import Perception, PerceptionConfig
from pipeline.stages.track import TrackConfig, track
from pipeline.stages.trust import TrustConfig
from support.fakes import ColourRecogniser, SquareDetector
from support.squares import picture
from trackers.people import People, PeopleConfig
from trackers.shots import ShotConfig, ShotDetector
from trackers.tracks import NorfairTracker, TrackerConfig

RED, BLUE = (255, 60, 60), (60, 60, 255)


def clip(pictures: Sequence[NDArray[np.uint8]]) -> list[Frame]:
    frames = []
    for index, image in enumerate(pictures):
        native = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv444p")
        native.pts, native.time_base = index, Fraction(1, 25)
        frames.append(Frame(index, index, Fraction(1, 25), native))
    return frames


def perception(detector: SquareDetector | None = None) -> Perception:
    recogniser = ColourRecogniser()
    return Perception(
        # A thorough search sees smaller pictures as well, in which squares are less exact than faces.
        PerceptionConfig(detect_every=5, detect_width=320, search_width=320, thorough=False),
        detector=detector or SquareDetector(),
        recogniser=recogniser,
        tracker=NorfairTracker(TrackerConfig()),
        shots=ShotDetector(ShotConfig()),
        people=People(PeopleConfig(min_similarity=recogniser.same_person)),
        crop_size=64,
    )


TRACK = TrackConfig(lookahead=12, trust=TrustConfig(yaw_degrees=(179.0, 178.0), clarity=(0.1, 0.2)))


def tracked(pictures: Sequence[NDArray[np.uint8]], config: TrackConfig = TRACK) -> list[TrackedFrame]:
    return list(track(clip(pictures), perception(), config, crops=True))


def moving(
    start: float, step: float, count: int, colour: tuple[int, int, int], ground: int = 0
) -> list[NDArray[np.uint8]]:
    return [picture([(start + step * n, 60, colour)], ground) for n in range(count)]


@pytest.mark.parametrize("lookahead", [0, 5, 12, 200])
def test_every_frame_leaves_once_in_order(lookahead: int) -> None:
    frames = clip(moving(40, 2, 20, RED))
    left = list(track(frames, perception(), replace(TRACK, lookahead=lookahead), crops=True))
    assert [frame.frame for frame in left] == frames


def test_a_face_is_followed_between_detections() -> None:
    detector = SquareDetector()
    left = list(track(clip(moving(40, 3, 30, RED)), perception(detector), TRACK, crops=True))
    assert detector.calls <= 8
    assert [len(frame.faces) for frame in left] == [1] * 30
    assert len({face.track_id for frame in left for face in frame.faces}) == 1
    for index, frame in enumerate(left):
        centre = frame.faces[0].face.landmarks.mean(0)
        first = left[0].faces[0].face.landmarks.mean(0)
        assert abs(centre[0] - first[0] - 3 * index) < 2.5


def test_crop_shows_the_face() -> None:
    face = tracked(moving(40, 2, 10, RED))[5].faces[0]
    middle = face.crop[:, 20:44, 20:44].float().mean((1, 2))
    assert middle[0] > 200
    assert middle[2] < 90


def test_a_person_who_returns_after_a_cut_keeps_the_identity_and_the_references() -> None:
    shots = moving(40, 2, 15, RED) + moving(200, -2, 15, BLUE, ground=1) + moving(120, 1, 15, RED, ground=0)
    left = tracked(shots)
    people = [frame.faces[0].person_id for frame in left if frame.faces]
    assert people[:15] == [people[0]] * 15
    assert people[15:30] == [people[15]] * 15
    assert people[15] != people[0]
    assert people[30:] == [people[0]] * 15
    tracks = [frame.faces[0].track_id for frame in left]
    assert len({tracks[0], tracks[20], tracks[40]}) == 3
    assert len(left[30].faces[0].references) > 0


def test_two_people_in_one_frame_are_two_people() -> None:
    left = tracked([picture([(30 + n, 60, RED), (230 - n, 60, BLUE)]) for n in range(20)])
    assert all(len(frame.faces) == 2 for frame in left)
    assert len({face.person_id for frame in left for face in frame.faces}) == 2


def test_references_reach_frames_before_the_view_that_gave_them() -> None:
    """With look-ahead the set is filled ahead of the frames that use it."""
    pictures = moving(40, 2, 30, RED)
    pictures[:8] = [cv2.GaussianBlur(p, (0, 0), 3) for p in pictures[:8]]
    with_lookahead, without = tracked(pictures), tracked(pictures, replace(TRACK, lookahead=0))
    assert with_lookahead[0].faces[0].references.version > without[0].faces[0].references.version


def test_landmarks_do_not_jitter_on_a_still_face() -> None:
    still = [np.clip(p.astype(int) + np.random.default_rng(n).integers(-9, 10, p.shape), 0, 255).astype(np.uint8)
             for n, p in enumerate(moving(100, 0, 30, RED))]  # fmt: skip
    left = tracked(still)
    positions = np.stack([frame.faces[0].face.landmarks for frame in left])
    assert np.abs(np.diff(positions, axis=0)).max() < 0.35


def test_strength_fades_when_a_face_disappears_within_a_shot() -> None:
    pictures = moving(100, 0, 30, RED) + [picture([]) for _ in range(30)]
    left = tracked(pictures)
    strengths = [frame.faces[0].strength if frame.faces else 0.0 for frame in left]
    assert strengths[10] == 1
    assert max(np.abs(np.diff(strengths))) < 0.25
    assert strengths[45] == 0


def test_a_black_and_white_shot_is_told_from_a_coloured_one() -> None:
    grey = [np.repeat(p.mean(-1, keepdims=True), 3, -1).astype(np.uint8) for p in moving(40, 2, 12, RED)]
    left = tracked(grey + moving(40, 2, 12, RED, ground=1))
    assert [frame.monochrome for frame in left] == [True] * 12 + [False] * 12


def test_without_crops_nothing_is_cut_out() -> None:
    left = list(track(clip(moving(40, 2, 10, RED)), perception(), TRACK, crops=False))
    assert all(face.crop.numel() == 0 for frame in left for face in frame.faces)
    assert sum(len(frame.faces) for frame in left) == 10


def test_the_same_clip_gives_the_same_tracks() -> None:
    def facts(frames: list[TrackedFrame]) -> list[tuple[int, int | None, float, float]]:
        return [
            (f.track_id, f.person_id, f.strength, float(f.matrix.sum()))
            for frame in frames
            for f in frame.faces
        ]

    pictures = moving(40, 2, 20, RED)
    first, second = tracked(pictures), tracked(pictures)
    assert facts(first) == facts(second)
    assert all(
        torch.equal(a.crop, b.crop)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x.faces, y.faces, strict=True)
    )


def test_a_face_covered_for_a_moment_is_bridged() -> None:
    pictures = moving(60, 2, 40, RED)
    for index in (17, 18, 19):
        pictures[index] = picture([])
    left = tracked(pictures)
    assert [len(frame.faces) for frame in left] == [1] * 40
    assert len({frame.faces[0].track_id for frame in left}) == 1
    centres = np.array([frame.faces[0].face.landmarks.mean(0)[0] for frame in left])
    assert np.abs(np.diff(centres) - 2).max() < 2


def test_black_frames_before_a_scene_in_colour_do_not_make_it_black_and_white() -> None:
    black = np.zeros((180, 320, 3), np.uint8)
    left = tracked([black] * 20 + moving(40, 2, 20, RED))
    assert not any(frame.monochrome for frame in left[20:])


class MisledDetector(SquareDetector):
    """Sees the fourth time what is not there: every landmark an eighth of the eyes' distance off."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        faces = super().detect(image)
        off = np.float32(0.125 * faces[0].eye_distance_px if self.calls == 4 else 0)
        return [replace(face, landmarks=face.landmarks + off) for face in faces]


def test_one_misled_detection_does_not_make_landmarks_jump() -> None:
    pictures = moving(60, 1, 40, RED)
    misled, sound = (
        list(track(clip(pictures), perception(detector), TRACK, crops=False))
        for detector in (MisledDetector(), SquareDetector())
    )
    for here, there in zip(misled, sound, strict=True):
        [face], [known] = here.faces, there.faces
        shift = np.linalg.norm(face.face.landmarks - known.face.landmarks, axis=1).max()
        assert shift < 0.02 * known.face.eye_distance_px


def test_black_and_white_is_decided_for_each_shot_of_a_mixed_film() -> None:
    colour = moving(60, 1, 12, RED)
    grey = [np.repeat(image.mean(-1, keepdims=True), 3, 2) for image in moving(60, 1, 12, BLUE, ground=1)]
    toned = [np.clip(image * (1.05, 0.95, 0.75), 0, 255) for image in grey]
    other = moving(60, 1, 12, BLUE, ground=2)
    film = [*colour, *(image.astype(np.uint8) for image in grey), *other]
    film += [image.astype(np.uint8)[::-1].copy() for image in toned]
    frames = tracked(film)
    assert [frame.shot for frame in frames] == 12 * [0] + 12 * [1] + 12 * [2] + 12 * [3]
    assert [frame.monochrome for frame in frames] == 12 * [False] + 12 * [True] + 12 * [False] + 12 * [True]
