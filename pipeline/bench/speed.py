"""Time of each network for one face, of a plain transcode, and of a command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from models.fast.restorer import FastRestorer
from models.precision import name_of, restorer_precision
from models.protocols import References, Request
from models.recogniser import EmbeddedRecogniser
from models.weights import Checkpoint, CheckpointError, load_checkpoint, load_embedded
from pipeline.media.encode import EncodeConfig

Works = dict[str, Callable[[], object]]
"""Timed calls by name."""
ICONFACE_STEPS = (1, 2, 4)


def networks(rounds: int, iconface: Path | None = None) -> None:
    """Time of each shipped network for one face, also as a multiple of ten plain convolutions.

    The convolutions are 3 x 3 with 64 channels on 64 x 64 cells. All take turns, and multiples are medians over the
    rounds, so that they hold on a busy machine. `iconface`: a checkpoint instead of the shipped one. Raises
    `CheckpointError`.
    """
    works = _small_works()
    try:
        works |= iconface_works(load_checkpoint(iconface) if iconface else load_embedded("iconface"))
    except CheckpointError as error:
        if iconface:
            raise
        print(f"iconface is left out: {error}")
    for work in works.values():
        work()
    times = np.array([[seconds_of(work) for work in works.values()] for _ in range(rounds)])
    multiples = np.median(times / times[:, :1], 0)
    for name, seconds, multiple in zip(works, np.median(times, 0), multiples, strict=True):
        print(f"{name}: {1000 * seconds:.1f} ms, {multiple:.2f} times the convolutions")
    native = name_of(_native())
    print(f"(medians of {rounds} rounds, {torch.get_num_threads()} threads; iconface in {native})")


def seconds_of(work: Callable[..., object], *arguments: object) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def transcode(clip: Path, output: Path, config: EncodeConfig | None = None) -> None:
    """The straightforward use of PyAV: decode, encode, copy the sound."""
    config = config or EncodeConfig()
    options = {"crf": str(config.crf), "preset": config.preset}
    with av.open(str(clip)) as source, av.open(str(output), "w") as target:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        encoded = target.add_stream("libx264", rate=video.average_rate, options=options)
        encoded.width, encoded.height, encoded.pix_fmt = video.width, video.height, video.pix_fmt
        encoded.codec_context.time_base = video.time_base or Fraction(1, 1000)
        copies = {s: target.add_stream_from_template(s) for s in source.streams.audio}
        for packet in source.demux(video, *copies):
            if packet.stream in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                target.mux(encoded.encode(frame))
        target.mux(encoded.encode(None))


@dataclass(frozen=True, slots=True)
class Ran:
    """Result of a successful process."""

    output: str
    peak_mib: float


def child(command: list[str]) -> Ran:
    """Runs `command`; returns its standard output and peak memory."""
    # A child of a fresh process: the peak is over all children of a process.
    script = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], check=True, stdout=subprocess.PIPE, text=True
    )
    output, _, peak = done.stdout.rstrip().rpartition("\n")
    return Ran(output, int(peak) / 1024)


def _small_works() -> Works:
    cells = torch.rand(1, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = FastRestorer()
    request = [Request(_black(fast.needs.crop_size), References())]
    works: Works = {
        "ten convolutions": partial(torch.nn.Sequential(*[convolution] * 10), cells),
        "encoder": partial(EmbeddedRecogniser().embed, torch.zeros(1, 3, 112, 112, dtype=torch.uint8)),
        "fast": partial(fast.restore, request),
    }
    if _native() is not torch.float32:
        works[f"fast in {name_of(_native())}"] = partial(FastRestorer(precision=_native()).restore, request)
    return works


def _native() -> torch.dtype:
    """The precision of `restorer.precision=auto` on this CPU."""
    return restorer_precision("auto", torch.device("cpu"))


def iconface_works(checkpoint: Checkpoint) -> Works:
    """`iconface` as in a film: draft and autoencoder included, features of the references cached.

    The first call of each computes these features, so time the later ones.
    """
    # Imported here: diffusers takes seconds.
    from models.iconface.restorer import IconFaceRestorer
    from models.iconface.settings import IconFaceSettings

    works: Works = {}
    for steps in ICONFACE_STEPS:
        restorer = IconFaceRestorer(checkpoint, settings=IconFaceSettings(steps=steps), precision=_native())
        crop = _black(restorer.needs.crop_size)
        one = References((crop,), torch.ones(1, restorer.model.network.shape.embedding), version=1)
        for references, words in ((References(), "no reference"), (one, "one reference")):
            name = f"iconface, {steps} {'step' if steps == 1 else 'steps'}, {words}"
            works[name] = partial(restorer.restore, [Request(crop, references)])
    return works


def _black(side: int) -> torch.Tensor:
    return torch.zeros(3, side, side, dtype=torch.uint8)
