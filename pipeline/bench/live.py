"""`python -m pipeline.bench live`: a clip in real time through the whole way, how late it comes out, and memory."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.endless import Form, write_endless
from pipeline.bench.throughput import machine
from pipeline.config import PipelineConfig
from pipeline.live.addresses import sink_address, source_address
from pipeline.live.command import restore_live
from pipeline.live.report import Delays, LiveReport

_WINDOW_SECONDS = 5.0
"""Over so long the output's rate is compared with the input's: a frame more or less at either end is 1 % of it."""
_LEAST_SECONDS = 1.0
"""The last, partial window counts where it is longer."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What one minute of a run was like; the last one may be shorter."""

    memory_mib: float
    """Of the process in use at its end."""
    p50_ms: int
    """Delay from capture to output that half of its frames did not exceed."""
    p95_ms: int
    """The same for 95 % of them."""
    frames: int
    """Frames that went out."""
    restored: int
    """Of them, those with a face restored."""


def live(
    clip: Path,
    config: PipelineConfig,
    seconds: float,
    form: Form | None = None,
    output: Path | None = None,
    sink: str = "null:",
) -> LiveReport:
    """Delay from capture to output of `clip`, played in real time, forth and back, for so many `seconds`.

    `form`: what the clip is brought to before. Prints the figures, memory and delay minute by minute, and each step of
    the ladder with its second; writes all of it to `output` as JSON.
    """
    watch = Watcher()
    with tempfile.TemporaryDirectory() as folder:
        endless = Path(folder) / "clip.mkv"
        # A little longer, so that its end is not the run's.
        write_endless(clip, endless, seconds + 2, form or Form())
        source = source_address(str(endless))
        report = restore_live(source, sink_address(sink), config, duration_seconds=seconds, watch=watch.see)
    watch.close(report)
    came, went = report.rates
    facts = machine(1, report.received)
    print(f"{clip.name}, load of the machine {facts['load']} on {facts['cores']} cores")
    print(report.summary())
    print(f"frames out for frames in: {100 * went / max(came, 1e-6):.1f} %, ", end="")
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
    """Looks at the counts of a run while it goes on. Remembers little: a few numbers for each minute and each step."""

    def __init__(self) -> None:
        self.first_mib = 0.0
        """Memory in use when the first frame went out."""
        self.steps: list[tuple[float, str]] = []
        """The second of each step of the ladder, and its name."""
        self.minutes: list[Minute] = []
        self.worst = 1.0
        """The lowest share of frames that went out of those that came, over a few seconds."""
        self._counts = Delays().counts
        self._told = (0, 0)
        self._since = (0.0, 0, 0)

    def see(self, report: LiveReport) -> None:
        """Called whenever pictures went out."""
        self.first_mib = self.first_mib or memory_mib()
        if not self.steps or self.steps[-1][1] != report.step:
            self.steps.append((round(report.seconds, 1), report.step))
        if report.seconds - self._since[0] >= _WINDOW_SECONDS:
            self._end_window(report)
        if report.seconds >= 60 * (len(self.minutes) + 1):
            self._end_minute(report)

    def close(self, report: LiveReport) -> None:
        """At the end of the run."""
        if report.seconds - self._since[0] > _LEAST_SECONDS:
            self._end_window(report)
        if report.written > self._told[0]:
            self._end_minute(report)

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
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
        frames, restored = report.written - self._told[0], report.frames_restored - self._told[1]
        self._counts, self._told = np.copy(report.delays.counts), (report.written, report.frames_restored)
        self.minutes.append(
            Minute(memory_mib(), delays.quantile(0.5), delays.quantile(0.95), frames, restored)
        )


def read_size(text: str) -> tuple[int, int]:
    """Width and height of `--size`. Raises ArgumentTypeError."""
    width, _, height = text.partition("x")
    size = [int(side) if side.isdecimal() else 0 for side in (width, height)]
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise argparse.ArgumentTypeError(f"must be two even numbers above 0 as in 1280x720, got {text!r}")
    return size[0], size[1]


def read_rate(text: str) -> Fraction:
    """Frames per second of `--rate`. Raises ArgumentTypeError."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 as in 25 or 30000/1001, got {text!r}")
    return rate


def memory_mib() -> float:
    """Memory of this process in use now; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
