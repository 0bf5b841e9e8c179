"""Several processes restore chunks of one film as one process does."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import configs
from configs import ConfigError
from pipeline import PipelineConfig, restore_video
from pipeline.errors import SinkError
from support.clips import packets
from support.films import FRAMES, ROOT, SETTINGS, command, environment, shown, write_film


def settings(*more: str) -> PipelineConfig:
    return configs.load(PipelineConfig, None, [*SETTINGS, *more])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "in.mp4")


def test_two_workers_give_the_frames_and_the_counts_of_a_straight_run(film: Path, tmp_path: Path) -> None:
    straight = restore_video(film, tmp_path / "straight.mkv", settings())
    told: list[int] = []
    report = restore_video(
        film, tmp_path / "out.mkv", settings("chunks.workers=2"), watch=lambda r: told.append(r.frames)
    )
    assert shown(tmp_path / "out.mkv") == shown(tmp_path / "straight.mkv")
    same = ("frames", "faces", "restored", "origins", "passed", "people", "tracks", "references", "held_back")
    assert [getattr(report, name) for name in same] == [getattr(straight, name) for name in same]
    assert told[-1] == FRAMES
    assert not (tmp_path / "out.mkv.parts").exists()


def test_packets_of_two_workers_are_those_of_one_process(film: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    for output, workers in zip(outputs, (1, 2), strict=True):
        changes = [
            "restorer.kind=none",
            "encode.codec=h264",
            f"chunks.workers={workers}",
            "chunks.resume=true",
        ]
        restore_video(film, output, settings(*changes))
    kinds = ("video", "audio", "subtitle")
    assert packets(outputs[0], kinds) == packets(outputs[1], kinds)


def test_workers_end_with_the_run_that_is_killed_and_their_chunks_are_kept(
    film: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mkv"
    process = subprocess.Popen(
        command(film, output, "--workers", "2"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "out.mkv.parts"
    while not list(parts.glob("0000?.json")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    with pytest.raises(SinkError, match="continue with --resume"):
        restore_video(film, output, settings("chunks.workers=2"))
    kept = restore_video(film, output, settings("chunks.resume=true")).kept
    assert kept > 0
    restore_video(film, tmp_path / "straight.mkv", settings())
    assert shown(output) == shown(tmp_path / "straight.mkv")


def test_there_is_one_worker_at_least() -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        settings("chunks.workers=0")
