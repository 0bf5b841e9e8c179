"""What turns an exported network into an engine: TorchInductor, or TensorRT through torch-tensorrt.

Everything that is known of torch-tensorrt stands here, written against its release 2.13.0 (TensorRT 11.0): there
types are those of the exported graph and nothing else, so the graph carries the precision (`export` in
models/engine.py) and the compiler is given none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram

Run: TypeAlias = Callable[..., Tensor]
"""Takes the inputs of the exported network, in its fixed shapes, and gives its output."""


@dataclass(frozen=True, slots=True)
class Builder:
    """How one kind of engine is built and, where it can be, kept."""

    build: Callable[[ExportedProgram, Sequence[Tensor], torch.dtype], Run]
    """From the exported network, an example of its inputs and the precision of its insides."""
    save: Callable[[Run, Path, Sequence[Tensor]], None] | None = None
    """Writes what `build` gave; None where an engine cannot be kept."""
    load: Callable[[Path], Run] | None = None
    """Reads what `save` wrote."""


def has_tensorrt() -> bool:
    """Whether torch-tensorrt is installed; loading it takes seconds, so it is only looked for."""
    return importlib.util.find_spec("torch_tensorrt") is not None


def build_compiled(exported: ExportedProgram, inputs: Sequence[Tensor], precision: torch.dtype) -> Run:
    """`torch.compile` for these shapes alone; Inductor keeps its kernels in a cache of its own.

    Without CUDA graphs: those of `torch.compile` can be replayed only by the thread that recorded them
    (pytorch#123177), and engines are built in another one than they serve.
    """
    run: Run = torch.compile(exported.module(check_guards=False), dynamic=False)
    with torch.inference_mode():
        run(*inputs)
    return run


def build_tensorrt(exported: ExportedProgram, inputs: Sequence[Tensor], precision: torch.dtype) -> Run:
    """TensorRT engines within a `torch.fx.GraphModule` (`torch_tensorrt.dynamo.compile`).

    What TensorRT cannot run stays with PyTorch. Takes minutes; raises what torch-tensorrt raises.
    """
    import torch_tensorrt

    with torch.cuda.device(inputs[0].device):
        run: Run = torch_tensorrt.dynamo.compile(
            exported,
            arg_inputs=list(inputs),
            device=inputs[0].device,
            # An engine of full precision shall be one: TF32 keeps 10 bits of 23.
            disable_tf32=precision is torch.float32,
        )
    return run


def save_tensorrt(run: Any, path: Path, inputs: Sequence[Tensor]) -> None:
    """Writes what `build_tensorrt` gave as an exported program with the engines inside."""
    import torch_tensorrt

    torch_tensorrt.save(run, str(path), arg_inputs=list(inputs), output_format="exported_program")


def load_tensorrt(path: Path) -> Run:
    """Reads what `save_tensorrt` wrote; needs the same GPU and the same releases."""
    import torch_tensorrt

    run: Run = torch_tensorrt.load(str(path)).module()
    return run


BUILDERS = {
    "compile": Builder(build_compiled),
    "trt": Builder(build_tensorrt, save_tensorrt, load_tensorrt),
}
"""Builders by the name of their backend."""
