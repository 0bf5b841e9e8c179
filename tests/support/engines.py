"""A small network, stand-in builders and engines made of them, for the tests of the engines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from models.engine import Engine, EngineConfig
from models.engine_builders import Builder, Run
from models.fast.network import FastNetwork, FastShape


class Tint(nn.Module):
    """A network of two inputs, like `fast`, that is exported in no time."""

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength), requires_grad=False)
        self.mix = nn.Linear(4, 3, bias=False).requires_grad_(False)
        nn.init.constant_(self.mix.weight, 0.1)

    def forward(self, crops: Tensor, anchors: Tensor) -> Tensor:
        colour: Tensor = self.mix(anchors)
        return crops * self.strength + colour[:, :, None, None]


class Stored:
    """A stand-in for an engine: the exported network itself, changed by `change`."""

    def __init__(self, exported: ExportedProgram, change: float = 0.0) -> None:
        self.exported, self.change = exported, change
        self.run = exported.module()
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.shapes.append(tuple(inputs[0].shape))
        answer: Tensor = self.run(*inputs)
        return answer + self.change


class Workshop:
    """Stand-in builder that counts what it is asked for."""

    def __init__(self, change: float = 0.0, fail: Exception | None = None) -> None:
        self.change, self.fail = change, fail
        self.may_build = threading.Event()
        self.may_build.set()
        self.precisions: list[torch.dtype] = []
        self.loads = 0
        self.made: Any = None
        self.builder = Builder(self.build, self.save, self.load)

    def build(self, exported: ExportedProgram, inputs: Sequence[Tensor], precision: torch.dtype) -> Run:
        self.may_build.wait()
        self.precisions.append(precision)
        if self.fail is not None:
            raise self.fail
        self.made = Stored(exported, self.change)
        return self.made

    def save(self, run: Any, path: Path, inputs: Sequence[Tensor]) -> None:
        torch.export.save(run.exported, path)

    def load(self, path: Path) -> Run:
        self.loads += 1
        self.made = Stored(torch.export.load(path))
        return self.made


def items(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.rand(count, 4, generator=generator)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Engines for `Tint` with a stand-in builder; none of their threads outlives the test."""
    engines: list[Engine] = []

    def make(workshop: Workshop, network: nn.Module | None = None, **settings: Any) -> Engine:
        usual = {"backend": "compile", "batch": 4, "cache": tmp_path / "engines", "wait": False}
        config = EngineConfig(**(usual | settings))
        engine = Engine(network or Tint().eval(), items(5, seed=1), config, workshop.builder)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        assert engine.wait(60)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("models.engine")
    ]


def small_fast() -> FastNetwork:
    torch.manual_seed(0)
    shape = FastShape(
        widths=(8, 8, 8, 8), encoder_depths=(1, 1, 0), middle_depth=1, decoder_depths=(1, 0, 1), grain=True
    )
    network = FastNetwork(shape).eval().requires_grad_(False)
    nn.init.normal_(network.leave.weight, std=0.1)
    return network
