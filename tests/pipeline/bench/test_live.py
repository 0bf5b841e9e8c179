"""The bench of live runs: repeated clips, and figures per minute."""

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

from pipeline.bench.__main__ import main
from pipeline.bench.live import CALLS, Form, Watcher, calls, chosen_calls, read_rate, read_size, write_endless
from pipeline.live.report import LiveReport


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of rising brightness."""
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
    assert read_size("1280x720") == (1280, 720)
    assert (read_rate("25"), read_rate("30000/1001")) == (25, Fraction(30000, 1001))


@pytest.mark.parametrize(
    ("option", "wrong", "sentence"),
    [
        *(
            ("--size", wrong, f"must be two positive even numbers such as 1280x720, got {wrong!r}")
            for wrong in ("640", "12x", "641x360", "640x361", "0x0", "axb", "-2x4")
        ),
        *(
            ("--rate", wrong, f"must be a positive number such as 25 or 30000/1001, got {wrong!r}")
            for wrong in ("0", "fast", "1/0", "nan")
        ),
    ],
)
def test_forms_that_no_call_has_are_refused(
    clip: Path, capsys: pytest.CaptureFixture[str], option: str, wrong: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["live", str(clip), f"{option}={wrong}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument {option}: {sentence}\n")


def test_rows_are_chosen_by_words() -> None:
    assert chosen_calls("") == list(CALLS)
    assert [call.faces for call in chosen_calls("two faces")] == [2]
    assert [call.size for call in chosen_calls("640x360,1280x720, 30 per second,")] == [c.size for c in CALLS]


WORDS = ["overhead", "flicker", "memory", "landmarks", "live", "calls", "long", "serve"]


@pytest.mark.parametrize("word", WORDS)
def test_a_missing_clip_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    missing = tmp_path / "missing.mp4"
    assert main([word, str(missing)]) == 4
    assert capsys.readouterr().err == f"anchorface: {missing}: no such file\n"


@pytest.mark.parametrize("word", [*WORDS, "pixels", "table"])
def test_a_wrong_setting_is_one_sentence(clip: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    clips = [str(clip)] if word in WORDS else []
    assert main([word, *clips, "--set", "blend.steadyness=0"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("anchorface: unknown setting blend.steadyness; did you mean")
    assert told.err.count("\n") == 1


def test_a_word_that_no_row_has_is_one_sentence(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calls", str(clip), "--only", "nothing"]) == 2
    told = capsys.readouterr().err
    assert told == (
        "anchorface: --only: no row has 'nothing' in its name; rows: "
        f"{'; '.join(call.name for call in CALLS)}\n"
    )


def test_what_a_call_refuses_is_said_once(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(command: list[str], **options: object) -> None:
        raise subprocess.CalledProcessError(3, command)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert main(["calls", str(clip)]) == 3
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_is_none_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["networks", "--iconface", str(tmp_path / "missing.safetensors")]) == 3
    told = capsys.readouterr().err
    assert told.startswith("anchorface: ")
    assert "missing.safetensors" in told


def written(report: LiveReport, seconds: float, delay_ms: float, watcher: Watcher, *, out: int = 10) -> None:
    """Reports `seconds` at ten frames per second; `out` of ten written with this delay, every second restored."""
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


def test_the_last_seconds_count_as_well() -> None:
    short, report = Watcher(), LiveReport(step="full")
    written(report, 3, 20, short, out=5)
    short.close(report)
    assert short.worst == pytest.approx(0.5)
    longer, report = Watcher(), LiveReport(step="full")
    written(report, 5.05, 20, longer)
    written(report, 2, 20, longer, out=5)
    assert longer.worst == 1
    longer.close(report)
    assert longer.worst == pytest.approx(0.5, abs=0.1)


def test_a_second_is_too_short_to_be_judged() -> None:
    watcher, report = Watcher(), LiveReport(step="full")
    written(report, 0.9, 20, watcher, out=5)
    watcher.close(report)
    assert watcher.worst == 1


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
    assert main() == 0
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
