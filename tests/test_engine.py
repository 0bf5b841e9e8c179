"""Engines: compiled behind the network's back, exact enough or refused, and never the end of a run."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import models.engine
from models.detector import available_providers
from models.engine import Engine, EngineConfig, choose_backend, choose_precision, error_in_codes, export
from models.engine_builders import (
    Builder,
    Run,
    build_compiled,
    build_tensorrt,
    load_tensorrt,
    save_tensorrt,
)
from models.engine_cache import EngineCache, cache_folder, cache_key, state_hash
from models.fast.network import FastNetwork, FastShape
from models.fast.restorer import FastRestorer
from models.fast.samples import sample_inputs
from models.protocols import References, Request

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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


def test_a_kept_engine_is_loaded(make: Callable[..., Engine], caplog: pytest.LogCaptureFixture) -> None:
    first, second = Workshop(), Workshop()
    assert make(first).wait(60)
    engine = make(second)
    assert engine.wait(60)
    assert (first.loads, second.loads, second.precisions) == (0, 1, [])
    assert engine.serving == "compile"
    assert warnings_of(caplog) == []


def test_an_engine_of_other_weights_is_not_taken(make: Callable[..., Engine]) -> None:
    first, second = Workshop(), Workshop()
    assert make(first).wait(60)
    assert make(second, Tint(0.6).eval()).wait(60)
    assert (second.loads, len(second.precisions)) == (0, 1)


def test_weights_and_structure_are_in_the_hash() -> None:
    networks = [Tint(), Tint(0.6), nn.Sequential(Tint())]
    assert len({state_hash(network) for network in networks}) == 3
    assert state_hash(Tint()) == state_hash(Tint())


def test_a_kept_engine_is_checked_again(make: Callable[..., Engine]) -> None:
    """A stale or foreign file under the right name does not serve."""
    first, second = Workshop(change=1 / 255), Workshop()
    assert make(first, mean_error=9.0, max_error=9.0).wait(60)
    second.builder = Builder(second.build, second.save, lambda path: Stored(torch.export.load(path), 1.0))
    engine = make(second)
    assert engine.wait(60)
    assert engine.serving == "eager"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def forget_checksum(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, forget_checksum])
def test_a_damaged_engine_is_built_again(
    make: Callable[..., Engine],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    assert make(Workshop()).wait(60)
    (path,) = (tmp_path / "engines").glob("*.pt2")
    damage(path)
    second, third = Workshop(), Workshop()
    engine = make(second)
    assert engine.wait(60)
    assert (second.loads, len(second.precisions), engine.serving) == (0, 1, "compile")
    (sentence,) = warnings_of(caplog)
    assert "damaged" in sentence
    assert make(third).wait(60)
    assert third.loads == 1


def test_an_engine_that_cannot_be_loaded_is_built_again(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, but of another release."""

    def load(path: Path) -> Run:
        raise RuntimeError("serialised by another version")

    assert make(Workshop()).wait(60)
    second = Workshop()
    second.builder = Builder(second.build, second.save, load)
    engine = make(second)
    assert engine.wait(60)
    assert (len(second.precisions), engine.serving) == (1, "compile")
    (sentence,) = warnings_of(caplog)
    assert "another version" in sentence


def test_an_engine_serves_where_it_cannot_be_kept(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    engine = make(Workshop(), cache=tmp_path / "file" / "engines")
    assert engine.wait(60)
    assert engine.serving == "compile"
    (sentence,) = warnings_of(caplog)
    assert "cannot be kept" in sentence


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("disk full")

    cache = EngineCache(tmp_path)
    with pytest.raises(RuntimeError, match="disk full"):
        cache.store("key", write)
    assert list(tmp_path.iterdir()) == []
    cache.store("key", lambda path: path.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pt2", "key.sha256"]
    assert cache.find("key") == tmp_path / "key.pt2"


def test_all_that_an_engine_depends_on_is_in_its_key() -> None:
    base: dict[str, Any] = {
        "backend": "trt",
        "state": "abc",
        "shapes": [(4, 3, 256, 256), (4, 128)],
        "precision": torch.float16,
        "device": "NVIDIA L4 8.9",
        "versions": {"torch": "2.13.0", "torch-tensorrt": "2.13.0", "tensorrt": "11.0"},
    }
    others: dict[str, Any] = {
        "backend": "compile",
        "state": "abd",
        "shapes": [(8, 3, 256, 256), (8, 128)],
        "precision": torch.bfloat16,
        "device": "NVIDIA L4 9.0",
        "versions": {"torch": "2.13.0", "torch-tensorrt": "2.13.0", "tensorrt": "11.1"},
    }
    keys = [cache_key(**base)] + [cache_key(**{**base, name: value}) for name, value in others.items()]
    assert len(set(keys)) == 7
    assert cache_key(**base) == cache_key(**dict(reversed(base.items())))


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "place/anchorface/engines"),
        ("win32", "LOCALAPPDATA", "place/anchorface/engines"),
        ("linux", None, "home/.cache/anchorface/engines"),
        ("darwin", None, "home/Library/Caches/anchorface/engines"),
        ("win32", None, "home/AppData/Local/anchorface/engines"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "place"))
    monkeypatch.setattr("models.engine_cache.sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / expected


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
        def forward(self, crops: Tensor, anchors: Tensor) -> Tensor:
            calls.append(anchors.shape)
            return crops / 2

    config = EngineConfig(backend="eager")
    plain._engine = Engine(Darker(), sample_inputs(256, 128), config)
    image = plain.restore([request])[0].image
    assert calls == [(1, 128)]
    assert torch.equal(image, (request.crop.float() / 2).round().byte())


def test_onnx_networks_run_on_cuda_where_onnxruntime_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = ["TensorrtExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert available_providers() == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered[:2])
    assert available_providers() == ["CPUExecutionProvider"]
