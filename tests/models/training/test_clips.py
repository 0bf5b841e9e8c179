"""Faces out of clips: which views are taken, how they are aligned, and the folder that they make."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.align import template
from models.protocols import Face
from models.training import clips
from models.training.clips import ClipView, clip_views, different_views, frames_of, view_of, write_faces
from models.training.dataset import load_faces
from support.clips import astronaut
from support.faces import face_at

EYES = np.array([[203.5, 107.5], [240.5, 107.5]])  # of the astronaut


class FixedDetector:
    """Finds the astronaut's face where it is."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        del image
        return [face_at(*face_centre(), size=38.0)]


def face_centre() -> tuple[float, float]:
    """Where the mean of the five landmarks lies in the astronaut picture."""
    return 223.0, 130.0


def write_moving_clip(path: Path, count: int = 20, moving: bool = True) -> Path:
    """The astronaut at 10 frames per second; each frame brighter on another side, as if the pose changed."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 512
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000
        for index in range(count):
            image = astronaut().copy()
            if moving:
                top = 90 + 4 * index
                image[top : top + 12, 180:270] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def view(crop: NDArray[np.uint8], sharpness: float = 0.3, seconds: float = 0.0) -> ClipView:
    return ClipView(crop, seconds, eye_px=60, true_px=128, yaw=0, sharpness=sharpness)


def looks(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [
        np.kron(random.integers(0, 256, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        for _ in range(count)
    ]


def test_frames_are_as_far_apart_as_asked(tmp_path: Path) -> None:
    path = write_moving_clip(tmp_path / "ada.mp4")
    assert [seconds for seconds, _ in frames_of(path, 0.5)] == pytest.approx([0, 0.5, 1.0, 1.5])
    frames = [frame for _, frame in frames_of(path, 0.5)]
    assert np.abs(frames[0].astype(int) - astronaut()).mean() > 1
    assert frames[2][134:140, 190:260].min() > 200


def test_landmarks_come_to_lie_on_the_template() -> None:
    frame = np.zeros((512, 512, 3), np.uint8)
    face = face_at(200, 220, size=150.0)
    for x, y in face.landmarks:
        cv2.circle(frame, (round(float(x)), round(float(y))), 5, (255, 255, 255), -1)
    for size in (512, 128):  # enlarging little, and reducing to a third
        crop, inside = clips.aligned(frame, face, size)
        for x, y in template(size):
            assert crop[round(float(y)), round(float(x))].min() > 120
        assert crop[0, 0].max() == 0
        assert 0.5 < inside <= 1


def test_true_size_is_the_side_of_the_crop_in_the_clip() -> None:
    found = view_of(astronaut(), FixedDetector().detect(astronaut()), 1.5, 512)
    assert found is not None
    side = 512 * 38 / 126  # the face of the test has 126 pixels between the eyes at 512
    assert found.true_px == int(side) // 32 * 32 == 128
    assert found.seconds == 1.5
    assert found.crop.shape == (512, 512, 3)


def test_a_face_larger_than_the_crop_is_true_to_the_crop() -> None:
    large = np.asarray(cv2.resize(astronaut(), (2048, 2048), interpolation=cv2.INTER_CUBIC), np.uint8)
    found = view_of(large, [FixedDetector().detect(large)[0].scaled(4)], 0, 256)
    assert found is not None
    assert found.true_px == 256


@pytest.mark.parametrize(
    "reason", ["no face", "unsure", "small", "blurred", "outside", "two people", "profile"]
)
def test_views_that_teach_nothing_are_left_out(reason: str) -> None:
    frame = astronaut()
    x, y = face_centre()
    found = {
        "no face": [],
        "unsure": [face_at(x, y, 38.0, score=0.5)],
        "small": [face_at(x, y, 20.0)],
        "blurred": [face_at(x, y, 38.0)],
        "outside": [face_at(5, 130, 38.0)],
        "two people": [face_at(x, y, 38.0), face_at(400, 300, 30.0)],
        "profile": [profile(face_at(x, y, 38.0))],
    }[reason]
    if reason == "blurred":
        frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 5), np.uint8)
    assert view_of(astronaut(), [face_at(x, y, 38.0)], 0, 256) is not None
    assert view_of(frame, found, 0, 256) is None


def profile(face: Face) -> Face:
    """`face` with its nose beside the far eye."""
    points = face.landmarks.copy()
    points[1] = points[0] + [14, 0]
    points[2] = points[0] + [34, 22]
    points[4] = points[3] + [12, 0]
    return Face(face.box, points, face.score)


def test_views_alike_are_taken_once_and_time_order_stays() -> None:
    first, second = looks(2)
    views = [view(first, 0.2, 0), view(first, 0.4, 1), view(second, 0.3, 2), view(second, 0.2, 3)]
    chosen = different_views(views, most=40)
    assert [item.seconds for item in chosen] == [1, 2]


def test_no_more_views_than_asked_and_the_sharpest_among_them() -> None:
    views = [view(crop, 0.5 if index == 3 else 0.3, index) for index, crop in enumerate(looks(8))]
    chosen = different_views(views, most=3)
    assert len(chosen) == 3
    assert 3 in [item.seconds for item in chosen]


def test_blurred_moments_of_a_clip_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_moving_clip(tmp_path / "ada.mp4")
    values = iter([0.5, 0.2, 0.5, 0.45])
    monkeypatch.setattr(clips, "sharpness", lambda _: next(values))
    views = clip_views(path, FixedDetector(), 0.5, 256, most=40)
    assert [item.seconds for item in views] == pytest.approx([0, 1.0, 1.5])


def test_the_folder_is_read_as_training_faces(tmp_path: Path) -> None:
    paths = [write_moving_clip(tmp_path / f"{name}.mp4") for name in ("ada", "eve")]
    count = write_faces(paths, tmp_path / "out", FixedDetector(), 0.5, 256, 40)
    faces = load_faces(tmp_path / "out", 256, tmp_path / "cache")
    assert len(faces.pictures) == count >= 4
    assert set(faces.identities) == {"ada", "eve"}
    assert set(faces.true_px.tolist()) == {128}
    found = view_of(next(frames_of(paths[0], 0.5))[1], FixedDetector().detect(astronaut()), 0, 256)
    assert found is not None
    assert any(np.array_equal(picture, found.crop) for picture in faces.pictures)


def test_a_file_that_is_no_clip_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ada.mp4").write_bytes(b"no clip")
    with pytest.raises(ValueError, match=r"ada\.mp4: cannot be read as a clip"):
        list(frames_of(tmp_path / "ada.mp4", 0.5))


def test_missing_decord_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match="pip install decord"):
        list(frames_of(tmp_path / "ada.mp4", 0.5))


def test_an_empty_folder_ends_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["clips", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="no clips found"):
        clips.main()


def test_points_of_the_test_face_are_where_it_is_said() -> None:
    face = FixedDetector().detect(astronaut())[0]
    assert np.allclose(face.landmarks.mean(0), face_centre(), atol=0.5)
    assert np.abs(face.landmarks[:2] - EYES).max() < 12
