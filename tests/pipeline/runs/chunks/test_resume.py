"""A run in chunks gives the film that a straight run gives, however often and wherever it was interrupted."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest

import configs
from configs import ConfigError
from pipeline import PipelineConfig, Report, restore_video
from pipeline.errors import SinkError
from pipeline.media.files import WorkFolder
from pipeline.runs.chunks.chunk import ChunkRunner, decoding_times
from pipeline.runs.chunks.first_pass import Chunk
from pipeline.runs.chunks.resume import Interrupted
from support.clips import packets, shown_times, truncate, write_clip
from support.films import FRAMES, ROOT, SETTINGS, command, environment, shown, write_film

KILLS = int(os.environ.get("ANCHORFACE_KILLS", "3"))
"""How many random moments are tried."""
STRAIGHT = configs.load(PipelineConfig, None, SETTINGS)
RESUME = configs.load(PipelineConfig, None, [*SETTINGS, "chunks.resume=true"])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "in.mp4")


@pytest.fixture(scope="module")
def straight(film: Path) -> tuple[Report, list[tuple[object, str]]]:
    """What a run without chunks tells and shows."""
    output = film.with_name("straight.mkv")
    return restore_video(film, output, STRAIGHT), shown(output)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """The chunks that were restored in this process."""
    chunks: list[Chunk] = []
    restore = ChunkRunner.run

    def run(self: ChunkRunner, chunk: Chunk, *watch: object) -> object:
        chunks.append(chunk)
        return restore(self, chunk, *watch)

    monkeypatch.setattr(ChunkRunner, "run", run)
    return chunks


def stop_at(frame: int) -> Callable[[Report], None]:
    """Ctrl-C, when so many frames are restored."""

    def watch(report: Report) -> None:
        if report.frames >= frame:
            raise KeyboardInterrupt

    return watch


def parts(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def interrupted(film: Path, output: Path, frame: int = 45) -> str:
    """Leaves a run with some chunks finished; gives what it said."""
    with pytest.raises(Interrupted) as caught:
        restore_video(film, output, RESUME, watch=stop_at(frame))
    assert not output.exists()
    return str(caught.value)


def test_the_film_of_this_test_changes_with_every_face(
    film: Path, straight: tuple[Report, list[tuple[object, str]]]
) -> None:
    assert straight[0].restored == FRAMES
    assert straight[0].references[0] == 0
    assert straight[0].held_back_fully == 0
    assert len(straight[0].tracks) == 3
    assert not {pair[1] for pair in straight[1]} & {pair[1] for pair in shown(film)}


def test_chunks_give_the_frames_and_the_counts_of_a_straight_run(
    film: Path,
    straight: tuple[Report, list[tuple[object, str]]],
    ran: list[Chunk],
    tmp_path: Path,
) -> None:
    report = restore_video(film, tmp_path / "out.mkv", RESUME)
    assert shown(tmp_path / "out.mkv") == straight[1]
    assert [chunk.continues for chunk in ran] == [False, False, False, True]
    assert [chunk.first for chunk in ran] == [0, 18, 30, 50]
    same = ("frames", "faces", "restored", "origins", "passed", "people", "tracks", "references", "held_back")
    assert [getattr(report, name) for name in same] == [getattr(straight[0], name) for name in same]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_an_interrupted_run_keeps_its_chunks_and_goes_on(
    film: Path,
    straight: tuple[Report, list[tuple[object, str]]],
    ran: list[Chunk],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.mkv"
    said = interrupted(film, output)
    assert f"2 of 4 chunks are kept in {parts(output)}" in said
    assert "--resume" in said
    ran.clear()
    report = restore_video(film, output, RESUME)
    assert [chunk.number for chunk in ran] == [2, 3]
    assert (report.kept, report.frames) == (30, FRAMES)
    assert shown(output) == straight[1]
    assert not parts(output).exists()


@pytest.mark.parametrize("stop", [33, 53], ids=["before a chunk within a shot", "in a chunk within a shot"])
def test_a_shot_goes_on_where_it_was(
    stop: int, film: Path, straight: tuple[Report, list[tuple[object, str]]], tmp_path: Path
) -> None:
    interrupted(film, tmp_path / "out.mkv", stop)
    restore_video(film, tmp_path / "out.mkv", RESUME)
    assert shown(tmp_path / "out.mkv") == straight[1]


def test_nothing_is_left_of_a_run_without_a_finished_chunk(film: Path, tmp_path: Path) -> None:
    assert "nothing is left" in interrupted(film, tmp_path / "out.mkv", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["00000.packets", "00001.tracks.npz", "00001.json", "manifest.json"])
def test_a_damaged_file_of_a_chunk_is_made_again(
    name: str,
    film: Path,
    straight: tuple[Report, list[tuple[object, str]]],
    ran: list[Chunk],
    tmp_path: Path,
) -> None:
    interrupted(film, tmp_path / "out.mkv")
    truncate(parts(tmp_path / "out.mkv") / name, 0.7)
    ran.clear()
    restore_video(film, tmp_path / "out.mkv", RESUME)
    # What chunks depend on is known from the manifest alone; without it all are made again.
    again = {"00000.packets": [0, 2, 3], "00001.json": [1, 2, 3], "manifest.json": [0, 1, 2, 3]}
    assert [chunk.number for chunk in ran] == again.get(name, [2, 3])
    assert shown(tmp_path / "out.mkv") == straight[1]


def test_chunks_of_other_settings_or_of_another_film_are_refused_and_kept(film: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    interrupted(film, output)
    other = replace(RESUME, blend=replace(RESUME.blend, strength=0.5))
    with pytest.raises(SinkError, match=r"blend\.strength was 1\.0, now it is 0\.5"):
        restore_video(film, output, other)
    longer = write_film(tmp_path / "other.mp4", FRAMES + 1)
    with pytest.raises(SinkError, match="the input has changed"):
        restore_video(longer, output, RESUME)
    assert (parts(output) / "00001.json").exists()
    assert restore_video(film, output, RESUME).kept == 30


def test_the_size_of_batches_does_not_matter_to_chunks(film: Path, tmp_path: Path) -> None:
    interrupted(film, tmp_path / "out.mkv")
    small = replace(RESUME, restore=replace(RESUME.restore, batch_size=1), depth=0)
    assert restore_video(film, tmp_path / "out.mkv", small).kept == 30


def test_two_runs_do_not_share_a_folder(film: Path, tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "out.mkv").held(), pytest.raises(SinkError, match="another run is at work"):
        restore_video(film, tmp_path / "out.mkv", RESUME)


def test_an_output_that_exists_is_refused_before_anything_is_done(film: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mkv").write_bytes(b"precious")
    with pytest.raises(SinkError, match="exists already"):
        restore_video(film, tmp_path / "out.mkv", RESUME)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_a_run_that_was_ended_after_its_last_step_is_done(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.mkv"
    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, "remove", lambda self: None)
        restore_video(film, output, RESUME)
    before = shown(output)
    report = restore_video(film, output, RESUME)
    assert report.kept == FRAMES
    assert "frames per second" not in report.summary()
    assert shown(output) == before
    assert not parts(output).exists()


def test_a_stranger_under_the_name_of_the_output_is_not_replaced(film: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    interrupted(film, output)
    output.write_bytes(b"precious")
    with pytest.raises(SinkError, match="exists already"):
        restore_video(film, output, RESUME)
    assert output.read_bytes() == b"precious"


def test_photos_have_no_chunks(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(ConfigError, match="are for videos"):
        restore_video(tmp_path / "photo.png", tmp_path / "out.png", RESUME)


def test_a_damaged_film_gives_the_same_in_chunks(tmp_path: Path) -> None:
    film = write_film(tmp_path / "in.mkv")
    content = bytearray(film.read_bytes())
    for place in range(len(content) // 3, len(content), len(content) // 5):
        content[place : place + 40] = bytes(40)
    film.write_bytes(content)
    before = restore_video(film, tmp_path / "straight.mkv", STRAIGHT)
    after = restore_video(film, tmp_path / "out.mkv", RESUME)
    assert before.damage
    assert after.damage == before.damage
    assert shown(tmp_path / "out.mkv") == shown(tmp_path / "straight.mkv")


@pytest.mark.parametrize(("suffix", "start"), [(".mp4", 0), (".mkv", 0), (".mkv", 0.7)])
def test_sound_subtitles_and_times_are_those_of_a_straight_run(
    suffix: str, start: float, tmp_path: Path
) -> None:
    """With B-frames, whose decoding times two encoders do not agree on."""
    film = write_clip(
        tmp_path / "in.mkv", frames=40, width=64, height=48, sound=["aac"], subtitles="subrip", chapters=True,
        times=[index * 2 + index % 3 for index in range(40)],
    )  # fmt: skip
    settings = [
        "restorer.kind=none",
        "chunks.seconds=0.2",
        "encode.preset=medium",
        f"input.start_seconds={start}",
    ]
    outputs = [tmp_path / f"{name}{suffix}" for name in ("straight", "chunks")]
    for output, resume in zip(outputs, ("false", "true"), strict=True):
        changes = [*settings, f"chunks.resume={resume}"]
        restore_video(film, output, configs.load(PipelineConfig, None, changes))
    assert packets(outputs[1]) == packets(outputs[0])
    assert shown_times(outputs[1]) == shown_times(outputs[0])
    with av.open(str(outputs[0])) as before, av.open(str(outputs[1])) as after:
        first, second = before.streams.video[0].codec_context, after.streams.video[0].codec_context
        assert first.extradata == second.extradata
        times = [packet.dts for packet in after.demux(video=0) if packet.dts is not None]
    assert times == sorted(set(times))


def test_decoding_times_grow_and_come_before_the_frames_are_shown() -> None:
    random.seed(4)
    for count, reach in itertools.product((1, 2, 9, 50), (0, 1, 4)):
        times = sorted(random.sample(range(1000), count))
        order = sorted(range(count), key=lambda place: place + random.randint(0, reach))
        shown_in_order = [times[place] for place in order]
        decoded = decoding_times(shown_in_order)
        assert decoded == sorted(set(decoded))
        assert all(a <= b for a, b in zip(decoded, shown_in_order, strict=True))
        if reach == 0:
            assert decoded == times


def started(film: Path, output: Path, *more: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command(film, output, "--resume", *more),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.01)


def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_film(
    film: Path, straight: tuple[Report, list[tuple[object, str]]], tmp_path: Path
) -> None:
    """Killed while it starts, looks, restores or joins; as soon as a film is whole, the next one is begun."""
    output = tmp_path / "out.mkv"
    chance = random.Random(7)

    def finished() -> int:
        return 9 if output.exists() else len(list(parts(output).glob("*.json")))

    def whole() -> bool:
        if not output.exists() or parts(output).exists():
            return False
        assert shown(output) == straight[1]
        assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]
        output.unlink()
        return True

    for _ in range(KILLS):
        process = started(film, output)
        awaited = finished() + chance.randrange(4)
        while process.poll() is None and finished() < awaited:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        ended(process)
        whole()
    restore_video(film, output, RESUME)
    assert whole()


def test_ctrl_c_says_how_to_go_on(film: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    # Whoever runs these tests in the background may have Ctrl-C ignored.
    process = started(film, output, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    until((parts(output) / "00000.json").exists, process)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    assert f"of 4 chunks are kept in {parts(output)}, run the same command with --resume to continue" in said
    assert len(said.splitlines()) == 1


def test_a_full_disk_is_told_and_nothing_is_lost(
    film: Path, straight: tuple[Report, list[tuple[object, str]]], tmp_path: Path
) -> None:
    """Files may not grow beyond what a chunk takes: the joined film is refused."""
    output = tmp_path / "out.mkv"
    most = 1_000_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    code, said = ended(started(film, output, preexec_fn=limit))
    assert code == 4
    assert "the disk is full" in said
    assert "chunks are kept" in said
    assert len(said.splitlines()) == 1
    assert not output.exists()
    assert restore_video(film, output, RESUME).kept > 0
    assert shown(output) == straight[1]
