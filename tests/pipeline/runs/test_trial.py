"""Several settings on a stretch, beside each other in one video and on one page."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import configs
from configs import ConfigError
from models.weights import CheckpointError
from pipeline import PipelineConfig, restore_video
from pipeline.cli import main
from pipeline.errors import SinkError
from pipeline.media.coding import planes_of
from pipeline.media.source import FileSource
from pipeline.report.progress import Watcher
from pipeline.runs import trial
from pipeline.runs.trial import MOST_CELLS, Trial, make_tries, run_trial
from support.clips import packets, picture, shown_times, write_clip

CHANGES = [
    "restorer.kind=support.films:ReferenceRestorer",
    "encode.codec=ffv1",
    "track.lookahead=4",
    "input.duration_seconds=0.4",
]
TRIES = ["strength=0.5,1", "gate.enabled=true,false"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    return write_clip(path, frames=20, width=240, height=180, rate=Fraction(25), sound=["aac"])


def tried(clip: Path, output: Path, tries: list[str], *changes: str) -> Trial:
    made = make_tries(tries, None, [*CHANGES, *changes])
    return run_trial(clip, output, made, lambda each: nullcontext(Watcher()))


def lumas(path: Path) -> list[np.ndarray]:
    return [planes_of(frame.native)[0].copy() for frame in FileSource(path)]


def test_steps_are_those_of_every_restorer_that_takes_them() -> None:
    made = make_tries(["steps=1,4"], None, [])
    assert [each.name for each in made] == ["steps 1", "steps 4"]
    for steps, each in zip((1, 4), made, strict=True):
        assert (each.config.restorer.iconface.steps, each.config.restorer.klein.steps) == (steps, steps)


def test_each_cell_shows_what_a_run_with_its_settings_gives(clip: Path, tmp_path: Path) -> None:
    done = tried(clip, tmp_path / "grid.mkv", TRIES)
    grid = lumas(done.output)
    assert [each.name for each, _ in done.tries] == [
        f"strength {strength}, enabled {gated}" for strength in ("0.5", "1") for gated in ("true", "false")
    ]
    assert grid[0].shape == (360, 720)
    places = [(0, 0), (0, 240), (0, 480), (180, 0), (180, 240)]
    plain = configs.load(PipelineConfig, None, ["restorer.kind=none", *CHANGES[1:]])
    for place, config in zip(places, [plain, *(each.config for each, _ in done.tries)], strict=True):
        output = tmp_path / f"{place}.mkv"
        restore_video(clip, output, config)
        for frame, alone in zip(grid, lumas(output), strict=True):
            cell = frame[place[0] :, place[1] :][:180, :240]
            assert np.array_equal(cell[:140], alone[:140]), "above its caption"
    assert (grid[0][180:, 480:] == 16).all(), "the place without a cell is black"


def test_times_and_sound_are_those_of_the_stretch(clip: Path, tmp_path: Path) -> None:
    changes = ["input.start_seconds=0.2", "encode.codec=h264"]
    done = tried(clip, tmp_path / "grid.mp4", ["strength=0.5"], *changes)
    straight = tmp_path / "straight.mp4"
    restore_video(clip, straight, done.tries[0][0].config)
    assert shown_times(done.output) == shown_times(straight)
    assert packets(done.output) == packets(straight)
    assert len(shown_times(done.output)) == 10


def test_the_page_shows_the_same_moments_with_each_setting(clip: Path, tmp_path: Path) -> None:
    done = tried(clip, tmp_path / "grid.mkv", ["strength=0.25,1"])
    assert done.page == tmp_path / "grid.html"
    text = done.page.read_text(encoding="utf-8")
    assert "<td>strength 0.25</td>" in text
    rows = re.findall(r"<tr><th>frame&nbsp;(\d+).*?</tr>", text)
    assert rows
    pictures = [re.findall(r'base64,([^"]+)"', row) for row in re.findall(r"<tr><th>frame.*?</tr>", text)]
    assert all(len(set(row)) == 3 for row in pictures), "source and both settings, all different"
    assert not re.search(r"https?://", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.html", "grid.mkv"]


def test_a_picture_that_would_be_too_large_is_shrunk_as_a_whole(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_MOST_WIDE", 300)
    done = tried(clip, tmp_path / "grid.mkv", ["strength=0.5"])
    assert lumas(done.output)[0].shape == (112, 300)


def test_cells_of_a_turned_video_stand_as_players_show_them(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=4, width=160, height=96, rotation=90, rate=Fraction(25))
    done = tried(path, tmp_path / "grid.mkv", ["strength=0.5,0.7,1"])
    source, [frame, *_] = lumas(path)[0], lumas(done.output)
    shown = np.rot90(frame)
    assert shown.shape == (320, 192)
    for place in ((0, 0), (0, 96), (160, 0), (160, 96)):
        cell = shown[place[0] :, place[1] :][:120, :96]
        assert np.abs(cell.astype(int) - np.rot90(source)[:120]).mean() < 8


def test_other_pixel_formats_are_kept(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mkv",
        frames=3,
        width=161,
        height=121,
        codec="ffv1",
        pixel_format="yuv422p10le",
        options={},
    )
    done = tried(path, tmp_path / "grid.mkv", ["strength=0.5"])
    assert FileSource(done.output).info.pixel_format == "yuv422p10le"
    assert np.array_equal(lumas(done.output)[0][:90, :160], lumas(path)[0][:90, :160])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["strength=0,0.1,0.2", "steps=1,2,3"], f"9 combinations; at most {MOST_CELLS - 1}"),
        (["strength"], "must look like strength=0.5,1, got 'strength'"),
        (["strength=0.5,"], "must look like"),
        (["strength=1,1.0"], "strength 1 and strength 1.0 are the same"),
        (["encode.crf=10,20"], "settings that affect faces; encode.crf does not"),
        (["strenth=0.5"], "unknown setting strenth"),
        (["strength=2"], "strength must be"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_one_sentence(asked: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_tries(asked, None, CHANGES)


@pytest.mark.parametrize(
    "change",
    [
        "output.compare=true",
        "output.references_log=log.jsonl",
        "chunks.resume=true",
        "chunks.workers=2",
        "chunks.ray=auto",
    ],
)
def test_a_trial_is_no_long_run(change: str, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --compare, --c2pa, --references-log, --resume"):
        tried(clip, tmp_path / "grid.mkv", ["strength=0.5"], change)


def test_nothing_is_left_where_a_setting_fails_and_nothing_is_replaced(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        tried(clip, tmp_path / "grid.mkv", ["restorer=support.films:ReferenceRestorer,missing.safetensors"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "grid.html").write_text("precious")
    with pytest.raises(SinkError, match="exists already"):
        tried(clip, tmp_path / "grid.mkv", ["strength=0.5"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_five_seconds_are_tried_where_nothing_is_said(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=60, width=64, height=48, rate=Fraction(10))
    made = make_tries(["strength=0.5"], None, ["encode.codec=ffv1"])
    made = [
        replace(each, config=replace(each.config, restorer=replace(each.config.restorer, kind="none")))
        for each in made
    ]
    done = run_trial(path, tmp_path / "grid.mkv", made, lambda each: nullcontext(Watcher()))
    assert len(shown_times(done.output)) == 50


def test_the_command_tries_and_tells(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(clip), str(tmp_path / "grid.mp4"), "--duration", "0.2", "--progress", "plain"]
    assert (
        main([*command, "--try", "strength=0.5", "--try", "restorer=none,support.films:ReferenceRestorer"])
        == 0
    )
    told = capsys.readouterr()
    assert "strength 0.5, restorer none (1 of 2)" in told.err
    assert f"output: {tmp_path / 'grid.mp4'}" in told.out
    assert "faces restored 5" in told.out
    with av.open(str(tmp_path / "grid.mp4")) as container:
        assert "in 2 ways" in container.metadata["comment"]
    assert main([str(clip), str(clip), str(tmp_path), "--try", "strength=0.5"]) == 2
    assert "--try is for one video" in capsys.readouterr().err
    picture_file = tmp_path / "photo.png"
    av.VideoFrame.from_ndarray(picture(0, 64, 48), format="rgb24").to_image().save(picture_file)
    assert main([str(picture_file), str(tmp_path / "out.png"), "--try", "strength=0.5"]) == 2
