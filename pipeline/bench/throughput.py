"""Costs of a run: each way of restoring (`table`), and the pipeline against a plain transcode (`overhead`)."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.precision import name_of
from pipeline import __version__
from pipeline.bench.speed import child, seconds_of, transcode
from pipeline.build import resolved_precision
from pipeline.config import PipelineConfig, RestorerConfig
from pipeline.runs.film import restore_video

MOST_FACES = 8
_TILE = (320, 360)
"""Width and height of a portrait; four by two fill the frame."""
_TRANSCODE = (
    "import sys, time; from pathlib import Path; from pipeline.bench.speed import seconds_of, transcode;"
    "begun = time.process_time(); print(seconds_of(transcode, *map(Path, sys.argv[1:])), time.process_time() - begun)"
)


@dataclass(frozen=True, slots=True)
class Way:
    """One row of the table."""

    name: str
    faces: int
    """Faces in each frame."""
    changes: tuple[str, ...] | None
    """Settings as `a.b=c`; None: a plain transcode."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one run."""

    frames_per_second: float
    faces_per_second: float
    """Restored faces, carried ones included."""
    network_share: float
    """Share of them that went through the network."""
    stage_ms: dict[str, float]
    """Work of each stage in milliseconds per frame; stages run in parallel."""
    processor_ms: float
    """Processor time of all cores per frame, the figure that depends least on load."""
    peak_mib: float


def ways(restorers: tuple[str, ...] = ("fast", "iconface")) -> list[Way]:
    """All rows, in order."""
    found = [Way("plain transcode", 1, None), Way("tracking only", 1, ("restorer.kind=none",))]
    for kind, steps in (("fast", (None,)), ("iconface", (1, 2, 4))):
        for count in steps if kind in restorers else ():
            name = kind if count is None else f"{kind}, {count} {'step' if count == 1 else 'steps'}"
            own = (f"restorer.kind={kind}", *(() if count is None else (f"restorer.{kind}.steps={count}",)))
            found.append(Way(name, 1, own))
            found.append(Way(f"{name}, without reuse", 1, (*own, "restore.reuse=false")))
    if "fast" in restorers:
        found += [Way("fast", count, ("restorer.kind=fast",)) for count in (2, 4, MOST_FACES)]
    return found


def table(rounds: int, frames: int, changes: list[str], output: Path | None, chosen: list[Way]) -> None:
    """Cost of a plain transcode, tracking, `fast` and `iconface`, with and without reuse, for 1 to 8 faces.

    On generated clips, 1280x720 at 25 frames per second. The ways take turns, each in a process of its own; medians
    over the rounds are printed and written to `output` as JSON. Rates exclude the loading of networks.
    """
    costs: dict[Way, list[Cost]] = {way: [] for way in chosen}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in {way.faces for way in chosen}:
            write_faces(folder / f"{count}.mp4", count, frames)
        for _ in range(rounds):
            for way in chosen:
                clip = folder / f"{way.faces}.mp4"
                costs[way].append(_cost(way, clip, folder / "out.mp4", frames, changes))
    medians = {way: _median(found) for way, found in costs.items()}
    _print(medians)
    facts = machine(rounds, frames)
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if output is not None:
        rows = [{"name": way.name, "faces": way.faces, **asdict(cost)} for way, cost in medians.items()]
        output.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def overhead(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Time of `--restorer none` (detection and tracking) against a plain PyAV transcode with the same encoder.

    Without CLIP, a generated 720p clip without faces is measured. Both are timed from opening to closing the files,
    including the loading of models but not imports; they take turns, and their medians are compared.
    """
    config = replace(config, restorer=replace(config.restorer, kind="none"))
    with tempfile.TemporaryDirectory() as folder:
        if not clips:
            clips = [Path(folder) / "no_faces_720p.mp4"]
            _write_clip_without_faces(clips[0])
        for clip in clips:
            plain, ours = [], []
            for number in range(runs):
                plain.append(seconds_of(transcode, clip, Path(folder) / f"plain{number}.mp4", config.encode))
                ours.append(seconds_of(restore_video, clip, Path(folder) / f"ours{number}.mp4", config))
            ratio = statistics.median(ours) / statistics.median(plain)
            print(
                f"{clip.name}: plain transcode {statistics.median(plain):.2f} s, "
                f"--restorer none {statistics.median(ours):.2f} s, ratio {ratio:.2f} (median of {runs})"
            )


def machine(rounds: int, frames: int) -> dict[str, Any]:
    """Facts about this machine that figures depend on."""
    cuda = torch.cuda.is_available()
    return {
        "version": __version__,
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": name_of(resolved_precision(RestorerConfig())),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "rounds": rounds,
        "frames": frames,
    }


def write_faces(path: Path, count: int, frames: int) -> None:
    """Writes a clip of 1 to 8 swaying portraits: NASA's picture of Eileen Collins (public domain)."""
    portraits = [_portrait(index) for index in range(count)]
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "27", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(frames):
            view = np.full((720, 1280, 3), 90.0, np.float32)
            for place, portrait in enumerate(portraits):
                x, y = place % 4 * _TILE[0], place // 4 * _TILE[1]
                phase = index / 9 + place
                sway = np.array([[1, 0, 5 * np.sin(phase)], [0, 1, 3 * np.cos(0.7 * phase)]], np.float32)
                view[y : y + _TILE[1], x : x + _TILE[0]] = cv2.warpAffine(
                    portrait, sway, _TILE, borderMode=cv2.BORDER_REPLICATE
                )
            view += rng.normal(0, 3, (720, 1280, 1))
            frame = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_clip_without_faces(path: Path, frames: int = 150) -> None:
    """Writes a pan over a cup of coffee: 1280x720, 25 frames per second."""
    from skimage.data import coffee

    picture = cv2.resize(
        coffee(),  # type: ignore[no-untyped-call]
        (1800, 1200),
        interpolation=cv2.INTER_CUBIC,
    )
    noise = np.random.default_rng(0).normal(0, 4, (720, 1280, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(frames):
            left, top = 2 * index, index
            view = picture[top : top + 720, left : left + 1280] + np.roll(noise, 7 * index, 1)
            frame = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _portrait(index: int) -> NDArray[np.float32]:
    from skimage.data import astronaut

    picture = astronaut()[: _TILE[1], 60 : 60 + _TILE[0]]  # type: ignore[no-untyped-call]
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.2) * (1 - 0.05 * (index // 2))
    return np.asarray(picture[:, ::-1] if index % 2 else picture, np.float32)


def _cost(way: Way, clip: Path, output: Path, frames: int, changes: list[str]) -> Cost:
    if way.changes is None:
        ran = child([sys.executable, "-c", _TRANSCODE, str(clip), str(output)])
        seconds, processor = map(float, ran.output.split())
        return Cost(frames / seconds, 0.0, 0.0, {}, 1000 * processor / frames, ran.peak_mib)
    command = [sys.executable, "-m", "pipeline", str(clip), str(output), "--overwrite", "--progress", "json"]
    for change in (*way.changes, *changes):
        command += ["--set", change]
    ran = child(command)
    report = json.loads(ran.output.splitlines()[-1])
    seconds, restored = report["seconds"], report["restored"]
    return Cost(
        report["frames"] / seconds,
        restored / seconds,
        report["origins"].get("network", 0) / restored if restored else 0.0,
        report["stage_ms"],
        1000 * report["processor_seconds"] / report["frames"],
        ran.peak_mib,
    )


def _median(costs: list[Cost]) -> Cost:
    def middle(name: str) -> float:
        return float(round(statistics.median(getattr(cost, name) for cost in costs), 2))

    stages = {
        name: round(statistics.median(cost.stage_ms[name] for cost in costs), 1) for name in costs[0].stage_ms
    }
    return Cost(
        middle("frames_per_second"),
        middle("faces_per_second"),
        middle("network_share"),
        stages,
        middle("processor_ms"),
        middle("peak_mib"),
    )


def _print(medians: dict[Way, Cost]) -> None:
    stages = list(dict.fromkeys(name for cost in medians.values() for name in cost.stage_ms))
    print("| way | faces | frames/s | faces/s | by network | processor | MiB | " + " | ".join(stages) + " |")
    print("|---" * (7 + len(stages)) + "|")
    for way, cost in medians.items():
        times = " | ".join(f"{cost.stage_ms[name]:.1f}" if name in cost.stage_ms else "" for name in stages)
        print(
            f"| {way.name} | {way.faces} | {cost.frames_per_second:.1f} | {cost.faces_per_second:.1f} "
            f"| {100 * cost.network_share:.0f} % | {cost.processor_ms:.0f} ms | {cost.peak_mib:.0f} | {times} |"
        )
