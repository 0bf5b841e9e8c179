"""Engines: compiled behind the network's back, exact enough or refused, and never the end of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models.engine
from models.engine import Engine, EngineConfig, error_in_codes
from support.engines import Tint, Workshop, items, warnings_of
from support.engines import make as make  # a fixture


def test_eager_serves_until_the_engine_is_ready(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "models.engine")
    workshop = Workshop(change=0.1 / 255)
    workshop.may_build.clear()
    network = Tint().eval()
    engine = make(workshop, network, mean_error=1.0)
    inputs = items(3)
    assert torch.equal(engine(*inputs), network(*inputs))
    assert engine.serving == "eager"
    assert not engine.wait(0.05)
    workshop.may_build.set()
    assert engine.wait(60)
    assert engine.serving == "compile"
    assert torch.allclose(engine(*inputs), network(*inputs) + 0.1 / 255, atol=1e-6)
    told = [record.getMessage() for record in caplog.records if record.name == "models.engine"]
    assert told[0] == "building a compile engine for (4, 3, 8, 8) in float32; eager serves meanwhile"
    assert told[-1].startswith("compile engine ready")


def test_the_precision_reaches_the_builder(make: Callable[..., Engine]) -> None:
    workshop = Workshop()
    engine = make(workshop, precision="bfloat16", mean_error=1.0)
    assert engine.wait(60)
    assert (workshop.precisions, engine.serving) == ([torch.bfloat16], "compile")
    inputs = items(3)
    assert not torch.equal(engine(*inputs), Tint()(*inputs))


def test_a_copy_is_traced(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing swaps the tensors of a module, which eager may be running at that time."""
    traced: list[nn.Module] = []
    monkeypatch.setattr(models.engine, "export", lambda network, *rest: traced.append(network))
    network = Tint().eval()
    assert make(Workshop(fail=RuntimeError("far enough")), network).wait(60)
    assert [type(module) for module in traced] == [Tint]
    assert traced[0] is not network


def test_waiting_is_a_setting(make: Callable[..., Engine]) -> None:
    workshop = Workshop()
    workshop.may_build.clear()
    engine = make(workshop, wait=True)
    threading.Timer(0.2, workshop.may_build.set).start()
    engine(*items(1))
    assert engine.serving == "compile"


@pytest.mark.parametrize("count", [1, 4, 9])
def test_batches_are_padded_and_cut(make: Callable[..., Engine], count: int) -> None:
    workshop = Workshop()
    network = Tint().eval()
    engine = make(workshop, network)
    assert engine.wait(60)
    workshop.made.shapes.clear()
    inputs = items(count)
    answer = engine(*inputs)
    assert set(workshop.made.shapes) == {(4, 3, 8, 8)}
    assert len(workshop.made.shapes) == -(-count // 4)
    assert torch.allclose(answer, network(*inputs), atol=1e-6)


def test_an_item_is_the_same_in_any_company(make: Callable[..., Engine]) -> None:
    engine = make(Workshop())
    assert engine.wait(60)
    crops, anchors = items(6)
    together = engine(crops, anchors)
    for k in range(6):
        assert torch.allclose(engine(crops[k : k + 1], anchors[k : k + 1])[0], together[k], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "bounds"),
    [
        (0.5 / 255, {"mean_error": 0.4, "max_error": 9.0}),
        (0.5 / 255, {"mean_error": 9.0, "max_error": 0.4}),
        (float("nan"), {}),
    ],
    ids=["mean", "largest", "no number"],
)
def test_an_engine_that_is_off_is_refused(
    make: Callable[..., Engine],
    caplog: pytest.LogCaptureFixture,
    change: float,
    bounds: dict[str, float],
) -> None:
    network = Tint().eval()
    engine = make(Workshop(change), network, **bounds)
    assert engine.wait(60)
    inputs = items(2)
    assert engine.serving == "eager"
    assert torch.equal(engine(*inputs), network(*inputs))
    (sentence,) = warnings_of(caplog)
    assert "differs from the network by" in sentence
    assert sentence.endswith("eager serves")


def test_the_error_is_that_of_all_samples() -> None:
    """The last of five stands in a padded batch of its own."""
    samples = items(5)

    def last_is_off(crops: Tensor, anchors: Tensor) -> Tensor:
        return crops + (crops == samples[0][4:, :1, :1, :1]) * (3 / 255)

    def network(crops: Tensor, anchors: Tensor) -> Tensor:
        return crops

    mean, largest = error_in_codes(last_is_off, network, samples, 4)  # type: ignore[arg-type]
    assert largest == pytest.approx(3, abs=1e-3)
    assert mean == pytest.approx(3 / samples[0].numel(), rel=1e-2)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no such operator\nand pages of it"), torch.OutOfMemoryError("CUDA out of memory")],
    ids=["failure", "out of memory"],
)
def test_a_failed_build_is_one_sentence(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    engine = make(Workshop(fail=error))
    assert engine.wait(60)
    engine(*items(2))
    (sentence,) = warnings_of(caplog)
    assert str(error).splitlines()[0] in sentence
    assert "pages of it" not in sentence


def test_an_engine_that_fails_while_it_serves_is_given_up(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    workshop = Workshop()
    network = Tint().eval()
    engine = make(workshop, network)
    assert engine.wait(60)
    workshop.made.run = None  # calling it is an error now
    inputs = items(2)
    for _ in range(2):
        assert torch.equal(engine(*inputs), network(*inputs))
    (sentence,) = warnings_of(caplog)
    assert "failed while it served" in sentence


class Crowded(nn.Module):
    """Has memory for so many items at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, crops: Tensor, anchors: Tensor) -> Tensor:
        self.sizes.append(len(crops))
        if len(crops) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return crops


def test_full_memory_halves_the_batch_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    network = Crowded(2)
    engine = Engine(network, items(1), EngineConfig(backend="eager", batch=4))
    crops, anchors = items(6)
    assert torch.equal(engine(crops, anchors), crops)
    assert network.sizes == [4, 2, 2, 2]
    assert torch.equal(engine(crops, anchors), crops)
    assert network.sizes[4:] == [2, 2, 2]
    (sentence,) = warnings_of(caplog)
    assert "halved to 2" in sentence
    network.room = 1
    with pytest.raises(torch.OutOfMemoryError):
        engine(crops, anchors)


def test_inputs_of_another_form_are_refused() -> None:
    engine = Engine(Tint(), items(1), EngineConfig(backend="eager"))
    crops, anchors = items(2)
    for wrong in [
        (crops[:, :, :4], anchors),
        (crops, anchors[:1]),
        (crops[:0], anchors[:0]),
        (crops.half(), anchors),
    ]:
        with pytest.raises(ValueError, match="the engine takes items of"):
            engine(*wrong)


@pytest.mark.parametrize(
    "wrong", [{"backend": "onnx"}, {"batch": 0}, {"precision": "int8"}, {"max_error": 0.0}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineConfig(**wrong)
