"""Several inputs in one command: each for itself, one summary for all."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from models.protocols import Request, Result
from pipeline import cli
from pipeline.config import PipelineConfig
from pipeline.flow import Parts
from pipeline.runs.film import pace
from support.clips import astronaut, shown_times, write_clip
from support.fakes import ColourRecogniser, InvertingRestorer

QUICK = ["--restorer", "none", "--progress", "none"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two short clips, and a file between them that is none."""
    path = tmp_path / "clips"
    path.mkdir()
    for name in ("a.mp4", "c.avi"):
        write_clip(path / name, frames=4, width=64, height=48)
    (path / "b.mkv").write_bytes(b"no film")
    (path / "notes.txt").touch()
    return path


def run(*arguments: object) -> int:
    return cli.main([*map(str, arguments), *QUICK])


def test_a_bad_file_of_a_folder_does_not_stop_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out") == 4
    said = capsys.readouterr().out
    assert "queue: 2 restored, 1 failed; 8 frames" in said
    assert f"failed: {folder / 'b.mkv'}: no video that can be read" in said
    assert len(said.splitlines()) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "c.avi.mkv"]
    for name in ("a.mp4", "c.avi"):
        output = tmp_path / "out" / (name if name == "a.mp4" else "c.avi.mkv")
        assert len(shown_times(output)) == 4


def test_a_trial_tells_of_each_film_of_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.mkv").unlink()
    assert run(folder, tmp_path / "out", "--dry-run") == 0
    assert capsys.readouterr().out.count("# input") == 2
    assert not (tmp_path / "out").exists()


def test_several_inputs_of_several_kinds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(astronaut()).save(tmp_path / "her.png")
    assert run(folder / "c.avi", tmp_path / "her.png", folder / "a.mp4", tmp_path / "out", "--resume") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "c.avi.mkv", "her.png"]
    assert "3 restored" in capsys.readouterr().out


def test_a_program_is_told_of_each_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), str(tmp_path / "out"), "--restorer", "none", "--progress", "json"]
    assert cli.main(arguments) == 4
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [item["frames"] for item in last["done"]] == [4, 4]
    assert [item["input"] for item in last["failed"]] == [str(folder / "b.mkv")]


def test_a_queue_goes_on_with_what_is_not_there_yet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder / "a.mp4", folder / "c.avi", tmp_path / "out") == 0
    (tmp_path / "out" / "c.avi.mkv").unlink()
    before = (tmp_path / "out" / "a.mp4").stat().st_mtime_ns
    assert run(folder / "a.mp4", folder / "c.avi", tmp_path / "out") == 4
    assert "a.mp4: exists already" in capsys.readouterr().out
    (tmp_path / "out" / "c.avi.mkv").unlink()
    assert run(folder / "a.mp4", folder / "c.avi", tmp_path / "out", "--resume") == 0
    assert "1 restored, 1 there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.mp4").stat().st_mtime_ns == before


def test_damage_is_told_by_the_code(folder: Path, tmp_path: Path) -> None:
    film = folder / "c.avi"
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    assert run(folder / "a.mp4", film, tmp_path / "out") == 5


@pytest.mark.parametrize(
    ("second", "options", "sentence"),
    [
        ("other/a.mp4", [], "would both become"),
        ("clips/c.avi", ["--report", "page.html"], "is for one film"),
        ("clips/c.avi", ["--restorer", "nonsense"], "restorer.kind"),
    ],
)
def test_what_concerns_all_files_is_told_once(
    second: str,
    options: list[str],
    sentence: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [str(folder / "a.mp4"), str(tmp_path / second), str(tmp_path / "out")]
    assert cli.main([*names, "--progress", "none", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_several_inputs_need_a_folder_to_go_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_bytes(b"precious")
    assert run(folder / "a.mp4", folder / "c.avi", tmp_path / "out") == 4
    assert "is a file; several inputs need an output folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == b"precious"


def test_ctrl_c_tells_what_was_done_and_what_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.runs import film

    restore = film.restore_video

    def interrupt_second(input: Path, *more: object, **options: object) -> object:
        if input.name == "c.avi":
            raise KeyboardInterrupt
        return restore(input, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(film, "restore_video", interrupt_second)
    assert run(folder / "a.mp4", folder / "c.avi", tmp_path / "out") == cli.INTERRUPTED
    said = capsys.readouterr().out
    assert "1 restored, 1 left" in said
    assert f"left: {folder / 'c.avi'}" in said


class Slow(InvertingRestorer):
    """Takes 50 ms for a face, and 10 for each picture that comes with it."""

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        for request in requests:
            time.sleep(0.05 + 0.01 * (len(request.references) + len(request.neighbours)))
        return super().restore(requests)


def parts(restorer: Slow | None, recogniser: ColourRecogniser) -> Parts:
    perception = SimpleNamespace(recogniser=recogniser)
    return Parts(perception, restorer)  # type: ignore[arg-type]


def test_how_long_a_long_film_takes_is_said_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = tmp_path / "long.mp4", tmp_path / "short.mp4"
    write_clip(long, frames=300, width=64, height=48)
    write_clip(short, frames=4, width=64, height=48)
    own = ["--restorer", f"{__name__}:Slow", "--progress", "plain"]
    for film in (long, short):
        assert cli.main([str(film), str(tmp_path / "out.mkv"), *own, "--overwrite"]) == 0
    said = capsys.readouterr().err
    (sentence,) = [line for line in said.splitlines() if line.startswith("the restorer takes")]
    # With three references.
    assert re.search(r"takes 0\.(0[89]|1\d)\d* s for a face on this machine: 300 frames", sentence)
    assert pace(parts(None, ColourRecogniser()), 300, PipelineConfig()) == ""


def test_frames_that_are_restored_one_by_one_take_longer() -> None:
    def seconds(config: PipelineConfig) -> int:
        return int(pace(parts(Slow(), ColourRecogniser()), 1000, config).split()[-2])

    config = PipelineConfig()
    each = replace(config, restore=replace(config.restore, reuse=False))
    assert 1.5 * seconds(config) < seconds(each)
