"""The measurement behind the gate's thresholds, on people out of thin air."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

import configs
from models.evaluation import gate
from models.evaluation.faces import PRESETS, Cache
from models.evaluation.gate import ANCHORS, CLEAN, HALF, OTHER, RESTORED, Losses
from pipeline.config import PipelineConfig
from support.clips import astronaut


def person(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Two views of one person, uint8 (512, 512, 3)."""
    return [np.ascontiguousarray(np.roll(picture, shift, axis=1)) for shift in (0, 6)]


@pytest.fixture(scope="module")
def measured() -> list[Losses]:
    return gate.measure([person(astronaut()), person(astronaut()[::-1])], None, Cache(None))


def test_each_damage_anchor_and_result_is_measured_on_each_face(measured: list[Losses]) -> None:
    kinds = {(row.damage, row.anchor, row.result) for row in measured}
    assert kinds == {(d, a, r) for d in PRESETS for a in ANCHORS for r in (RESTORED, CLEAN, HALF, OTHER)}
    assert all(row.values.shape == (4,) for row in measured)


def test_another_person_loses_more_than_a_restoration(measured: list[Losses]) -> None:
    losses = {(row.damage, row.anchor, row.result): float(np.median(row.values)) for row in measured}
    for anchor in ANCHORS:
        restored, other = (losses["moderate", anchor, result] for result in (RESTORED, OTHER))
        assert restored < losses["moderate", anchor, HALF]
        assert restored + 0.1 < other


def test_the_table_tells_how_many_the_gate_holds_back() -> None:
    row = Losses("moderate", "no reference", OTHER, np.array([0.1, 0.25, 0.3, 0.5]))
    assert gate.table([row], (0.35, 0.2)).endswith("| 25% | 50% | 25% |")


def test_the_drawing_has_a_line_for_each_result_and_a_panel_for_each_anchor(measured: list[Losses]) -> None:
    drawing = ElementTree.fromstring(gate.drawing(measured, (0.35, 0.2)))
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(measured) == 24
    assert len(drawing.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 2 * 6


def test_the_thresholds_drawn_are_the_ones_of_the_pipeline() -> None:
    assert gate._thresholds() == PipelineConfig().gate.loss
    assert configs.load(PipelineConfig, None, ["gate.loss=[0.5, 0.1]"]).gate.loss == (0.5, 0.1)


def test_one_person_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.csv").write_text("file,identity,origin,true_px\n")
    monkeypatch.setattr("sys.argv", ["gate", "--pairs", str(tmp_path)])
    with pytest.raises(SystemExit, match="two people with two pictures each"):
        gate.main()
