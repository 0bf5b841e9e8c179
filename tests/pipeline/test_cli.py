"""The command as a user meets it: exit codes and sentences."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

from models.detector import CenterFaceDetector
from pipeline import cli
from pipeline.runs.demo import write_damaged_clip
from support.clips import astronaut

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    write_damaged_clip(path, frames=12)
    return path


def frame_hashes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [hash(bytes(frame.planes[0])) for frame in container.decode(video=0)]


def test_restores_a_clip_and_says_so(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    assert cli.main([str(clip), str(output), "--progress", "none"]) == 0
    summary = capsys.readouterr().out
    assert "12 frames" in summary
    assert "people: 1" in summary
    assert "faces restored: 12" in summary
    assert str(output) in summary
    assert len(frame_hashes(output)) == 12


def test_none_with_a_lossless_encoder_gives_the_decoded_frames(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    assert (
        cli.main([str(clip), str(output), "--restorer", "none", "--codec", "ffv1", "--progress", "none"]) == 0
    )
    assert frame_hashes(output) == frame_hashes(clip)


def test_strength_nought_changes_nothing(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    assert cli.main([str(clip), str(output), "--strength", "0", "--codec", "ffv1", "--progress", "none"]) == 0
    assert frame_hashes(output) == frame_hashes(clip)


def test_restoring_does_change_the_face(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    assert cli.main([str(clip), str(output), "--codec", "ffv1", "--progress", "none"]) == 0
    assert all(a != b for a, b in zip(frame_hashes(output), frame_hashes(clip), strict=True))


def test_the_same_command_gives_the_same_frames_whatever_the_threads(clip: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{depth}.mkv" for depth in (0, 1, 4)]
    for depth, output in zip((0, 1, 4), outputs, strict=True):
        command = [str(clip), str(output), "--codec", "ffv1", "--progress", "none", "--set", f"depth={depth}"]
        assert cli.main(command) == 0
    assert frame_hashes(outputs[0]) == frame_hashes(outputs[1]) == frame_hashes(outputs[2])


def test_compare_is_twice_as_wide(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert cli.main([str(clip), str(output), "--compare", "--duration", "0.2", "--progress", "none"]) == 0
    with av.open(str(clip)) as before, av.open(str(output)) as after:
        assert after.streams.video[0].width == 2 * before.streams.video[0].width
        assert 1 <= sum(1 for _ in after.decode(video=0)) <= 6


def test_json_progress_ends_with_the_report(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(clip), str(tmp_path / "out.mp4"), "--restorer", "none", "--progress", "json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["event"] == "done"
    assert last["frames"] == 12


def test_dry_run_writes_nothing_and_prints_settings_that_can_be_read_back(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert cli.main([str(clip), str(output), "--crf", "20", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "crf = 20" in printed
    assert "width: 320" in printed
    assert not output.exists()
    settings = tmp_path / "settings.toml"
    settings.write_text(printed, encoding="utf-8")
    assert cli.main([str(clip), str(output), "--config", str(settings), "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{in}", "{out}", "--set", "track.lookahed=2"], 2, "did you mean track.lookahead?"),
        (["{in}", "{out}", "--strength", "2"], 2, "strength must be between 0 and 1"),
        (["{in}", "{out}", "--restorer", "nonsense"], 2, "restorer.kind"),
        (["{in}", "{out}", "--device", "quantum"], 2, "restorer.device"),
        (["{in}"], 2, "the following arguments are required: OUT"),
        (["{in}", "{out}", "--config", "missing.toml"], 2, "cannot be read"),
        (["{in}", "{out}", "--restorer", "{text}"], 3, "text.safetensors"),
        (["missing.mp4", "{out}"], 4, "missing.mp4"),
        (["{text}", "{out}"], 4, "text.safetensors"),
        (["{in}", "{in}", "--overwrite"], 4, "input"),
        (["{in}", "{out}", "--steps", "4"], 2, "--steps is for iconface and klein, and the restorer is auto"),
        (["{in}", "{out}", "--steps", "0"], 2, "steps must be between 1 and 1000"),
        (["{in}", "{out}", "--seed", str(2**64)], 2, "seed must fit into 64 bits"),
        (["{in}", "{out}", "--start", "inf"], 2, "must be finite"),
        (["photo.png", "{out}", "--compare"], 2, "are for videos"),
        (["{in}", "{folder}/" + 300 * "x" + ".mp4"], 4, "xxx"),
        (["{in}", "{out}", "--reference", "missing.jpg"], 4, "missing.jpg"),
        (["{in}", "{folder}/none/out.mp4"], 4, "none"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    arguments: list[str],
    code: int,
    sentence: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("this is no checkpoint and no video")
    places = {
        "{in}": str(clip),
        "{out}": str(tmp_path / "out.mp4"),
        "{text}": str(text),
        "{folder}": str(tmp_path),
    }
    for name, path in places.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    assert cli.main(arguments) == code
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.safetensors"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nobody", "no face found; a reference photo needs one clear face"),
        ("two", "shows 2 large faces; a reference photo needs one person, so cut out the one who is meant"),
    ],
)
def test_a_reference_photo_shows_one_person(
    kind: str, sentence: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, output = tmp_path / f"{kind}.png", tmp_path / "out"
    one = astronaut()
    Image.fromarray(np.zeros_like(one) if kind == "nobody" else np.hstack([one, one])).save(photo)
    output.mkdir()
    command = [str(clip), str(output / "out.mp4"), "--reference", str(photo), "--progress", "none"]
    assert cli.main(command) == 4
    said = capsys.readouterr().err.strip()
    assert f"{photo}: {sentence}" in said
    assert len(said.splitlines()) == 1
    assert list(output.iterdir()) == []


def test_a_bystander_on_a_reference_photo_is_no_mistake(clip: Path, tmp_path: Path) -> None:
    one = astronaut()
    small = np.zeros_like(one)
    small[: len(one[::3]), : len(one[::3])] = one[::3, ::3]
    Image.fromarray(np.hstack([one, small])).save(tmp_path / "her.png")
    assert len(CenterFaceDetector().detect(np.hstack([one, small]))) == 2
    command = [str(clip), str(tmp_path / "out.mp4"), "--reference", str(tmp_path / "her.png")]
    assert cli.main([*command, "--restorer", "none", "--progress", "none"]) == 0


def test_a_stranger_package_of_the_same_name_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import trackers

    monkeypatch.setattr(trackers, "__project__", "somebody else")
    assert cli.main(["--version"]) == 2
    assert "'trackers' here belongs to" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_bug(clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", str(clip), str(tmp_path / "out.mp4"), "--dry-run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert b"bug" not in process.stderr.read()
    process.stderr.close()


def test_an_interrupt_that_a_library_took_for_an_error_of_its_own_is_one(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("a module failed to import")  # noqa: B904 - as extension modules do

    monkeypatch.setattr("pipeline.runs.film.restore_video", interrupted)
    assert cli.main([str(clip), str(tmp_path / "out.mp4"), "--progress", "none"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted; no unfinished file was left\n"


def test_an_interrupt_before_the_command_is_loaded_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    loading = ModuleType("pipeline.cli")
    loading.__dict__["__getattr__"] = interrupted
    monkeypatch.setitem(sys.modules, "pipeline.cli", loading)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pipeline", run_name="__main__")
    assert ended.value.code == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted; no unfinished file was left\n"


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interrupt_leaves_nothing_and_says_so(asked: signal.Signals, clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", str(clip), str(tmp_path / "out.mp4"), "--progress", "none"]
    # A slow encoder, so that the run is certainly still going on.
    process = subprocess.Popen(
        [*command, "--codec", "libx265", "--preset", "veryslow"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob(".out.*.partial.mp4")):
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.02)
    process.send_signal(asked)
    _, said = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert "interrupted" in said
    assert list(tmp_path.iterdir()) == []
