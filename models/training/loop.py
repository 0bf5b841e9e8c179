"""The one training loop. Time is counted in images; a resumed run equals a straight one.

Each batch is a function of the seed and the images seen, so resuming is running the same command again.
The same loop runs on a CPU and on one accelerator, where networks, pictures and degradations are resident.

Layout of a run's folder: `state.*` to resume from, in small parts, `checkpoint.safetensors` with the averaged
weights, `status.jsonl` with one line per report, `sheets/` with pictures to look at.
"""

from __future__ import annotations

import copy
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from configs import ConfigError
from models.training.aligned import AlignedSettings
from models.training.landmarks import LandmarkSettings
from models.training.settings import AutoencoderSettings, EncoderSettings, FastSettings, FlowSettings
from models.training.state import Stateful, begin_with, resume, save_state
from models.weights import load_checkpoint, save_checkpoint

B = TypeVar("B")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One recipe, counted in images, so the batch size may change without changing the schedule."""

    task: str
    """`aligned`, `encoder`, `fast`, `landmarks`, `autoencoder` or `flow`."""
    faces: Path
    """Folder of aligned faces with their index."""
    cache: Path
    """Folder for decoded pictures, outside the repository."""
    run: Path
    """Folder of this run, outside the repository."""
    seed: int = 0
    batch_size: int = 32
    images: int = 100_000
    """Length of the run and of the cosine decay."""
    learning_rate: float = 1e-3
    warmup_images: int = 2_000
    weight_decay: float = 0.01
    average_images: int = 4_000
    """Half-life of the averaged weights."""
    largest_gradient: float = 1.0
    """Norm at which gradients are clipped."""
    status_images: int = 2_000
    checkpoint_images: int = 8_000
    initial: Path | None = None
    """Checkpoint that a new run begins with; its network may lack inputs that this one has."""
    images_before: int = 0
    """Images that the initial checkpoint had seen, for the manifest."""
    critic_rate: float = 2e-4
    """Learning rate of the critic, where the task has one."""
    threads: int = 2
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: the accelerator where there is one."""
    precision: str = "auto"
    """`float32`, `bfloat16` inside the network, or `auto`: bfloat16 on an accelerator that has it."""
    part_megabytes: float = 15.0
    """Largest size of a file of the state."""
    compact: bool = False
    """Keeps the optimiser's moments and the average at half precision: half the size, nearly the same run."""
    aligned: AlignedSettings = field(default_factory=AlignedSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    fast: FastSettings = field(default_factory=FastSettings)
    landmarks: LandmarkSettings = field(default_factory=LandmarkSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)

    def __post_init__(self) -> None:
        counts = ("batch_size", "images", "average_images", "status_images", "checkpoint_images", "threads")
        for name in (*counts, "part_megabytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")


class TrainingError(RuntimeError):
    """A run diverged."""


class Task(Protocol[B]):
    """What is special to one network."""

    def network(self) -> nn.Module: ...
    def critic(self) -> nn.Module | None: ...
    def parameters(self) -> dict[str, object]: ...
    def batch(self, images_seen: int, batch_size: int) -> B: ...
    def losses(self, network: nn.Module, critic: nn.Module | None, batch: B) -> dict[str, Tensor]: ...
    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None: ...


def train(task: Task[B], config: TrainingConfig, minutes: float = float("inf")) -> Path:
    """Trains until `config.images` or for `minutes`; returns the path of the averaged checkpoint.

    Raises `TrainingError` where weights stop being numbers, `CheckpointError` for a state of another network.
    """
    # Settings.
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    started = time.monotonic()
    (config.run / "sheets").mkdir(parents=True, exist_ok=True)

    # Network, averaged network, critic and their optimisers; all from the last state if there is one.
    device = training_device(config.device)
    torch.manual_seed(config.seed)
    network, critic = task.network(), task.critic()
    if config.initial is not None and not (config.run / "state.json").exists():
        begin_with(network, load_checkpoint(config.initial))
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    # Short memory of squared gradients: networks without normalisation must see a burst coming.
    groups = _groups(network, config.weight_decay, getattr(task, "rate_of", None))
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))
    optimisers: list[torch.optim.Optimizer] = [optimiser]
    parts: dict[str, Stateful] = {"network": network, "average": average, "optimiser": optimiser}
    if critic is not None:
        critic.to(device)
        optimisers.append(torch.optim.Adam(critic.parameters(), lr=config.critic_rate, betas=(0.0, 0.99)))
        parts |= {"critic": critic, "critic_optimiser": optimisers[1]}
    images_seen = resume(config.run / "state", parts)
    values: dict[str, list[Tensor]] = {}
    reported = time.monotonic()

    for batch in _Ahead(task, images_seen, config):
        # Rate: linear warm-up, cosine to one percent.
        rate = config.learning_rate * _rate(images_seen, config)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        for each in optimisers[1:]:
            each.param_groups[0]["lr"] = config.critic_rate

        # Step: the terms of the network and of the critic in one pass backwards.
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=_mixed(config.precision, device)):
            losses = task.losses(network, critic, batch)
        for each in optimisers:
            each.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        gradient = nn.utils.clip_grad_norm_(network.parameters(), config.largest_gradient)
        for each in optimisers:
            each.step()
        images_seen += config.batch_size

        # Average.
        _follow(average, network, 0.5 ** (config.batch_size / min(config.average_images, 0.1 * images_seen)))

        # Status: means over the batches that have the term; read from the device only here.
        for name, value in (*losses.items(), ("gradient", gradient)):
            values.setdefault(name, []).append(value.detach())
        if _passed(images_seen, config.status_images, config):
            means = {name: float(torch.stack(each).mean()) for name, each in values.items()}
            speed = len(values["gradient"]) * config.batch_size / (time.monotonic() - reported)
            _report(config.run, images_seen, rate, speed, means)
            values, reported = {}, time.monotonic()

        # Checkpoint.
        over = images_seen >= config.images or time.monotonic() - started > 60 * minutes
        if over or _passed(images_seen, config.checkpoint_images, config):
            if not all(bool(weights.isfinite().all()) for weights in average.parameters()):
                raise TrainingError(
                    f"{config.run}: weights are no numbers after {images_seen} images; the last state is kept"
                )
            average.eval()
            path = config.run / "checkpoint.safetensors"
            save_checkpoint(path, average.state_dict(), task.parameters(), images_seen)
            part_bytes = int(config.part_megabytes * 2**20)
            save_state(config.run / "state", parts, images_seen, part_bytes, compact=config.compact)
            _draw(config.run, task.sheet(average), images_seen)
        if over:
            break
    return config.run / "checkpoint.safetensors"


def training_device(name: str) -> torch.device:
    """The device called `cpu`, `cuda` or `auto`. Raises `ConfigError` for others and for one that is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in {"cpu", "cuda"}:
        raise ConfigError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch sees no accelerator here")
    return torch.device(name)


def _mixed(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


class _Ahead(Generic[B]):
    """Batches made by a thread while the network computes; ends with its reader."""

    def __init__(self, task: Task[B], images_seen: int, config: TrainingConfig) -> None:
        self.task, self.images_seen, self.config = task, images_seen, config

    def __iter__(self) -> Iterator[B]:
        batches: queue.Queue[B | BaseException] = queue.Queue(maxsize=2)
        stopped = threading.Event()

        def fill() -> None:
            images_seen = self.images_seen
            try:
                while not stopped.is_set():
                    batch = self.task.batch(images_seen, self.config.batch_size)
                    images_seen += self.config.batch_size
                    while not stopped.is_set():
                        try:
                            batches.put(batch, timeout=0.2)
                            break
                        except queue.Full:
                            continue
            except BaseException as error:  # handed to the reader, who raises it
                batches.put(error)

        thread = threading.Thread(target=fill, name="batches", daemon=True)
        thread.start()
        try:
            while self.images_seen < self.config.images:
                item = batches.get()
                if isinstance(item, BaseException):
                    raise item
                self.images_seen += self.config.batch_size
                yield item
        finally:
            stopped.set()
            while not batches.empty():
                batches.get_nowait()
            thread.join()


def _groups(
    network: nn.Module, weight_decay: float, rate_of: Callable[[str], float] | None
) -> list[dict[str, Any]]:
    """Parameters by weight decay and by `share`, their learning rate against 1."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((decay, rate_of(name) if rate_of else 1.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "share": share}
        for (decay, share), parameters in groups.items()
    ]


def _rate(images_seen: int, config: TrainingConfig) -> float:
    warmup = min(1.0, (images_seen + config.batch_size) / max(config.warmup_images, 1))
    progress = min(images_seen / config.images, 1.0)
    return float(warmup * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * progress))))


def _passed(images_seen: int, every: int, config: TrainingConfig) -> bool:
    return images_seen // every > (images_seen - config.batch_size) // every


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    targets: list[Tensor] = list(average.parameters())
    sources: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(targets, sources, 1 - keep)
    for target, source in zip(average.buffers(), network.buffers(), strict=True):
        target.copy_(source)


def _report(run: Path, images_seen: int, rate: float, speed: float, means: dict[str, float]) -> None:
    line = {"images": images_seen, "rate": rate, "images_per_second": round(speed, 1)}
    line |= {name: round(mean, 5) for name, mean in means.items()}
    with (run / "status.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _draw(run: Path, sheet: NDArray[np.uint8] | None, images_seen: int) -> None:
    if sheet is not None:
        path = run / "sheets" / f"{images_seen:09d}.png"
        cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
