"""`python -m pipeline.evaluation` from end to end, and the degradation of whole clips."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import models
from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.evaluation import __main__ as evaluate
from pipeline.evaluation.clips import ClipDamage, degraded, draw_damage, write_degraded
from pipeline.evaluation.rows import read_trials
from pipeline.media.source import FileSource
from support.clips import native_frame, picture


@pytest.mark.parametrize("strength", ["moderate", "severe"])
def test_a_seed_draws_one_damage(strength: str) -> None:
    assert draw_damage(strength, 3) == draw_damage(strength, 3) != draw_damage(strength, 4)


def test_severe_is_worse_than_moderate_at_every_seed() -> None:
    for seed in range(20):
        moderate, severe = draw_damage("moderate", seed), draw_damage("severe", seed)
        assert moderate.blur_sigma <= 8 <= severe.blur_sigma
        assert moderate.reduction <= 8 <= severe.reduction
        assert moderate.crf <= 28 <= severe.crf


def spread(pictures: list[NDArray[np.uint8]]) -> float:
    """Mean standard deviation of the pixels over time."""
    return float(np.stack(pictures).astype(float).std(0).mean())


def test_a_still_clip_is_degraded_the_same_in_all_frames_but_for_the_noise() -> None:
    still = [picture(0, 160, 120)] * 6
    quiet = list(degraded(still, ClipDamage(4, 4, 0, 20), 120, 0))
    noisy = list(degraded(still, ClipDamage(4, 4, 15, 20), 120, 0))
    assert len(quiet) == len(noisy) == 6
    assert quiet[0].shape == still[0].shape
    assert spread(quiet) < 1 < 3 < spread(noisy)
    error = np.abs(quiet[3].astype(float) - still[3]).mean()
    assert 2 < error < 25


def test_a_degraded_clip_does_not_depend_on_when_it_is_made() -> None:
    moving = [picture(k, 160, 120) for k in range(5)]
    damage = ClipDamage(4, 4, 10, 25)
    first, again = (list(degraded(moving, damage, 120, 1)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = list(degraded(moving, damage, 120, 2))
    assert not np.array_equal(first[0], other[0])


def test_a_larger_face_is_damaged_at_the_same_size_of_the_face() -> None:
    moving = [picture(0, 320, 320)]
    damage = ClipDamage(8, 1, 0, 18)
    near, far = (next(degraded(moving, damage, side, 0)).astype(float) for side in (320, 80))
    assert np.abs(near - moving[0]).mean() > 1.5 * np.abs(far - moving[0]).mean()


def write_portrait(path: Path, frames: int = 8) -> Path:
    """The astronaut, moving slowly, lightly compressed: 320x240."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "qp": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(frames):
            frame = native_frame(index, 320, 240)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_a_degraded_file_has_the_frames_times_and_colours_of_the_clip(tmp_path: Path) -> None:
    source = FileSource(write_portrait(tmp_path / "in.mp4"))
    write_degraded(source, tmp_path / "out.mkv", ClipDamage(1, 1, 0, 10), 200, 0)
    damaged = FileSource(tmp_path / "out.mkv")
    pairs = list(zip(source, damaged, strict=True))
    assert len(pairs) == 8
    for before, after in pairs:
        assert float(before.pts * before.time_base) == pytest.approx(
            float(after.pts * after.time_base), abs=2e-3
        )
        colours = [
            frame.native.to_ndarray(format="rgb24", src_colorspace=frame.native.colorspace)
            for frame in (before, after)
        ]
        means = [colour.astype(float).mean((0, 1)) for colour in colours]
        assert np.abs(means[0] - means[1]).max() < 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_portrait(tmp_path_factory.mktemp("evaluation") / "portrait.mp4")


def test_the_command_measures_all_rows_of_a_degraded_clip(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, plots, written = tmp_path / "values.json", tmp_path / "plots", tmp_path / "table.md"
    command = [
        str(clip),
        "--ground-truth",
        "--seconds",
        "0.2",
        "--set",
        "restorer.kind=support.fakes:SofteningRestorer",
        # A negative is nobody's face: the gate would hold it back.
        "--set",
        "gate.enabled=false",
    ]
    command += ["--row", "negative:blend.grain=0,blend.steadiness=0", "--row", "untouched:blend.strength=0"]
    command += ["--json", str(values), "--plots", str(plots), "--table", str(written)]
    assert evaluate.main(command) == 0
    printed = capsys.readouterr().out
    assert written.read_text(encoding="utf-8") == printed
    report = json.loads(values.read_text(encoding="utf-8"))
    assert report["clips"][0]["flow_from"] == "ground truth"
    assert report["clips"][0]["frames"] == 5
    rows = {row["setting"]: row for row in report["clips"][0]["rows"]}
    assert list(rows) == ["source", "negative", "untouched", "softened truth", "ground truth"]
    # Faces that nothing touches have the source's own figures.
    assert rows["untouched"]["means"] == rows["source"]["means"]
    assert rows["negative"]["means"]["psnr"] < rows["source"]["means"]["psnr"] - 3
    assert rows["source"]["means"]["sharpness"] < rows["ground truth"]["means"]["sharpness"]
    assert rows["ground truth"]["means"]["psnr"] is None
    # As soft as the first setting, which is not as sharp as the source, and without what was done to its motion.
    soft, first = rows["softened truth"]["means"], rows["negative"]["means"]
    assert first["sharpness"] < 0.95 * rows["source"]["means"]["sharpness"]
    assert soft["sharpness"] == pytest.approx(first["sharpness"], rel=0.2)
    assert soft["psnr"] > first["psnr"] + 0.3
    assert rows["negative"]["restored"] == 5
    assert 1 <= rows["negative"]["calls"] <= rows["negative"]["given"] <= 5
    assert rows["source"]["calls"] is None
    assert set(rows["negative"]["by_frame"]["vidd"]) == {"1", "2", "3", "4"}
    drawn = {path.name for path in plots.iterdir()}
    assert {"warping.svg", "vidd.svg", "psnr.svg"} <= drawn
    assert "perceptual.svg" not in drawn


def test_a_clip_without_ground_truth_has_no_reference_metrics(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        evaluate.main(
            [str(clip), "--seconds", "0.12", "--set", "restorer.kind=support.fakes:IdentityRestorer"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert "VIDD" in lines[0]
    assert "PSNR" not in lines[0]
    assert [line.split(" | ")[1] for line in lines[2:4]] == ["source", "as configured"]
    assert "motion measured on the source" in lines[-1]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["missing.mp4"], 4, "missing.mp4: no such file"),
        (["CLIP", "--set", "blend.steadyness=0"], 2, "unknown setting blend.steadyness; did you mean"),
        (["CLIP", "--row", "a:blend.grian=0"], 2, "unknown setting blend.grian; did you mean"),
        (["CLIP", "--row", "blend.grain=0"], 2, "a row must look like NAME:"),
        (["CLIP", "--row", "a:", "--row", "a:"], 2, "with a unique name"),
        (["CLIP", "--row", "source:"], 2, "with a unique name"),
        (["CLIP", "--seconds", "-1"], 2, "duration_seconds must be above 0"),
        (["CLIP", "--perceptual", "missing.safetensors"], 3, "missing.safetensors: cannot be read"),
        (["CLIP", "--perceptual", "ENCODER"], 3, "encoder.safetensors: not the features of SqueezeNet 1.1"),
        (["CLIP", "--set", "restorer.kind=missing.pth"], 3, "missing.pth: no such file of weights"),
        (["CLIP", "--json", "missing/values.json"], 4, "missing/values.json: no such folder"),
        (["CLIP", "missing.mp4"], 4, "missing.mp4: no such file"),
    ],
)
def test_bad_input_gets_one_sentence_and_an_exit_code(
    command: list[str], code: int, words: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"CLIP": str(clip), "ENCODER": str(Path(models.__file__).parent / "embedded/encoder.safetensors")}
    assert evaluate.main([files.get(word, word) for word in command]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("anchorface: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


@pytest.mark.parametrize("flags", [[], ["--ground-truth"]])
def test_a_clip_without_faces_is_told(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.mp4"
    with av.open(str(empty), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(3):
            output.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((120, 160, 3), 90, np.uint8), "rgb24"))
            )
        output.mux(stream.encode(None))
    assert evaluate.main([str(empty), *flags]) == 4
    assert "nothing to measure" in capsys.readouterr().err


def test_trials_are_changes_over_the_common_ones() -> None:
    plain = read_trials([], ["blend.grain=0.5"])
    assert [(trial.name, trial.config.blend.grain) for trial in plain] == [("as configured", 0.5)]
    texts = ["soft:blend.grain=0,blend.steadiness=0.5", 'two:input.references=["a.png","b.png"],depth=0']
    soft, two = read_trials(texts, ["blend.strength=0.9"])
    assert (soft.config.blend.grain, soft.config.blend.steadiness, soft.config.blend.strength) == (
        0,
        0.5,
        0.9,
    )
    assert two.config.input.references == ("a.png", "b.png")
    assert two.config.depth == 0
    assert two.config.blend.grain == PipelineConfig().blend.grain


def test_a_trial_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="a row must look like"):
        read_trials([":depth=0"], [])
