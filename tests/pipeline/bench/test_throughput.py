"""The table of the cost of each way of restoring."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from models.detector import CenterFaceDetector
from pipeline.bench.throughput import MOST_FACES, table, ways, write_faces


def test_the_clip_shows_as_many_faces_as_it_should(tmp_path: Path) -> None:
    write_faces(tmp_path / "all.mp4", MOST_FACES, 2)
    with av.open(str(tmp_path / "all.mp4")) as container:
        frame = next(container.decode(video=0))
    assert isinstance(frame, av.VideoFrame)
    found = CenterFaceDetector().detect(frame.to_ndarray(format="rgb24"))
    assert len(found) == MOST_FACES
    assert min(float(np.hypot(*(face.landmarks[0] - face.landmarks[1]))) for face in found) > 30


def test_the_table_and_its_copy_for_programs_tell_each_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [way for way in ways() if way.faces == 1 and way.name in ("plain transcode", "fast")]
    table(1, 6, ["detector.min_score=0.4"], tmp_path / "bench.json", chosen)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("| way | faces | frames/s")
    assert len({line.count("|") for line in told if line.startswith("|")}) == 1
    written = json.loads((tmp_path / "bench.json").read_text())
    plain, fast = written["rows"]
    assert (plain["name"], plain["faces_per_second"]) == ("plain transcode", 0)
    assert fast["faces_per_second"] == pytest.approx(fast["frames_per_second"], rel=0.3)
    assert 0 < fast["network_share"] <= 1
    assert set(fast["stage_ms"]) == {"decode", "track", "restore", "gate", "blend", "encode"}
    assert fast["processor_ms"] > 1
    assert fast["peak_mib"] > 100
    assert {"cores", "torch", "precision", "rounds"} <= set(written["machine"])


def test_every_way_that_is_promised_has_its_row() -> None:
    names = [(way.name, way.faces) for way in ways()]
    assert len(set(names)) == len(names)
    for steps in ("1 step", "2 steps", "4 steps"):
        assert {(f"iconface, {steps}", 1), (f"iconface, {steps}, without reuse", 1)} <= set(names)
    assert {faces for name, faces in names if name == "fast"} == {1, 2, 4, 8}
