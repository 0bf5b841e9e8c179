"""A long film: whether memory stays flat, and whether the report's page stays light."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av

SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.98)
"""Parts of the film at which the memory is told."""


def endurance(
    clip: Path, frames: int, changes: Sequence[str], repeat: Callable[[Path, Path, int], None]
) -> None:
    """Memory of the command along a film of at least so many `frames`, `clip` again and again, and its page.

    The page is opened in a headless Chromium where there is one, beside an empty page. Reads /proc: Linux only.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeat(clip, folder / "once.mp4", 1)
        times = -(-frames // _count(folder / "once.mp4"))
        repeat(clip, folder / "film.mp4", times)
        command = [sys.executable, "-m", "pipeline", str(folder / "film.mp4"), str(folder / "out.mp4")]
        command += ["--report", str(folder / "page.html"), "--progress", "json"]
        print(f"{clip.name} {times} times: {times * _count(folder / 'once.mp4')} frames", flush=True)
        started = time.perf_counter()
        changed = [word for change in changes for word in ("--set", change)]
        report = _tell_memory([*command, *changed], times * _count(folder / "once.mp4"))
        seconds = time.perf_counter() - started
        print(f"  {report['frames']} frames in {seconds:.0f} s, {report['restored']} faces restored")
        _page(folder / "page.html")


def _tell_memory(command: Sequence[str], total: int) -> dict[str, Any]:
    """Runs `command`, tells its resident memory at `SHARES` of its frames, and gives what it says at its end."""
    left = list(SHARES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "done":
                return dict(told)
            if told["event"] == "progress" and left and told["frame"] >= left[0] * total:
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                print(f"  frame {told['frame']}: {int(found[1]) / 1024 if found else 0:.0f} MiB", flush=True)
                left = [share for share in left if share * total > told["frame"]]
    raise RuntimeError("the run did not end well")


def _page(page: Path) -> None:
    print(f"  page: {page.stat().st_size / 1e6:.2f} MB")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("  no Chromium here: the page was not opened")
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
