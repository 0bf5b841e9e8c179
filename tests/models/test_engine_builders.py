"""What an engine is built from and with: the exported network, its backend, its precision and samples."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import models.engine
from models.detector import available_providers
from models.engine import Engine, EngineConfig, choose_backend, choose_precision, export
from models.engine_builders import build_compiled, build_tensorrt, load_tensorrt, save_tensorrt
from models.fast.restorer import FastRestorer, sample_inputs
from models.protocols import References, Request
from support.engines import Tint, items, small_fast, warnings_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_fast_is_exported_for_one_shape() -> None:
    network = small_fast()
    inputs = tuple(tensor[3:6] for tensor in sample_inputs(256, 128))
    exported = export(network, inputs)
    others = inputs[0].flip(0), inputs[1].flip(0)
    assert torch.allclose(exported.module()(*others), network(*others), atol=1e-5)
    with pytest.raises(AssertionError, match=r"size\(\)\[0\] == 3"):
        exported.module()(others[0][:2], others[1][:2])


def test_half_precision_is_part_of_the_graph_and_spares_the_sum_with_the_input() -> None:
    network = small_fast()
    network.leave.weight.mul_(0.05)  # a correction, small beside the crop
    inputs = tuple(tensor[3:5] for tensor in sample_inputs(256, 128))
    exported = export(network, inputs, torch.bfloat16)
    dtypes = {
        node.meta["val"].dtype
        for node in exported.graph.nodes
        if node.target is torch.ops.aten.conv2d.default
    }
    assert dtypes == {torch.bfloat16}
    assert not any("autocast" in str(node.target) for node in exported.graph.nodes)
    answer, expected = exported.module()(*inputs), network(*inputs)
    assert answer.dtype == torch.float32
    # A sum in bfloat16 would be rounded to whole code values in the bright half.
    assert 0 < float((answer - expected).abs().mean()) * 255 < 0.1


def test_the_backend_falls_back_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models.engine, "has_tensorrt", lambda: False)
    assert choose_backend("auto", CPU) == "eager"
    assert choose_backend("auto", CUDA) == "eager"
    assert choose_backend("compile", CUDA) == "compile"
    assert warnings_of(caplog) == []
    assert choose_backend("trt", CUDA) == "eager"
    assert "needs torch-tensorrt" in warnings_of(caplog)[0]
    assert choose_backend("trt", CPU) == "eager"
    assert "needs a CUDA device" in warnings_of(caplog)[1]
    monkeypatch.setattr(models.engine, "has_tensorrt", lambda: True)
    assert choose_backend("auto", CUDA) == "trt"
    assert choose_backend("auto", CPU) == "eager"


def test_the_precision_is_what_the_gpu_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", CPU) == torch.float32
    capability = (6, 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", CUDA) == torch.float32
    capability = (7, 5)
    assert choose_precision("auto", CUDA) == torch.float16
    with pytest.raises(ValueError, match="bfloat16 needs compute capability"):
        choose_precision("bfloat16", CUDA)
    capability = (8, 0)
    assert choose_precision("bfloat16", CUDA) == torch.bfloat16


def test_torch_compile_is_given_the_exported_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that needs no C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    network = Tint().eval()
    inputs = items(4)
    run = build_compiled(export(network, inputs), inputs, torch.float32)
    others = items(4, seed=2)
    assert torch.allclose(run(*others), network(*others), atol=1e-6)


def compile_like_release(
    exported_program: ExportedProgram,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    device: Any = None,
    disable_tf32: bool = False,
) -> Any:
    assert isinstance(exported_program, ExportedProgram)
    assert inputs is None
    assert [tuple(value.shape) for value in arg_inputs] == [(4, 3, 8, 8), (4, 4)]
    assert (device, disable_tf32) == (CPU, True)
    return exported_program.graph_module


def save_like_release(
    module: Any, file_path: str, *, output_format: str = "exported_program", arg_inputs: Any = None
) -> None:
    assert isinstance(module, torch.fx.GraphModule)
    assert isinstance(file_path, str)
    torch.export.save(export(Tint(), arg_inputs), file_path)


def test_torch_tensorrt_is_called_as_its_release_wants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The arguments alone, in the signatures of 2.13.0: a stand-in for a package that needs a GPU."""
    package = types.ModuleType("torch_tensorrt")
    package.dynamo = types.SimpleNamespace(compile=compile_like_release)  # type: ignore[attr-defined]
    package.save, package.load = save_like_release, torch.export.load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_tensorrt", package)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    inputs = items(4)
    run = build_tensorrt(export(Tint(), inputs), inputs, torch.float32)
    path = tmp_path / "engine.pt2"
    save_tensorrt(run, path, inputs)
    assert torch.allclose(load_tensorrt(path)(*inputs), Tint()(*inputs), atol=1e-6)


def test_samples_are_faces_of_both_sizes() -> None:
    for side in (256, 512):
        crops, anchors = sample_inputs(side, 128)
        assert crops.shape == (8, 3, side, side)
        assert float(crops.min()) >= 0
        assert float(crops.max()) <= 1
        assert float(crops.std()) > 0.1
        assert torch.allclose(anchors.norm(dim=1), torch.tensor([0.0] * 4 + [1.0] * 4), atol=1e-5)


def test_fast_runs_through_its_engine_and_a_cpu_takes_none() -> None:
    request = Request((sample_inputs(256, 128)[0][2] * 255).byte(), References())
    plain = FastRestorer()
    given = FastRestorer(engine=EngineConfig(backend="compile"))
    expected = plain.restore([request])[0].image
    assert torch.equal(given.restore([request])[0].image, expected)
    calls = []

    class Darker(nn.Module):
        def forward(self, crops: Tensor, anchors: Tensor, previous: Tensor) -> Tensor:
            calls.append(anchors.shape)
            return crops / 2

    config = EngineConfig(backend="eager")
    plain._run = Engine(Darker(), sample_inputs(256, 128, previous=True), config)
    image = plain.restore([request])[0].image
    assert calls == [(1, 128)]
    assert torch.equal(image, (request.crop.float() / 2).round().byte())


def test_onnx_networks_run_on_cuda_where_onnxruntime_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = ["TensorrtExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert available_providers() == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered[:2])
    assert available_providers() == ["CPUExecutionProvider"]
