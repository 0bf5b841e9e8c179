"""What the evaluation keeps, draws and writes, and its way from folders to a report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch

from models.degradation.stills import MODERATE, SEVERE
from models.evaluation import __main__ as evaluate
from models.evaluation import faces, meter, restoration
from models.evaluation.encoder import write_norm_plot
from models.evaluation.faces import Cache, degraded, key_of, write_sheet
from models.evaluation.measures import Judge
from models.evaluation.meter import Meter
from models.pictures import Picture
from models.recogniser import EmbeddedRecogniser
from support.clips import astronaut
from support.evaluation import evaluate_with, folder_of_faces


def test_the_way_from_folders_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = str(folder_of_faces(tmp_path / "pairs"))
    words = ["--faces", pairs, "--pairs", pairs, "--clip-faces", pairs, "--count", "2", "--only", "encoder"]
    words += ["--json", str(tmp_path / "report.json"), "--plots", str(tmp_path)]
    evaluate_with(monkeypatch, *words)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [row["views"] for row in report["verification"]] == 2 * ["clean", "moderate", "severe"]
    assert report["encoder"]["norm, worst"] < report["encoder"]["norm, clean"]
    assert (tmp_path / "encoder_norm.svg").exists()


def test_degraded_pictures_come_back_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [astronaut(), astronaut()[::-1]]
    first = degraded(sources, MODERATE, 7, Cache(tmp_path))

    def never(*_: object) -> Picture:
        raise AssertionError("degraded again")

    monkeypatch.setattr(faces, "preset_sample", never)
    again = degraded(sources, MODERATE, 7, Cache(tmp_path))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for preset, seed in ((SEVERE, 7), (MODERATE, 8)):
        with pytest.raises(AssertionError, match="degraded again"):
            degraded(sources[:1], preset, seed, Cache(tmp_path))


def test_a_key_tells_content_shape_and_type_apart() -> None:
    zeros = np.zeros((2, 3), np.uint8)
    keys = {
        key_of("a", zeros),
        key_of("b", zeros),
        key_of("a", zeros.T),
        key_of("a", zeros.view(np.int8)),
        key_of("a", zeros + 1),
        key_of("a", restoration),
        key_of("a", evaluate),
    }
    assert len(keys) == 7
    assert key_of("a", zeros) == key_of("a", zeros.copy())


def test_a_second_measurement_reads_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [np.asarray(cv2.resize(astronaut(), (256, 256)), np.uint8)]
    kinds = {"blurred": [np.asarray(cv2.blur(targets[0], (5, 5)), np.uint8)]}
    recogniser = EmbeddedRecogniser()
    first = Meter(recogniser, None, Cache(tmp_path), judge=False).measure(targets, kinds)
    monkeypatch.setattr(meter.measures, "ssim", lambda *_: pytest.fail("measured again"))
    second = Meter(recogniser, None, Cache(tmp_path), judge=False).measure(targets, kinds)
    assert second["blurred"].ssim == first["blurred"].ssim
    assert 0.5 < first["blurred"].ssim[0] < 0.99


def test_the_judge_describes_each_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dlib")
    targets = [
        np.asarray(cv2.resize(image, (256, 256)), np.uint8) for image in (astronaut(), astronaut()[::-1])
    ]
    judge = Judge(Cache(tmp_path))
    both = judge.describe(targets, targets)
    assert both.shape == (2, 128)
    fresh = Judge(Cache(tmp_path))
    monkeypatch.setattr(fresh, "_chip", lambda *_: pytest.fail("described again"))
    assert np.array_equal(fresh.describe(targets[::-1], targets[::-1]), both[::-1])


def test_a_sheet_has_a_column_for_each_kind_below_its_label(tmp_path: Path) -> None:
    kinds = {
        "red": [np.full((64, 64, 3), (200, 0, 0), np.uint8)] * 5,
        "blue": [np.full((64, 64, 3), (0, 0, 200), np.uint8)] * 5,
    }
    write_sheet(tmp_path / "sheet.png", kinds, rows=3)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert sheet.shape[1] == 128
    label_px = sheet.shape[0] - 3 * 64
    assert sheet[:label_px].min() == 0
    assert sheet[:label_px].max() == 255
    assert (sheet[label_px:, :64] == (200, 0, 0)).all()
    assert (sheet[label_px:, 64:] == (0, 0, 200)).all()


def test_a_sheet_in_a_missing_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        write_sheet(tmp_path / "missing" / "sheet.png", {"one": [np.zeros((8, 8, 3), np.uint8)]}, rows=1)


def test_the_plot_draws_falling_norms_downwards(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(30, 3, 8, generator=generator) * torch.tensor([3.0, 2.0, 1.0])[None, :, None]
    write_norm_plot(tmp_path / "norm.svg", steps, ["clean", "a < b", "worst"])
    root = ElementTree.parse(tmp_path / "norm.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert {"clean", "a < b", "worst"} <= {text.text for text in root.iter(f"{space}text")}
    assert len(list(root.iter(f"{space}circle"))) == 60
    points = next(root.iter(f"{space}polyline")).attrib["points"].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]
