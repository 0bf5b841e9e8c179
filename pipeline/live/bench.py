"""`python -m pipeline.bench live`: a clip in real time through the whole way, and how late it comes out."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av

from pipeline.config import PipelineConfig
from pipeline.live.addresses import sink_address, source_address
from pipeline.live.command import restore_live
from pipeline.live.report import LiveReport

Repeat = Callable[[Path, Path, int], None]


def live(
    clip: Path, config: PipelineConfig, seconds: float, repeat: Repeat, sink: str = "null:"
) -> LiveReport:
    """Delay from capture to output of `clip`, played in real time for `seconds`, by the times its frames carry.

    `repeat` writes a clip several times in a row, where it is shorter. Prints the figures, the memory of the process
    after warm-up and at the end, and each step of the ladder with its second.
    """
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        longer = Path(folder) / "clip.mkv"
        repeat(clip, longer, max(1, math.ceil(seconds / _length(clip))))
        source = source_address(str(longer))
        report = restore_live(source, sink_address(sink), config, duration_seconds=seconds, watch=watch.see)
    came, went = report.rates
    print(f"{clip.name}, load of the machine {_load()}")
    print(report.summary())
    print(f"frames out for frames in: {100 * went / max(came, 1e-6):.1f} %")
    print(f"memory: {watch.first_mib:.0f} MiB after warm-up, {_memory_mib():.0f} MiB at the end")
    print("ladder: " + ", ".join(f"{second:.1f} s {step}" for second, step in watch.steps))
    return report


class _Watch:
    def __init__(self) -> None:
        self.first_mib = 0.0
        self.steps: list[tuple[float, str]] = []

    def see(self, report: LiveReport) -> None:
        self.first_mib = self.first_mib or _memory_mib()
        if not self.steps or self.steps[-1][1] != report.step:
            self.steps.append((report.seconds, report.step))


def _length(clip: Path) -> float:
    with av.open(str(clip)) as container:
        return max((container.duration or 0) / av.time_base, 0.04)


def _memory_mib() -> float:
    """Memory of this process in use now; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "unknown"
