"""The bench of live runs: clips that go on and on, and figures minute by minute."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.bench import _size, main
from pipeline.live.bench import Watcher
from pipeline.live.calls import CALLS, calls
from pipeline.live.endless import Form, write_endless
from pipeline.live.report import LiveReport


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames, each lighter than the one before."""
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 40 + 40 * index, np.uint8), "rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_clip_goes_forth_and_back_for_as_long_as_is_wanted(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "endless.mkv"
    write_endless(clip, output, 2.1, Form())
    with av.open(str(output)) as container:
        frames = list(container.decode(video=0))
    levels = [round((float(frame.to_ndarray(format="gray").mean()) - 40) / 40) for frame in frames]
    assert levels == list(itertools.islice(itertools.cycle([0, 1, 2, 3, 4, 3, 2, 1]), 21))
    times = [
        float(frame.pts * frame.time_base) for frame in frames if frame.pts is not None and frame.time_base
    ]
    assert times == pytest.approx([index / 10 for index in range(21)], abs=1e-3)


@pytest.mark.parametrize("size", [(320, 180), (100, 100), (160, 120)])
def test_a_clip_is_brought_to_the_form_of_a_call(clip: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    output = tmp_path / "endless.mkv"
    write_endless(clip, output, 1.0, Form(size, Fraction(25)))
    with av.open(str(output)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (*size, 25)
        assert sum(1 for _ in container.decode(video)) == 25


def test_sizes_are_as_in_1280x720() -> None:
    assert _size("1280x720") == (1280, 720)
    for wrong in ("1280", "12x", "641x480", "0x0"):
        with pytest.raises(ValueError, match=r"even|int"):
            _size(wrong)


def written(report: LiveReport, seconds: float, delay_ms: float, watcher: Watcher, *, out: int = 10) -> None:
    """So long at ten frames a second come in, and `out` of ten go out, all as late; one in two restored."""
    for index in range(round(10 * seconds)):
        report.seconds += 0.1
        report.received += 1
        if index % 10 < out:
            report.written += 1
            report.frames_restored += index % 2
            report.delays.add(delay_ms / 1000)
        watcher.see(report)


def test_each_minute_has_its_own_delay() -> None:
    watcher, report = Watcher(), LiveReport(step="full")
    written(report, 60.1, 20, watcher)
    written(report, 60, 50, watcher)
    written(report, 20, 30, watcher)
    watcher.close(report)
    assert [minute.p95_ms for minute in watcher.minutes] == [20, 50, 30]
    assert [minute.p50_ms for minute in watcher.minutes] == [20, 50, 30]
    assert sum(minute.frames for minute in watcher.minutes) == report.written == 1401
    assert sum(minute.restored for minute in watcher.minutes) == report.frames_restored
    if sys.platform == "linux":
        assert all(minute.memory_mib > 10 for minute in watcher.minutes)


def test_the_worst_seconds_are_found_and_not_only_the_mean() -> None:
    watcher, report = Watcher(), LiveReport(step="full")
    written(report, 50, 20, watcher)
    written(report, 6, 20, watcher, out=5)
    written(report, 100, 20, watcher)
    assert watcher.worst == pytest.approx(0.5, abs=0.1)


def test_the_ladder_is_told_with_its_seconds() -> None:
    watcher, report = Watcher(), LiveReport(step="full")
    written(report, 2, 20, watcher)
    report.step = "reuse"
    written(report, 2, 20, watcher)
    assert watcher.steps == [(0.1, "full"), (2.1, "reuse")]


def test_a_run_is_measured_and_written_down(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "row.json"
    command = ["bench", "live", str(clip), "--seconds", "1", "--size", "64x48", "--rate", "20"]
    command += ["--set", "restorer.kind=none", "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", command)
    main()
    told = capsys.readouterr().out
    assert "minute 1: delay p50" in told
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["clip"] == "in.mp4"
    assert 15 <= found["received"] <= 22
    assert found["minutes"][0]["frames"] == found["written"]
    assert found["minutes"][0]["delay_ms"]["p95"] == found["delay_ms"]["p95"]
    assert set(found["memory_mib"]) == {"after_warm_up", "end"}


def test_calls_are_one_table_and_those_without_a_clip_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run(command: list[str], **options: object) -> None:
        asked.append(command)
        figures = {
            "frames_per_second_in": 25.0,
            "frames_per_second_out": 24.9,
            "out_for_in_worst": 0.96,
            "delay_ms": {"p50": 14, "p95": 53, "p99": 64},
            "written": 200,
            "frames_restored": 150,
            "steps": {"bypass": 50, "full": 150},
            "memory_mib": {"after_warm_up": 560.2, "end": 561.4},
        }
        Path(command[command.index("--json") + 1]).write_text(json.dumps(figures), encoding="utf-8")

    monkeypatch.setattr(subprocess, "run", run)
    output = tmp_path / "calls.json"
    rows = calls([Path("one.mp4")], 5, list(CALLS), ["blend.strength=1"], output)
    assert [row["name"] for row in rows] == [call.name for call in CALLS if call.faces == 1]
    assert all("blend.strength=1" in command and "one.mp4" in command for command in asked)
    assert "restorer.kind=iconface" in asked[-1]
    assert json.loads(output.read_text(encoding="utf-8")) == rows
    told = capsys.readouterr()
    row = "| 640x360, 25 per second | 25.0 | 24.9 (96 %) | 14 / 53 / 64 | 75 % | full 75 %, bypass 25 % | 560, 561 |"
    assert row in told.out.splitlines()
    assert "two faces: left out" in told.err
