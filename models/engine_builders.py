"""What turns an exported network into an engine, and where built engines are kept.

Builders are TorchInductor, or TensorRT through torch-tensorrt. All that is known of torch-tensorrt stands here, written
against its release 2.13.0 (TensorRT 11.0): there types are those of the exported graph and nothing else, so the graph
carries the precision (`export` in models/engine.py) and the compiler is given none.

An engine is compiled for one GPU and one release of its libraries, so the name of its file is made of all that it was
made from: network, shape, precision, GPU and versions. No file is ever half written.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

Run: TypeAlias = Callable[..., Tensor]
"""Takes the inputs of the exported network, in its fixed shapes, and gives its output."""
ENDING = ".pt2"
_COMPILERS = ("torch", "torch-tensorrt", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "triton")
logger = logging.getLogger(__name__)


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


def cache_folder() -> Path:
    """The folder of engines within the user's cache, as the platform wants it; it need not exist yet."""
    home = Path.home()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return root / "anchorface" / "engines"


def state_hash(network: nn.Module) -> str:
    """sha256 over the structure, the source and the weights of `network`."""
    digest = hashlib.sha256(repr(network).encode())
    # The same weights mean something else in another forward.
    digest.update(inspect.getsource(sys.modules[type(network).__module__]).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def device_identity(device: torch.device) -> str:
    """Name and compute capability of a GPU; the instruction set of a CPU."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} {major}.{minor}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def compiler_versions() -> dict[str, str]:
    """Installed releases of what engines are built with and run by."""
    versions = {}
    for name in _COMPILERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cache_key(
    backend: str,
    state: str,
    shapes: Sequence[Sequence[int]],
    precision: torch.dtype,
    device: str,
    versions: Mapping[str, str],
) -> str:
    """The name of an engine: another name where any of these differs.

    `state`: of `state_hash`; `shapes`: of the network's inputs, the fixed batch included; `device`: of
    `device_identity`; `versions`: of `compiler_versions`.
    """
    parts = [backend, state, [list(shape) for shape in shapes], str(precision), device, dict(versions)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class EngineCache:
    """Files of engines, each with its sha256 beside it. Several programs may share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Path | None:
        """The engine called `key`; None where there is none. A file that differs from its sha256 is removed."""
        path, note = self._paths(key)
        try:
            expected = note.read_text(encoding="ascii").strip()
            whole = _sha256(path) == expected
        except (OSError, UnicodeDecodeError):
            whole = False
        if whole:
            return path
        if path.exists():
            logger.warning("%s: the kept engine is damaged and is built again", path)
            self.discard(key)
        return None

    def store(self, key: str, write: Callable[[Path], object]) -> None:
        """Keeps what `write` puts into the file it is given. Raises what `write` raises, and OSError."""
        # Only the user's own programs may put code where it will be loaded from.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, note = self._paths(key)
        # torch.export wants its own ending.
        part = path.with_name(f"{key}.{os.getpid()}.part{ENDING}")
        try:
            write(part)
            digest = _sha256(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        note_part = note.with_name(f"{note.name}.{os.getpid()}.part")
        note_part.write_text(digest + "\n", encoding="ascii")
        note_part.replace(note)

    def discard(self, key: str) -> None:
        """Removes the engine called `key`, if it is there."""
        for path in self._paths(key):
            path.unlink(missing_ok=True)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}{ENDING}", self.folder / f"{key}.sha256"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
