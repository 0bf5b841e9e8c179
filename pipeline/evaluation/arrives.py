"""How much of what the network restores arrives in the written picture, and what takes the rest, as a table.

`python -m pipeline.evaluation.arrives FACES --perceptual WEIGHTS` measures a folder of aligned portraits; `--row` adds
rows with settings of their own. docs/delivery.md explains the figures. Exit codes: 0 done, 2 a wrong option or
setting, 3 a wrong checkpoint, 4 a file that cannot be read or written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs import ConfigError
from models.evaluation.faces import PRESETS, read_faces
from models.evaluation.measures import SqueezeDistance
from models.weights import CheckpointError
from pipeline.errors import SinkError, SourceError
from pipeline.evaluation.arrival import Arrival, Crops, measure, restore_photos, shown
from pipeline.evaluation.rows import read_trials

SIZES = (150, 256, 400, 700, 1100)
_HEADINGS = (
    *("setting", "damage", "shown", "faces", "of", "change", "perceptual", "PSNR", "SSIM"),
    *("distance: degraded", "written", "bare"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and gives the exit code."""
    options = _parser().parse_args(arguments)
    try:
        for line in _lines(options):
            print(line, flush=True)
    except (ConfigError, ImportError) as error:
        return _refuse(error, 2)
    except CheckpointError as error:
        return _refuse(error, 3)
    except (OSError, SourceError, SinkError) as error:
        return _refuse(error, 4)
    return 0


def _lines(options: argparse.Namespace) -> Iterator[str]:
    """Those of the table."""
    trials = read_trials(options.trials, options.changes)
    distance = SqueezeDistance(options.perceptual)
    sources = read_faces(options.faces, options.count)
    yield _line(_HEADINGS)
    yield _line(["---"] * len(_HEADINGS))
    for preset in options.damage:
        for side in options.sizes:
            photos = [shown(source, seed, preset, side) for seed, source in enumerate(sources)]
            for trial in trials:
                with tempfile.TemporaryDirectory() as folder:
                    crops = restore_photos(photos, trial.config, Path(folder))
                for region in options.regions:
                    arrival = _measured(crops, distance, face=region == "face")
                    yield _line([trial.name, preset, str(side), *_texts(arrival, region)])


def _measured(crops: Sequence[Crops | None], distance: SqueezeDistance, *, face: bool) -> Arrival:
    found = [crop for crop in crops if crop is not None]
    if not found:
        raise SourceError("no face is found in any of these pictures, so there is nothing to measure")
    return measure(found, distance, face=face)


def _texts(arrival: Arrival, region: str) -> list[str]:
    # Of next to no gain there is no share.
    shares = ["-" if share is None else f"{100 * share:.1f} %" for share in (arrival.change, *arrival.gains)]
    return [str(arrival.faces), region, *shares, *(f"{value:.3f}" for value in arrival.distances)]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _refuse(error: Exception, code: int) -> int:
    print(f"anchorface: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation.arrives", description=__doc__)
    parser.add_argument("faces", type=Path, help="indexed folder of aligned portraits")
    parser.add_argument(
        "--perceptual", type=Path, required=True, help="SqueezeNet 1.1 features (safetensors)"
    )
    parser.add_argument("--count", type=int, default=24, help="the first so many portraits")
    parser.add_argument("--damage", nargs="+", choices=tuple(PRESETS), default=list(PRESETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="shown side in pixels")
    parser.add_argument(
        "--regions", nargs="+", choices=("face", "crop"), default=["face", "crop"], help="what is compared"
    )
    parser.add_argument("--set", dest="changes", metavar="A.B=C", action="append", default=[], help="for all")
    parser.add_argument(
        "--row",
        dest="trials",
        metavar="NAME:A.B=C,D.E=F",
        action="append",
        default=[],
        help="one row: these settings over those of --set; may be repeated (default: one row as configured)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
