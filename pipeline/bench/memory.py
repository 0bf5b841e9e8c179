"""Memory of the command on long films, and size of the report's page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from pipeline.bench.speed import child

SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.98)
"""Shares of the film at which memory is printed."""


def long(clip: Path, frames: int, changes: Sequence[str]) -> None:
    """Memory of the command along a film of at least `frames` frames, made by repeating `clip`, and its report's page.

    The page is opened in headless Chromium, if there is one, beside an empty page. Reads /proc: Linux only.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _repeat(clip, folder / "once.mp4", 1)
        length = _count(folder / "once.mp4")
        times = -(-frames // length)
        _repeat(clip, folder / "film.mp4", times)
        command = _command(folder / "film.mp4", folder / "out.mp4", "json", changes)
        print(f"{clip.name} {times} times: {times * length} frames", flush=True)
        started = time.perf_counter()
        report = _print_memory([*command, "--report", str(folder / "page.html")], times * length)
        seconds = time.perf_counter() - started
        print(f"  {report['frames']} frames in {seconds:.0f} s, {report['restored']} faces restored")
        _page(folder / "page.html")


def memory(clips: list[Path], changes: Sequence[str]) -> None:
    """Peak memory of the command on a clip and on the same clip ten times in a row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in clips:
            peaks = []
            for times in (1, 10):
                longer = folder / f"{times}.mp4"
                _repeat(clip, longer, times)
                peaks.append(child(_command(longer, folder / f"out{times}.mp4", "none", changes)).peak_mib)
            print(
                f"{clip.name}: peak {peaks[0]:.0f} MiB, ten times as long {peaks[1]:.0f} MiB, "
                f"ratio {peaks[1] / peaks[0]:.3f}"
            )


def _command(film: Path, output: Path, progress: str, changes: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pipeline", str(film), str(output), "--progress", progress]
    return [*command, *(word for change in changes for word in ("--set", change))]


def _print_memory(command: Sequence[str], total: int) -> dict[str, Any]:
    """Runs `command`, prints its resident memory at `SHARES` of its frames and returns its last report."""
    left = list(SHARES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                return dict(event)
            if event["event"] == "progress" and left and event["frame"] >= left[0] * total:
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                print(f"  frame {event['frame']}: {int(found[1]) / 1024 if found else 0:.0f} MiB", flush=True)
                left = [share for share in left if share * total > event["frame"]]
    raise RuntimeError("the run failed")


def _page(page: Path) -> None:
    print(f"  page: {page.stat().st_size / 1e6:.2f} MB")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("  Chromium not found: the page was not opened")
        return
    empty = page.with_name("empty.html")
    empty.write_text("<!doctype html><title>empty</title>")
    spent = []
    for each in (empty, page):
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", each.as_uri()]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        spent.append(time.perf_counter() - started)
    print(f"  opened in {spent[1]:.2f} s, an empty page in {spent[0]:.2f} s (browser's start included)")


def _count(clip: Path) -> int:
    with av.open(str(clip)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _repeat(clip: Path, output: Path, times: int) -> None:
    """Writes the video of `clip`, repeated `times` times and encoded again, to `output`."""
    with av.open(str(output), "w") as target:
        encoded, count = None, 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if encoded is None:
                    encoded = target.add_stream(
                        "libx264", rate=video.average_rate, options={"preset": "veryfast"}
                    )
                    encoded.width, encoded.height, encoded.pix_fmt = video.width, video.height, "yuv420p"
                for frame in source.decode(video):
                    frame.pts, frame.time_base = count, 1 / Fraction(video.average_rate or 25)
                    count += 1
                    target.mux(encoded.encode(frame))
        assert encoded is not None
        target.mux(encoded.encode(None))
