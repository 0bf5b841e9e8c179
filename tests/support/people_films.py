"""Films in which the colour of a square is the person, and the settings that find them, for tests of galleries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

import configs
from models.protocols import Request, Result
from pipeline import PipelineConfig
from support.fakes import InvertingRestorer
from support.squares import Placed, picture

ANNA, BERT, CARL = (230, 60, 60), (60, 230, 60), (60, 60, 230)
LEFT, RIGHT = 40.0, 200.0
SETTINGS = [
    "detector.kind=support.fakes:SquareDetector",
    "recogniser.kind=support.fakes:ColourRecogniser",
    "restorer.kind=support.fakes:InvertingRestorer",
    "track.perception.detect_every=5",
    "track.perception.detect_width=320",
    "track.perception.search_width=320",
    "track.trust.yaw_degrees=[179.0, 178.0]",
    "track.trust.clarity=[0.1, 0.2]",
    "track.lookahead=12",
    "scan.detect_width=320",
    "scan.every_seconds=0.2",
    "gate.enabled=false",
    "restore.reuse=false",
    "blend.grain=0",
    "encode.codec=ffv1",
]
OPTIONS = [word for setting in SETTINGS for word in ("--set", setting)]


def settings(*changes: str) -> PipelineConfig:
    return configs.load(PipelineConfig, None, [*SETTINGS, *changes])


def together(frames: int = 25, ground: int = 0) -> list[NDArray[np.uint8]]:
    """Anna on the left and Bert on the right."""
    return shot([(LEFT, 60, ANNA), (RIGHT, 60, BERT)], frames, ground)


def shot(squares: Sequence[Placed], frames: int, ground: int) -> list[NDArray[np.uint8]]:
    """A shot in which all squares drift a little."""
    return [picture([(x + 0.3 * n, y, c) for x, y, c in squares], ground) for n in range(frames)]


def write(path: Path, pictures: Sequence[NDArray[np.uint8]]) -> Path:
    """Without loss, 25 frames a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv444p"
        for image in pictures:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv444p")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decoded(path: Path) -> NDArray[np.uint8]:
    """uint8 (frames, 3, height, width)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


def changed(before: Path, after: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum of the differences of each frame's left and right half."""
    difference = np.abs(decoded(before).astype(int) - decoded(after).astype(int))
    return difference[..., :150].sum((1, 2, 3)), difference[..., 170:].sum((1, 2, 3))


class BrighteningRestorer(InvertingRestorer):
    """Another one: adds 20 code values. Counts how often it was made."""

    made = 0

    def __init__(self) -> None:
        super().__init__(32)
        BrighteningRestorer.made += 1

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        assert all(request.crop.shape[-1] == 32 for request in requests)
        assert all(crop.shape[-1] == 32 for request in requests for crop in request.references.crops)
        return [
            Result((request.crop.int() + 20).clamp(0, 255).to(request.crop.dtype)) for request in requests
        ]
