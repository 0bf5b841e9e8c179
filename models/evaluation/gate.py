"""How the thresholds of the identity gate were found: `python -m models.evaluation.gate --pairs VAL_PAIRS`.

Held-out people with two pictures each are degraded and restored by `fast` with the other picture as reference. Each
result is measured as the gate does it (`models/recogniser.py`), with one of three anchors: a clear reference, another
degraded view (what a film offers), or none. They are compared with results of another person, half way to another
person, and the clean face, the result of a perfect restoration.

Shapes: N faces, D width of an embedding.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import configs
from configs import ConfigError
from models.evaluation.faces import PRESETS, Cache, degraded, read_pairs, reduced
from models.evaluation.restoration import fast_method, restored
from models.pictures import Picture, recogniser_crop, to_tensor
from models.protocols import References
from models.recogniser import EmbeddedRecogniser, identity_anchor, likeness
from models.weights import CheckpointError

RESTORED, CLEAN, HALF, OTHER = "restored", "the clean face", "half another's", "another's"
ANCHORS = ("a clear reference", "a degraded reference", "no reference")
_FIRST_SEED = 1000
_COLOURS = {RESTORED: "#2e7d32", CLEAN: "#1f4e79", HALF: "#b8860b", OTHER: "#c62828"}
_PANEL, _LEFT, _TOP = (250.0, 140.0), 60.0, 46.0
_STEP = (290.0, 212.0)
_MOST_LOSS = 1.2


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of likeness (N,) of one kind of result."""

    damage: str
    anchor: str
    result: str
    values: NDArray[np.float64]


def main() -> None:
    """Prints a table, and writes the drawing with `--plot`."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluation.gate", description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="held-out people, two pictures each")
    parser.add_argument("--count", type=int, help="only the first COUNT people")
    parser.add_argument("--fast", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--cache", type=Path, help="folder for results that are used again")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        people = [list(pair) for pair in read_pairs(arguments.pairs)[: arguments.count]]
        if len(people) < 2:
            raise ConfigError(f"{arguments.pairs}: two people with two pictures each are needed at least")
        measured = measure(people, arguments.fast, Cache(arguments.cache))
    except (CheckpointError, ConfigError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    thresholds = _thresholds()
    print(table(measured, thresholds))
    if arguments.plot:
        arguments.plot.write_text(drawing(measured, thresholds), encoding="utf-8")


def measure(people: list[list[Picture]], fast: Path | None, cache: Cache) -> list[Losses]:
    """Losses for every damage, anchor and kind of result. `people`: two sources, uint8 (512, 512, 3), of each."""
    sources = [picture for views in people for picture in views]
    targets = [reduced(source) for source in sources]
    others = [index ^ 1 for index in range(len(sources))]
    strangers = [(index + 2) % len(sources) for index in range(len(sources))]
    encoder = EmbeddedRecogniser()
    clean = _embed(encoder, targets)
    references = [References((to_tensor(targets[k]),), clean[k : k + 1], 1) for k in others]
    found = []
    for damage, preset in PRESETS.items():
        inputs = degraded(sources, preset, _FIRST_SEED, cache)
        results = restored(fast_method(fast), inputs, references, cache)
        halves = [_mean(results[k], results[stranger]) for k, stranger in enumerate(strangers)]
        before, after = _embed(encoder, inputs), _embed(encoder, results)
        kinds = {RESTORED: after, CLEAN: clean, HALF: _embed(encoder, halves), OTHER: after[strangers]}
        anchors = dict(zip(ANCHORS, (clean[others], before[others], None), strict=True))
        found += [
            Losses(damage, anchor, kind, _losses(before, result, known))
            for anchor, known in anchors.items()
            for kind, result in kinds.items()
        ]
    return found


def table(measured: list[Losses], thresholds: tuple[float, float]) -> str:
    """Markdown: percentiles of the losses, and how the gate takes them."""
    none_at, all_at = thresholds
    lines = [
        "| damage | anchor | result | loss: 5 % / median / 95 % / most | used fully | in part | not at all |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        low, median, high, most = np.quantile(row.values, (0.05, 0.5, 0.95, 1))
        whole, nothing = (row.values <= all_at).mean(), (row.values >= none_at).mean()
        lines.append(
            f"| {row.damage} | {row.anchor} | {row.result} | {low:.2f} / {median:.2f} / {high:.2f} / {most:.2f} "
            f"| {whole:.0%} | {1 - whole - nothing:.0%} | {nothing:.0%} |"
        )
    return "\n".join(lines)


def drawing(measured: list[Losses], thresholds: tuple[float, float]) -> str:
    """SVG: for each damage and anchor the share of faces whose loss is above a value."""
    damages = list(dict.fromkeys(row.damage for row in measured))
    width = _LEFT + len(ANCHORS) * _STEP[0]
    height = _TOP + len(damages) * _STEP[1] + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
    ]
    for index, (name, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 150 * index
        parts.append(f'<line x1="{x}" x2="{x + 20}" y1="12" y2="12" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 26}" y="16">{escape(name)}</text>')
    for line, damage in enumerate(damages):
        for column, anchor in enumerate(ANCHORS):
            rows = [row for row in measured if (row.damage, row.anchor) == (damage, anchor)]
            place = (_LEFT + column * _STEP[0], _TOP + line * _STEP[1])
            parts += _panel(place, f"{damage}, {anchor}", rows, thresholds)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    place: tuple[float, float], title: str, rows: list[Losses], thresholds: tuple[float, float]
) -> list[str]:
    (left, top), (width, height) = place, _PANEL

    def across(loss: float) -> float:
        return left + min(max(loss, 0.0), _MOST_LOSS) / _MOST_LOSS * width

    none_at, all_at = thresholds
    parts = [
        f'<text x="{left}" y="{top - 6}">{escape(title)}</text>',
        f'<rect x="{across(all_at):.1f}" y="{top}" width="{across(none_at) - across(all_at):.1f}" '
        f'height="{height}" fill="#eee"/>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>',
        f'<text x="{left + width / 2}" y="{top + height + 30}" text-anchor="middle">loss of likeness</text>',
    ]
    parts += [
        f'<text x="{across(loss):.1f}" y="{top + height + 15}" text-anchor="middle">{loss:.1f}</text>'
        for loss in np.linspace(0, _MOST_LOSS, 7)
    ]
    parts += [
        f'<text x="{left - 6}" y="{top + (1 - share) * height + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    ]
    for row in rows:
        values = np.sort(row.values)
        steps = [f"{left},{top}"]
        for passed, value in enumerate(values):
            y = [top + (passed + more) / len(values) * height for more in (0, 1)]
            steps += [f"{across(float(value)):.1f},{each:.1f}" for each in y]
        parts.append(
            f'<polyline points="{" ".join(steps)}" fill="none" stroke="{_COLOURS[row.result]}" stroke-width="1.8"/>'
        )
    return parts


def _thresholds() -> tuple[float, float]:
    """The gate's, out of the shipped settings: nothing of a restoration is used at the first, all at the second."""
    settings = tomllib.loads(configs.preset("default").read_text(encoding="utf-8"))
    none_at, all_at = settings["gate"]["loss"]
    return float(none_at), float(all_at)


def _losses(before: Tensor, after: Tensor, known: Tensor | None) -> NDArray[np.float64]:
    anchors = [None] * len(before) if known is None else [identity_anchor(each[None]) for each in known]
    return np.array([likeness(*each).loss for each in zip(before, after, anchors, strict=True)])


def _embed(encoder: EmbeddedRecogniser, pictures: list[Picture]) -> Tensor:
    return torch.cat([encoder.embed(recogniser_crop(to_tensor(picture))[None]) for picture in pictures])


def _mean(first: Picture, second: Picture) -> Picture:
    return ((first.astype(np.uint16) + second) // 2).astype(np.uint8)


if __name__ == "__main__":
    main()
