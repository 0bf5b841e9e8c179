"""A Ray cluster restores chunks of one film as one process does; a cluster that does not answer costs nothing."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from configs import ConfigError
from pipeline import PipelineConfig, restore_video
from pipeline.cli import main
from pipeline.errors import SourceError
from pipeline.media.files import WorkFolder
from pipeline.report.provenance import fingerprint
from pipeline.runs.chunks.first_pass import Chunk, Plan
from pipeline.runs.chunks.workers import ClusterWorker, Job, joined_cluster
from support.clips import packets
from support.films import FRAMES, ROOT, SETTINGS, command, environment, shown, write_film

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (extra `scale`)"
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "in.mp4")


def settings(*changes: str) -> PipelineConfig:
    return configs.load(PipelineConfig, None, [*SETTINGS, *changes])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@needs_ray
def test_two_workers_of_a_cluster_give_the_film_of_a_straight_run_though_one_is_lost(
    film: Path, tmp_path: Path
) -> None:
    restore_video(film, tmp_path / "straight.mkv", settings())
    restore_video(film, tmp_path / "chunks.mkv", settings("chunks.resume=true"))
    output = tmp_path / "out.mkv"
    ran = subprocess.run(
        [
            *command(film, output, "--ray", "local", "--workers", "2"),
            *("--set", "restorer.kind=support.films:LostOnceRestorer", "--progress", "json"),
        ],
        cwd=ROOT,
        env={**environment(), "ANCHORFACE_LOST": str(tmp_path / "lost")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "lost").exists()
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["frames"] == told["restored"] == FRAMES
    assert any("a worker was lost over chunk" in warning for warning in told["warnings"])
    assert shown(output) == shown(tmp_path / "straight.mkv")
    kinds = ("video", "audio", "subtitle")
    assert packets(output, kinds) == packets(tmp_path / "chunks.mkv", kinds)
    assert not output.with_name("out.mkv.parts").exists()


@needs_ray
def test_a_cluster_that_does_not_answer_is_told_and_nothing_is_lost(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mkv"
    address = f"127.0.0.1:{free_port()}"
    assert main([str(film), str(output), "--ray", address, "--progress", "none"]) == 2
    said = capsys.readouterr().err
    assert f"nobody answers at {address}" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / "out.mkv.parts"
    kept.mkdir()
    (kept / "00000.packets").write_bytes(b"precious")
    assert main([str(film), str(output), "--ray", f"ray://{address}", "--resume", "--progress", "none"]) == 2
    assert (kept / "00000.packets").read_bytes() == b"precious"


@needs_ray
def test_the_address_of_the_environment_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="nobody answers"), joined_cluster("auto"):
        pass


@needs_ray
@pytest.mark.parametrize("address", ["film.mp4", "host", "host:port", ":6379"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address; give HOST:PORT.*--ray goes after OUT"):
        joined_cluster(address).__enter__()


def test_without_ray_one_sentence_says_how_to_get_it(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e \"\.\[scale\]\""):
        restore_video(film, tmp_path / "out.mkv", settings("chunks.ray=auto"))
    assert list(tmp_path.iterdir()) == []


def test_a_node_with_another_version_or_without_the_film_is_named(film: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    plan, chunk = Plan((), [], [], [], []), Chunk(0, 0, 10, False, "")
    depends = fingerprint(film, settings())

    def worker(input: Path, depends: dict[str, str]) -> ClusterWorker:
        return ClusterWorker(Job(input, output, settings(), plan, threads=1), depends)

    with pytest.raises(SourceError, match="must lie where every node finds them"):
        worker(film, depends).restore(chunk)
    with WorkFolder(output).held():
        with pytest.raises(SourceError, match="must lie where every node finds them"):
            worker(film.with_name("elsewhere.mp4"), depends).restore(chunk)
        with pytest.raises(SourceError, match=r"version was 0\.0, now it is"):
            worker(film, {**depends, "version": "0.0"}).restore(chunk)
