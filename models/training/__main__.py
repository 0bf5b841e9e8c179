"""`python -m models.training recipe.toml [--minutes 9] [--dry-run]`: trains, or continues, one network."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from configs import ConfigError, load
from models.training.aligned import AlignedTask
from models.training.encoder import EncoderTask
from models.training.fast import FastTask
from models.training.landmarks import LandmarkTask
from models.training.loop import Task, TrainingConfig, TrainingError, train, training_device
from models.weights import CheckpointError

B = TypeVar("B")

log = logging.getLogger("models.training")


def main() -> None:
    """Reads the recipe, then trains; `--dry-run` shows settings, parameter count and one batch instead."""
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many minutes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        _start(load(TrainingConfig, arguments.recipe, arguments.changes), arguments)
    except (ConfigError, CheckpointError, TrainingError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def _start(config: TrainingConfig, arguments: argparse.Namespace) -> None:
    device = training_device(config.device)
    if config.task == "aligned":
        _run(AlignedTask(config.aligned, config.faces, config.cache, config.seed, device), config, arguments)
    elif config.task == "encoder":
        _run(EncoderTask(config.encoder, config.faces, config.cache, config.seed, device), config, arguments)
    elif config.task == "fast":
        _run(FastTask(config.fast, config.faces, config.cache, config.seed, device), config, arguments)
    elif config.task == "landmarks":
        _run(
            LandmarkTask(config.landmarks, config.faces, config.cache, config.seed, device), config, arguments
        )
    elif config.task == "autoencoder":
        from models.training.autoencoder import (
            AutoencoderTask,  # what does not need diffusers trains without it
        )

        task = AutoencoderTask(config.autoencoder, config.faces, config.cache, config.seed, device)
        _run(task, config, arguments)
    elif config.task == "flow":
        from models.training.flow import FlowTask

        _run(FlowTask(config.flow, config.faces, config.cache, config.seed, device), config, arguments)
    else:
        raise ConfigError(
            f"task must be aligned, encoder, fast, landmarks, autoencoder or flow, got {config.task!r}"
        )


def _run(task: Task[B], config: TrainingConfig, arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        _show(task, config)
    else:
        log.info("checkpoint: %s", train(task, config, arguments.minutes))


def _show(task: Task[B], config: TrainingConfig) -> None:
    for name, value in dataclasses.asdict(config).items():
        log.info("%s = %s", name, value)
    count = sum(parameter.numel() for parameter in task.network().parameters())
    log.info("network: %.2f million parameters", count / 1e6)
    batch = task.batch(0, config.batch_size)
    for part in dataclasses.fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, part.name)
        shown = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else value
        shown = len(value) if isinstance(value, tuple) else shown
        log.info("batch.%s: %s", part.name, shown)


if __name__ == "__main__":
    main()
