"""Quality of whole runs, frame by frame and over time: clips through several settings, side by side.

`python -m pipeline.evaluation CLIP ... [--ground-truth] [--row NAME:a.b=c,d.e=f ...]` prints one Markdown table;
`--json` and `--plots` write the values of each frame. Restored pictures are measured without encoding.
With `--ground-truth` each clip is the target: it is degraded first, reproducibly, and the restored pictures are
compared with it. Exit codes: 0 done, 2 wrong option or setting, 3 wrong checkpoint, 4 unreadable or unwritable
file. docs/temporal.md explains each figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

import configs
from configs import ConfigError
from models.evaluation.faces import Cache
from models.evaluation.measures import Judge, SqueezeDistance
from models.recogniser import EmbeddedRecogniser
from models.weights import CheckpointError
from pipeline.build import build_detector
from pipeline.config import PipelineConfig
from pipeline.evaluation.clips import STRENGTHS, Clip, degraded_clip, plain_clip
from pipeline.evaluation.meter import Instruments
from pipeline.evaluation.rows import measure_clip, read_trials
from pipeline.evaluation.scores import ClipScores, as_json, notes, table, write_plots


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _check_outputs(options)
        clips = _measure(options)
        text = f"{table(clips)}\n\n{notes(clips)}"
        if options.table:
            options.table.write_text(text + "\n", encoding="utf-8")
        if options.json:
            values = {"options": _relevant(options), "clips": as_json(clips)}
            options.json.write_text(json.dumps(values, indent=1), encoding="utf-8")
        if options.plots:
            write_plots(options.plots, clips)
    except (ConfigError, ImportError) as error:
        return _refuse(error, 2)
    except CheckpointError as error:
        return _refuse(error, 3)
    except OSError as error:
        return _refuse(error, 4)
    print(text)
    return 0


def _measure(options: argparse.Namespace) -> list[ClipScores]:
    common = list(options.changes)
    if options.seconds is not None:
        common.append(f"input.duration_seconds={options.seconds}")
    config = configs.load(PipelineConfig, None, common)
    trials = read_trials(options.trials, common)
    instruments = Instruments(
        build_detector(config.detector),
        EmbeddedRecogniser(),
        _perceptual(options.perceptual),
        Judge(Cache(None)) if options.judge else None,
    )
    # All clips are opened before the first is measured, so that a wrong name fails at once.
    clips = [plain_clip(path, config) for path in options.clips]
    scores = []
    for clip in clips:
        with tempfile.TemporaryDirectory() as folder:
            measured = _degraded(clip, config, Path(folder), options, instruments)
            scores.append(measure_clip(measured, config, trials, instruments))
    return scores


def _degraded(
    clip: Clip, config: PipelineConfig, folder: Path, options: argparse.Namespace, instruments: Instruments
) -> Clip:
    if not options.ground_truth:
        return clip
    return degraded_clip(
        clip.path, config, folder, strength=options.strength, seed=options.seed, instruments=instruments
    )


def _perceptual(path: Path | None) -> SqueezeDistance | None:
    if path is None:
        return None
    try:
        distance = SqueezeDistance(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); --perceptual takes SqueezeNet 1.1 features"
        ) from error
    missing = [
        f"{name}.bias" for name in ("conv1", "fire9.expand3x3") if f"{name}.bias" not in distance.state
    ]
    if missing:
        raise CheckpointError(f"{path}: not the features of SqueezeNet 1.1, it lacks {missing[0]}")
    return distance


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuses unwritable outputs before anything is measured."""
    for path in (options.table, options.json):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: no such folder to write into")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)


def _relevant(options: argparse.Namespace) -> dict[str, object]:
    """The options that the figures depend on."""
    names = ("ground_truth", "strength", "seed", "seconds", "changes", "trials")
    return {name: getattr(options, name) for name in names}


def _refuse(error: Exception, code: int) -> int:
    print(f"anchorface: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation", description=__doc__)
    parser.add_argument("clips", metavar="CLIP", nargs="+", type=Path, help="a video")
    parser.add_argument(
        "--ground-truth",
        action="store_true",
        help="use the clips as ground truth and restore degraded copies",
    )
    parser.add_argument(
        "--strength", choices=STRENGTHS, default="moderate", help="strength of the degradation"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the degradation")
    parser.add_argument(
        "--seconds", type=float, metavar="N", help="use only the first N seconds of each clip"
    )
    parser.add_argument(
        "--set", dest="changes", metavar="A.B=C", action="append", default=[], help="setting for all rows"
    )
    parser.add_argument(
        "--row",
        dest="trials",
        metavar="NAME:A.B=C,D.E=F",
        action="append",
        default=[],
        help="one row with these settings on top of --set; repeatable (default: one row as configured)",
    )
    parser.add_argument(
        "--perceptual",
        type=Path,
        help="SqueezeNet 1.1 features (safetensors) for the perceptual distance",
    )
    parser.add_argument(
        "--judge", action="store_true", help="also measure identity with dlib, which no training used"
    )
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="also write the table to FILE.md")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write all values to FILE.json")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write an SVG plot of each metric over time"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
