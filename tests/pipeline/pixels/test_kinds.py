"""Either way of cutting crops and blending, from a setting to finished films."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import configs
from configs import ConfigError
from pipeline import PipelineConfig, Report, restore_video
from pipeline.build import build_pixels
from pipeline.config import RestorerConfig
from pipeline.media.coding import planes_of
from pipeline.pixels import kinds
from pipeline.pixels.blend import blend
from pipeline.pixels.colour import read_crops
from pipeline.pixels.kinds import PixelsConfig, Proven, pixels_kind
from pipeline.pixels.tensors.blend import Blender
from pipeline.pixels.tensors.crops import CropReader
from pipeline.report.provenance import fingerprint
from support.clips import native_frame
from support.codings import IS_EXACT, each_device, exact_opencv, placed
from support.films import SETTINGS, write_film


def test_auto_is_tensors_on_a_gpu_and_opencv_elsewhere() -> None:
    for wanted, device, kind in (
        ("auto", "cpu", "opencv"),
        ("auto", "cuda", "tensors"),
        ("auto", "mps", "opencv"),
        ("opencv", "cuda", "opencv"),
        ("tensors", "cpu", "tensors"),
        ("tensors", "cuda:1", "tensors"),
    ):
        assert pixels_kind(wanted, torch.device(device)) == kind


def test_a_device_that_fails_or_gives_something_else_gives_way_to_the_cpu(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def apart(ours: int, theirs: int) -> int | None:
        return abs(ours - theirs) if theirs else None

    def doubled(number: int) -> int:
        return 2 * number

    def wrong(number: int) -> int:
        asked.append(number)
        return 2 * number + (2 if number > 6 else 0)

    def full(number: int) -> int:
        asked.append(number)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    for tensors, counted, words in (
        (full, [0], "CUDA out of memory."),
        (wrong, [0, 0, 7], "2 code values from what the CPU gives"),
    ):
        asked: list[int] = []
        proven = Proven("blend", tensors, doubled, apart, lambda result: 1)
        assert [proven(number) for number in (0, 0, 7, 8, 9)] == [0, 0, 14, 16, 18]
        assert asked == counted
        assert caplog.messages[-1].startswith(f"the device does not blend as it should ({words}")
    # What was nothing to compare proves nothing; four results do.
    asked, late = [], Proven("blend", wrong, doubled, apart, lambda result: 1)
    assert [late(number) for number in (0, 1, 2, 3, 4, 9)] == [0, 2, 4, 6, 8, 20]


@pytest.mark.parametrize(
    ("is_exact", "shift", "passes"),
    [(True, 0, IS_EXACT), (True, 1 / 64, False), (False, 1 / 64, True), (False, 2, False)],
)
def test_before_opencv_5_as_much_is_allowed_as_its_rounding_costs(
    is_exact: bool,
    shift: float,
    passes: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Positions rounded to 1/32 are stood for by a shift of at most that rounding."""

    def shifted(native: av.VideoFrame, matrices: Sequence[NDArray[np.float32]], side: int) -> Any:
        return read_crops(native, [matrix + np.float32([0, 0, shift]) for matrix in matrices], side)

    monkeypatch.setattr(kinds, "OPENCV_IS_EXACT", is_exact)
    monkeypatch.setattr(kinds, "read_crops", shifted)
    pixels = kinds.make_pixels("tensors", torch.device("cpu"), prove=True)
    native = native_frame(0, 160, 120, "yuv420p")
    pixels.read_crops(native, [placed(1, (80, 60), 64, 3)], 64)
    assert ("the device does not cut crops" in caplog.text) != passes


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="kind must be one of auto, opencv, tensors, got 'gpu'"):
        PixelsConfig("gpu")
    with pytest.raises(ConfigError, match=r"pixels\.kind: tensors are for CPU and CUDA devices, .*mps"):
        build_pixels(PixelsConfig("tensors"), RestorerConfig(device="mps"))


def test_opencv_is_what_runs_on_a_cpu_and_needs_no_other_code() -> None:
    pixels = build_pixels(PixelsConfig(), RestorerConfig(device="cpu"))
    assert (pixels.read_crops, pixels.blend) == (read_crops, blend)
    loaded = (
        "import sys, pipeline.build; print(any('pipeline.pixels.tensors' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_chunks_of_the_other_way_are_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"film")
    found = [
        fingerprint(tmp_path / "in.mp4", PipelineConfig(pixels=PixelsConfig(kind)))[
            "the way of blending (pixels.kind)"
        ]
        for kind in ("auto", "opencv", "tensors")
    ]
    assert found == ["opencv", "opencv", "tensors"]


def frames(path: Path) -> list[list[NDArray[np.int64]]]:
    with av.open(str(path)) as container:
        return [[plane.astype(np.int64) for plane in planes_of(f)] for f in container.decode(video=0)]


def largest_difference(one: Path, other: Path) -> int:
    """Of any two samples, in codes."""
    pairs = list(zip(frames(one), frames(other), strict=True))
    return max(int(np.abs(a - b).max()) for pair in pairs for a, b in zip(*pair, strict=True))


COUNTS = ("frames", "faces", "restored", "origins", "people", "tracks", "references", "held_back")


def counts(report: Report) -> list[object]:
    return [getattr(report, name) for name in COUNTS]


@exact_opencv
@each_device
@pytest.mark.parametrize("resume", [False, True], ids=["straight", "in chunks"])
def test_a_film_comes_out_the_same_either_way(
    resume: bool, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"crops": 0, "blended": 0}
    read, put_back = CropReader.read_crops, Blender.blend

    def counted_read(self: CropReader, *arguments: Any) -> list[torch.Tensor]:
        done["crops"] += len(arguments[1])
        return read(self, *arguments)

    def counted_blend(self: Blender, *arguments: Any) -> av.VideoFrame:
        done["blended"] += 1
        return put_back(self, *arguments)

    monkeypatch.setattr(CropReader, "read_crops", counted_read)
    monkeypatch.setattr(Blender, "blend", counted_blend)
    film = write_film(tmp_path / "in.mp4", 24)
    config = configs.load(
        PipelineConfig, None, [*SETTINGS, f"restorer.device={device}", f"chunks.resume={resume}".lower()]
    )
    reports = [
        restore_video(film, tmp_path / f"{kind}.mkv", replace(config, pixels=PixelsConfig(kind)))
        for kind in ("opencv", "tensors")
    ]
    assert reports[0].restored == 24
    assert done == {"crops": 24, "blended": 24}
    assert counts(reports[0]) == counts(reports[1])
    assert largest_difference(tmp_path / "opencv.mkv", tmp_path / "tensors.mkv") <= 1
    assert largest_difference(film, tmp_path / "tensors.mkv") > 10


def test_without_a_restorer_nothing_is_built(tmp_path: Path) -> None:
    film = write_film(tmp_path / "in.mp4", 4)
    config = PipelineConfig(
        restorer=RestorerConfig(kind="none", device="cpu"), pixels=PixelsConfig("tensors")
    )
    assert restore_video(film, tmp_path / "out.mkv", config).restored == 0
