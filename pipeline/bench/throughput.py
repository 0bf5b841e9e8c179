"""`python -m pipeline.bench table`: what each way of restoring costs, and how that grows with the faces in a frame."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
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
from pipeline.bench.speed import child
from pipeline.build import resolved_precision
from pipeline.config import RestorerConfig

MOST_FACES = 8
_TILE = (320, 360)
"""Width and height of a portrait; four by two of them fill the frame."""
_TRANSCODE = (
    "import sys, time; from pathlib import Path; from pipeline.bench.speed import seconds_of, transcode;"
    "begun = time.process_time(); print(seconds_of(transcode, *map(Path, sys.argv[1:])), time.process_time() - begun)"
)


@dataclass(frozen=True, slots=True)
class Way:
    """One row of the table."""

    name: str
    faces: int
    """In each frame."""
    changes: tuple[str, ...] | None
    """Settings as `a.b=c`; None: a plain transcode."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a way cost."""

    frames_per_second: float
    faces_per_second: float
    """Faces that were restored, carried ones included."""
    network_share: float
    """Of them, those that went through the network."""
    stage_ms: dict[str, float]
    """Milliseconds per frame that each stage worked; they run beside each other."""
    processor_ms: float
    """Of all cores together, per frame: what a busy machine changes least."""
    peak_mib: float


def ways(restorers: tuple[str, ...] = ("fast", "iconface")) -> list[Way]:
    """All rows, in order."""
    found = [Way("plain transcode", 1, None), Way("tracking only", 1, ("restorer.kind=none",))]
    for kind, steps in (("fast", (None,)), ("iconface", (1, 2, 4))):
        for count in steps if kind in restorers else ():
            name = kind if count is None else f"{kind}, {count} {'step' if count == 1 else 'steps'}"
            own = (f"restorer.kind={kind}", *(() if count is None else (f"restorer.steps={count}",)))
            found.append(Way(name, 1, own))
            found.append(Way(f"{name}, without reuse", 1, (*own, "restore.reuse=false")))
    if "fast" in restorers:
        found += [Way("fast", count, ("restorer.kind=fast",)) for count in (2, 4, MOST_FACES)]
    return found


def table(rounds: int, frames: int, changes: list[str], output: Path | None, chosen: list[Way]) -> None:
    """Cost of plain transcode, tracking, `fast` and `iconface`, with and without reuse, for 1 to 8 faces.

    On a generated clip, 1280x720 at 25 frames per second. All ways take turns, each in a process of its own, and
    medians over the rounds are printed, and written to `output` as JSON. Rates leave out the loading of networks.
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
    _tell(medians)
    facts = machine(rounds, frames)
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if output is not None:
        rows = [{"name": way.name, "faces": way.faces, **asdict(cost)} for way, cost in medians.items()]
        output.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def machine(rounds: int, frames: int) -> dict[str, Any]:
    """What figures depend on besides the code."""
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
    """A clip in which `count` portraits, 1 to 8, sway a little: NASA's picture of Eileen Collins (public domain)."""
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


def _tell(medians: dict[Way, Cost]) -> None:
    stages = list(dict.fromkeys(name for cost in medians.values() for name in cost.stage_ms))
    print("| way | faces | frames/s | faces/s | by network | processor | MiB | " + " | ".join(stages) + " |")
    print("|---" * (7 + len(stages)) + "|")
    for way, cost in medians.items():
        times = " | ".join(f"{cost.stage_ms[name]:.1f}" if name in cost.stage_ms else "" for name in stages)
        print(
            f"| {way.name} | {way.faces} | {cost.frames_per_second:.1f} | {cost.faces_per_second:.1f} "
            f"| {100 * cost.network_share:.0f} % | {cost.processor_ms:.0f} ms | {cost.peak_mib:.0f} | {times} |"
        )
