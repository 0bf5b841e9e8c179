"""`python -m pipeline.bench live|calls`: delay, rates, steps and memory of live runs over a repeated clip."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from configs import ConfigError
from pipeline.bench.throughput import machine
from pipeline.config import PipelineConfig
from pipeline.live.addresses import sink_address, source_address
from pipeline.live.command import restore_live
from pipeline.live.report import Delays, LiveReport

_MOST_FRAMES = 150
"""Frames of the clip that are used: all are kept in memory."""


_WINDOW_SECONDS = 5.0
"""Window over which output and input rates are compared; one frame at either end is about 1 % of it."""
_LEAST_SECONDS = 1.0
"""Minimum length of the last, partial window."""


@dataclass(frozen=True, slots=True)
class Form:
    """Size and rate to which a clip is converted; None keeps the clip's own."""

    size: tuple[int, int] | None = None
    """Width and height in pixels, both even; the picture is scaled to fill them and cropped."""
    rate: Fraction | None = None
    """Frames per second; no frame is dropped or repeated."""


def write_endless(clip: Path, output: Path, seconds: float, form: Form) -> None:
    """Writes the first frames of `clip` forwards and backwards, repeated for `seconds`, as low-delay H.264.

    Backwards too, so that the repetition has no jump. Encoded once and repeated packet by packet.
    """
    with av.open(str(clip)) as source:
        video = source.streams.video[0]
        rate = form.rate or Fraction(video.average_rate or 25)
        frames = [_converted(frame, form.size) for frame in islice(source.decode(video), _MOST_FRAMES)]
    if not frames:
        raise ValueError(f"{clip}: has no frames")
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    with av.open(str(output), "w") as target:
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "22"}
        stream: Any = target.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        packets = list(_encoded(stream, [*frames, *frames[-2:0:-1]], rate))
        for number in range(math.ceil(seconds * rate)):
            data, is_key = packets[number % len(packets)]
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = number
            packet.is_keyframe = is_key
            target.mux(packet)


def _converted(frame: av.VideoFrame, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """`frame` in `size` as stacked YUV 4:2:0 planes, uint8 (H * 3 / 2, W)."""
    if size is None:
        size = (frame.width // 2 * 2, frame.height // 2 * 2)
    scale = max(size[0] / frame.width, size[1] / frame.height)
    large = max(round(frame.width * scale), size[0]), max(round(frame.height * scale), size[1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(frame.to_ndarray(format="rgb24"), large, interpolation=how)
    left, top = (large[0] - size[0]) // 2, (large[1] - size[1]) // 2
    middle = np.ascontiguousarray(image[top : top + size[1], left : left + size[0]], np.uint8)
    return np.asarray(av.VideoFrame.from_ndarray(middle, "rgb24").to_ndarray(format="yuv420p"), np.uint8)


def _encoded(stream: Any, frames: list[NDArray[np.uint8]], rate: Fraction) -> Iterator[tuple[bytes, bool]]:
    for index, planes in enumerate(frames):
        native = av.VideoFrame.from_ndarray(planes, "yuv420p")
        native.pts, native.time_base = index, 1 / rate
        yield from ((bytes(packet), packet.is_keyframe) for packet in stream.encode(native))
    yield from ((bytes(packet), packet.is_keyframe) for packet in stream.encode(None))


@dataclass(frozen=True, slots=True)
class Minute:
    """Figures of one minute of a run; the last one may be shorter."""

    memory_mib: float
    """Memory of the process at its end."""
    p50_ms: int
    """Median delay from capture to output."""
    p95_ms: int
    """95th percentile of the delay."""
    frames: int
    """Frames written."""
    restored: int
    """Frames written with a restored face."""


def live(
    clip: Path,
    config: PipelineConfig,
    seconds: float,
    form: Form | None = None,
    output: Path | None = None,
    sink: str = "null:",
) -> LiveReport:
    """Delay, rates, ladder and memory of a live run over `clip`, played forwards and backwards for `seconds`.

    `form`: conversion of the clip before the run. Prints figures in total and per minute, and the time of each step of
    the ladder; writes all of it to `output` as JSON.
    """
    watch = Watcher()
    with tempfile.TemporaryDirectory() as folder:
        endless = Path(folder) / "clip.mkv"
        # Longer than the run, which must not end with the clip.
        write_endless(clip, endless, seconds + 2, form or Form())
        source = source_address(str(endless))
        report = restore_live(source, sink_address(sink), config, duration_seconds=seconds, watch=watch.see)
    watch.close(report)
    came, went = report.rates
    facts = machine(1, report.received)
    print(f"{clip.name}, load {facts['load']} on {facts['cores']} cores")
    print(report.summary())
    print(f"frames out / in: {100 * went / max(came, 1e-6):.1f} %, ", end="")
    print(f"in the worst {_WINDOW_SECONDS:.0f} s {100 * watch.worst:.1f} %")
    for number, minute in enumerate(watch.minutes, 1):
        print(
            f"minute {number}: delay p50 {minute.p50_ms}, p95 {minute.p95_ms} ms, {minute.restored} of {minute.frames} "
            f"frames restored, {minute.memory_mib:.0f} MiB"
        )
    print(f"memory: {watch.first_mib:.0f} MiB after warm-up, {memory_mib():.0f} MiB at the end")
    print("ladder: " + ", ".join(f"{second:.1f} s {step}" for second, step in watch.steps))
    if output is not None:
        figures = {"clip": clip.name, "machine": facts, **report.as_dict(), **watch.as_dict()}
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return report


class Watcher:
    """Watches the counts of a run; keeps a few numbers per minute and per step."""

    def __init__(self) -> None:
        self.first_mib = 0.0
        """Memory when the first frame was written."""
        self.steps: list[tuple[float, str]] = []
        """Start in seconds and name of each step of the ladder."""
        self.minutes: list[Minute] = []
        self.worst = 1.0
        """Lowest ratio of output to input frames over `_WINDOW_SECONDS`."""
        self._counts = Delays().counts
        self._reported = (0, 0)
        self._since = (0.0, 0, 0)

    def see(self, report: LiveReport) -> None:
        """Called after pictures were written."""
        self.first_mib = self.first_mib or memory_mib()
        if not self.steps or self.steps[-1][1] != report.step:
            self.steps.append((round(report.seconds, 1), report.step))
        if report.seconds - self._since[0] >= _WINDOW_SECONDS:
            self._end_window(report)
        if report.seconds >= 60 * (len(self.minutes) + 1):
            self._end_minute(report)

    def close(self, report: LiveReport) -> None:
        """Ends the last window and minute."""
        if report.seconds - self._since[0] > _LEAST_SECONDS:
            self._end_window(report)
        if report.written > self._reported[0]:
            self._end_minute(report)

    def as_dict(self) -> dict[str, Any]:
        """All figures for JSON."""
        return {
            "out_for_in_worst": round(self.worst, 4),
            "memory_mib": {"after_warm_up": round(self.first_mib, 1), "end": round(memory_mib(), 1)},
            "minutes": [
                {
                    "delay_ms": {"p50": minute.p50_ms, "p95": minute.p95_ms},
                    "frames": minute.frames,
                    "frames_restored": minute.restored,
                    "memory_mib": round(minute.memory_mib, 1),
                }
                for minute in self.minutes
            ],
            "ladder": [{"second": second, "step": step} for second, step in self.steps],
        }

    def _end_window(self, report: LiveReport) -> None:
        _, came, went = self._since
        self._since = (report.seconds, report.received, report.written + report.repeated)
        self.worst = min(self.worst, (self._since[2] - went) / max(report.received - came, 1))

    def _end_minute(self, report: LiveReport) -> None:
        delays = Delays(report.delays.counts - self._counts)
        frames, restored = report.written - self._reported[0], report.frames_restored - self._reported[1]
        self._counts, self._reported = np.copy(report.delays.counts), (report.written, report.frames_restored)
        self.minutes.append(
            Minute(memory_mib(), delays.quantile(0.5), delays.quantile(0.95), frames, restored)
        )


def read_size(text: str) -> tuple[int, int]:
    """Width and height of `--size`. Raises ArgumentTypeError."""
    width, _, height = text.partition("x")
    size = [int(side) if side.isdecimal() else 0 for side in (width, height)]
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise argparse.ArgumentTypeError(f"must be two positive even numbers such as 1280x720, got {text!r}")
    return size[0], size[1]


def read_rate(text: str) -> Fraction:
    """Frames per second of `--rate`. Raises ArgumentTypeError."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive number such as 25 or 30000/1001, got {text!r}")
    return rate


def memory_mib() -> float:
    """Current memory of this process; 0 on systems other than Linux."""
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """A row of the table."""

    name: str
    size: str
    """Width and height, such as 1280x720."""
    rate: int
    """Frames per second."""
    faces: int
    """1 or 2: the number of the clip."""
    settings: tuple[str, ...] = ()


CALLS = (
    Call("640x360, 25 per second", "640x360", 25, 1),
    Call("640x480, 30 per second", "640x480", 30, 1),
    Call("1280x720, 30 per second", "1280x720", 30, 1),
    Call("1280x720, 30 per second, two faces", "1280x720", 30, 2),
    Call(
        "640x480, iconface, 1 step", "640x480", 30, 1, ("restorer.kind=iconface", "restorer.iconface.steps=1")
    ),
)


def chosen_calls(only: str) -> list[Call]:
    """Rows whose name contains one of the comma-separated words of `only`; all for "". Raises ConfigError."""
    found = [call for call in CALLS if any(word in call.name for word in only.split(","))]
    if not found:
        rows = "; ".join(call.name for call in CALLS)
        raise ConfigError(f"--only: no row has {only!r} in its name; rows: {rows}")
    return found


def calls(
    clips: list[Path], seconds: float, chosen: list[Call], changes: list[str], output: Path | None
) -> list[dict[str, Any]]:
    """Delay, rates, steps and memory of calls of several sizes: a CLIP with one face, then optionally one with two.

    Each row is `python -m pipeline.bench live` in a process of its own, so that memory is measured separately.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        figures = Path(name) / "row.json"
        for call in chosen:
            if call.faces > len(clips):
                print(f"{call.name}: left out, because there is no second clip", file=sys.stderr)
                continue
            command = [sys.executable, "-m", "pipeline.bench", "live", str(clips[call.faces - 1])]
            command += ["--seconds", f"{seconds:g}", "--size", call.size, "--rate", str(call.rate)]
            for change in (*call.settings, *changes):
                command += ["--set", change]
            subprocess.run(
                [*command, "--json", str(figures)], check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL
            )
            rows.append({"name": call.name, **json.loads(figures.read_text(encoding="utf-8"))})
    print(as_table(rows))
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of `rows`: figures of `live`, each with a name."""
    heads = (
        "call",
        "frames/s in",
        "out (worst 5 s)",
        "delay p50 / p95 / p99 ms",
        "frames restored",
        "by step",
    )
    lines = [
        "| " + " | ".join((*heads, "MiB after warm-up, at the end")) + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        delay, memory, written = row["delay_ms"], row["memory_mib"], max(row["written"], 1)
        steps = sorted(row["steps"].items(), key=lambda step: -step[1])
        cells = [
            row["name"],
            f"{row['frames_per_second_in']:.1f}",
            f"{row['frames_per_second_out']:.1f} ({100 * row['out_for_in_worst']:.0f} %)",
            f"{delay['p50']} / {delay['p95']} / {delay['p99']}",
            f"{100 * row['frames_restored'] / written:.0f} %",
            ", ".join(f"{name} {100 * count / written:.0f} %" for name, count in steps),
            f"{memory['after_warm_up']:.0f}, {memory['end']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
