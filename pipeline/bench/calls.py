"""`python -m pipeline.bench calls`: calls of several sizes, one after the other, as one table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import ConfigError


@dataclass(frozen=True, slots=True)
class Call:
    """A row of the table."""

    name: str
    size: str
    """As in 1280x720."""
    rate: int
    """Frames per second."""
    faces: int
    """1 or 2: which clip is played."""
    settings: tuple[str, ...] = ()


CALLS = (
    Call("640x360, 25 per second", "640x360", 25, 1),
    Call("640x480, 30 per second", "640x480", 30, 1),
    Call("1280x720, 30 per second", "1280x720", 30, 1),
    Call("1280x720, 30 per second, two faces", "1280x720", 30, 2),
    Call("640x480, iconface, 1 step", "640x480", 30, 1, ("restorer.kind=iconface", "restorer.steps=1")),
)


def chosen_calls(only: str) -> list[Call]:
    """The rows with one of the words of `only`, a comma between each, in their name; all for "". Raises ConfigError."""
    found = [call for call in CALLS if any(word in call.name for word in only.split(","))]
    if not found:
        rows = "; ".join(call.name for call in CALLS)
        raise ConfigError(f"--only: no row has {only!r} in its name; there are: {rows}")
    return found


def calls(
    clips: list[Path], seconds: float, chosen: list[Call], changes: list[str], output: Path | None
) -> list[dict[str, Any]]:
    """Delay, rates, steps and memory of calls of several sizes: CLIP with one face, and one with two if there is one.

    Each row is `python -m pipeline.bench live` in a process of its own, so that its memory is its own.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        figures = Path(name) / "row.json"
        for call in chosen:
            if call.faces > len(clips):
                print(f"{call.name}: left out, as there is no second clip", file=sys.stderr)
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
    """`rows`, as `live` writes them, each with a name, in Markdown."""
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
