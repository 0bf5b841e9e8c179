"""`python -m models.training recipe.toml [--minutes 9] [--dry-run]`: trains, or continues, one network."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from configs import ConfigError, load
from models.training.aligned import AlignedTask
from models.training.encoder import EncoderTask
from models.training.fast import FastTask
from models.training.landmarks import LandmarkTask
from models.training.loop import Task, TrainingConfig, TrainingError, train, training_device
from models.weights import CheckpointError

log = logging.getLogger("models.training")


def main() -> None:
    """Reads the recipe, then trains; `--dry-run` shows settings, parameter count and one batch instead."""
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after MINUTES minutes of training"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        _start(load(TrainingConfig, arguments.recipe, arguments.changes), arguments)
    except (ConfigError, CheckpointError, TrainingError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def _start(config: TrainingConfig, arguments: argparse.Namespace) -> None:
    task = _task(config)
    if arguments.dry_run:
        _show(task, config)
    else:
        log.info("checkpoint: %s", train(task, config, arguments.minutes))


def _task(config: TrainingConfig) -> Task[Any]:
    """The task that the recipe names. Those that need diffusers are imported only when asked for."""
    common = config.faces, config.cache, config.seed, training_device(config.device)
    match config.task:
        case "aligned":
            return AlignedTask(config.aligned, *common)
        case "encoder":
            return EncoderTask(config.encoder, *common)
        case "fast":
            return FastTask(config.fast, *common)
        case "landmarks":
            return LandmarkTask(config.landmarks, *common)
        case "autoencoder":
            from models.training.autoencoder import AutoencoderTask

            return AutoencoderTask(config.autoencoder, *common)
        case "flow":
            from models.training.flow import FlowTask

            return FlowTask(config.flow, *common)
    raise ConfigError(
        f"task must be aligned, encoder, fast, landmarks, autoencoder or flow, got {config.task!r}"
    )


def _show(task: Task[Any], config: TrainingConfig) -> None:
    for name, value in dataclasses.asdict(config).items():
        log.info("%s = %s", name, value)
    count = sum(parameter.numel() for parameter in task.network().parameters())
    log.info("network: %.2f million parameters", count / 1e6)
    batch = task.batch(0, config.batch_size)
    for part in dataclasses.fields(batch):
        value = getattr(batch, part.name)
        shown = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else value
        shown = len(value) if isinstance(value, tuple) else shown
        log.info("batch.%s: %s", part.name, shown)


if __name__ == "__main__":
    main()
