"""A short film of three shots, and a restorer that tells on any reference it is given otherwise, for tests of jobs."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from models.protocols import Needs, Request, Result
from support.clips import picture

ROOT = Path(__file__).parents[2]
FRAMES = 56
CUTS = (18, 30)
SETTINGS = [
    "chunks.seconds=0.4",
    "restorer.kind=support.films:ReferenceRestorer",
    "encode.codec=ffv1",
    "track.lookahead=6",
    "gate.loss=[0.06, -0.02]",
]
"""Chunks of 10 to 20 frames: some end at a cut, some within a shot. The identity gate allows a part of every face."""


class ReferenceRestorer:
    """Sharpens, and mixes in the mean of all references: what was known of a person at any moment shows."""

    needs = Needs(64)

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        return [Result(self._restored(request)) for request in requests]

    def _restored(self, request: Request) -> torch.Tensor:
        image = request.crop.float()
        image = image + 0.5 * (image - torch.nn.functional.avg_pool2d(image, 3, 1, 1))
        if len(request.references):
            image = 0.8 * image + 0.2 * torch.stack(request.references.crops).float().mean(0)
        return image.round().clamp(0, 255).to(torch.uint8)


class LostOnceRestorer(ReferenceRestorer):
    """The same, but the first process that restores with it is killed, as for lack of memory."""

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        try:
            Path(os.environ["ANCHORFACE_LOST"]).touch(exist_ok=False)
        except FileExistsError:
            return super().restore(requests)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead by now")


def scene(index: int) -> NDArray[np.uint8]:
    """uint8 (180, 240, 3): the astronaut, then mirrored and darker, then as before."""
    if CUTS[0] <= index < CUTS[1]:
        return np.ascontiguousarray(picture(60 - index, 240, 180)[:, ::-1] // 2 + 50)
    return picture(index % 40, 240, 180)


def write_film(path: Path, frames: int = FRAMES) -> Path:
    """H.264 with key frames that are no cuts, B-frames, and times that are not even."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "26", "g": "9"})
        stream.width, stream.height, stream.pix_fmt = 240, 180, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(index), format="rgb24")
            frame.pts, frame.time_base = 40 * index + 7 * (index % 3), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def shown(path: Path) -> list[tuple[Fraction, str]]:
    """Time and hash of every frame."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [(f.pts * f.time_base, hashlib.md5(f.to_ndarray().tobytes()).hexdigest()) for f in frames]


def command(input: Path, output: Path, *more: str) -> list[str]:
    """The command that restores `input` with `SETTINGS`, for a process of its own."""
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return [
        *(sys.executable, "-m", "pipeline", str(input), str(output), "--progress", "none", *changes, *more)
    ]


def environment() -> dict[str, str]:
    """Of a process that finds the restorer above."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
