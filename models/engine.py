"""Networks run as compiled engines of one fixed shape, or eagerly where that does not work.

An engine is built while the network itself serves, is compared with it on samples, and takes over between two
calls. A failure is logged in one sentence and costs only speed.

Shapes: N items of a call, B items of the fixed batch. Networks take tensors (N, ...) and give float32 pictures
(N, 3, H, W) in which 0 to 1 are the code values 0 to 255.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from models.engine_builders import (
    BUILDERS,
    Builder,
    EngineCache,
    Run,
    cache_folder,
    cache_key,
    compiler_versions,
    device_identity,
    has_tensorrt,
    state_hash,
)
from models.precision import CAPABILITY, PRECISIONS, Mixed, check_capability

BACKENDS = ("auto", "eager", "compile", "trt")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a network is run on a GPU."""

    backend: str = "auto"
    """`auto` (`trt` where there is a CUDA device and torch-tensorrt is installed, else `eager`), `eager` (the
    network as it is), `compile` (torch.compile) or `trt` (TensorRT)."""
    batch: int = 8
    """Items of the engine's fixed batch: fewer are padded, more are cut. Also the most that eager runs at once."""
    precision: str = "auto"
    """Of the engine's insides: `float32`, `float16`, `bfloat16`, or `auto`: float16, which is nearer to the
    network than bfloat16, where the GPU is fast in it, else float32."""
    mean_error: float = 0.1
    """Mean difference from the network, in code values, above which an engine is refused."""
    max_error: float = 2.0
    """Largest difference from the network, in code values, above which an engine is refused."""
    cache: Path | None = None
    """Folder in which built engines are kept; none = the user's cache."""
    wait: bool = True
    """Wait for the engine before the first result, so that no result depends on when it was ready; otherwise eager
    serves meanwhile."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not (0 < self.mean_error < math.inf and 0 < self.max_error < math.inf):
            raise ValueError(
                f"mean_error and max_error must be above 0, got {self.mean_error} and {self.max_error}"
            )


class Engine:
    """A network that is replaced by its engine once that is ready. Called by one thread at a time."""

    def __init__(
        self,
        network: nn.Module,
        samples: Sequence[Tensor],
        config: EngineConfig,
        builder: Builder | None = None,
        eager_precision: torch.dtype = torch.float32,
    ) -> None:
        """Starts to build, where `config` asks for it.

        `network`: in evaluation mode, on its device. `samples`: its inputs for some items (N, ...), such as it
        will see; they fix shapes and types, and the engine is compared with the network on them. `builder`:
        another one than that of the backend. `eager_precision`: in which the network itself serves.
        """
        self._network = Mixed(network, eager_precision)
        self._samples = tuple(samples)
        self._config = config
        self._eager_batch = config.batch
        self._run: Run | None = None
        self._thread: threading.Thread | None = None
        self.backend = choose_backend(config.backend, samples[0].device)
        """What is to serve in the end: `eager`, `compile` or `trt`."""
        builder = builder or BUILDERS.get(self.backend)
        if builder is not None and self.backend != "eager":
            # Tracing puts other tensors into the modules that it walks through: into a copy, then.
            work = copy.deepcopy(network), builder
            self._thread = threading.Thread(target=self._prepare, args=work, name="engine", daemon=True)
            self._thread.start()

    @property
    def serving(self) -> str:
        """What answers now: `eager`, `compile` or `trt`."""
        return self.backend if self._run is not None else "eager"

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Waits until the engine serves or is given up; False where that takes longer."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            return not self._thread.is_alive()
        return True

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output, float32 (N, 3, H, W), for inputs (N, ...) shaped like the samples.

        Each item's result depends on that item alone, within float tolerance. Raises ValueError for
        inputs of another form, and torch.OutOfMemoryError where half a batch is still too much.
        """
        self._check(inputs)
        if self._config.wait:
            self.wait()
        run = self._run  # read once: the other thread may set it meanwhile
        if run is not None:
            try:
                return _in_batches(run, inputs, self._config.batch, padded=True)
            except Exception as error:
                self._run = None
                self._tell(f"failed while it served ({_sentence(error)})")
        try:
            return _in_batches(self._network, inputs, self._eager_batch)
        except torch.OutOfMemoryError:
            if self._eager_batch < self._config.batch or self._eager_batch == 1:
                raise
        # After the handler, where the error no longer holds on to the memory of what it came from.
        self._eager_batch = (self._eager_batch + 1) // 2
        logger.warning("the GPU's memory is full: batches are halved to %d from now on", self._eager_batch)
        torch.cuda.empty_cache()
        return _in_batches(self._network, inputs, self._eager_batch)

    def _prepare(self, network: nn.Module, builder: Builder) -> None:
        """Work of the other thread: no error of it may reach a run."""
        try:
            batch = self._config.batch
            precision = choose_precision(self._config.precision, self._samples[0].device)
            run = self._obtain(network, builder, precision)
            mean, largest = error_in_codes(run, network, self._samples, batch)
            if not (mean <= self._config.mean_error and largest <= self._config.max_error):
                self._tell(
                    f"differs from the network by {mean:.3g} code values on average and {largest:.3g} at most, "
                    f"{self._config.mean_error:.3g} and {self._config.max_error:.3g} are allowed"
                )
                return
            self._run = run
            logger.info(
                "%s engine ready, %.2g code values from the network on average, %.2g at most",
                self.backend,
                mean,
                largest,
            )
        except Exception as error:
            self._tell(f"cannot be built ({_sentence(error)})")

    def _obtain(self, network: nn.Module, builder: Builder, precision: torch.dtype) -> Run:
        """The kept engine, or a new one, which is kept."""
        example = tuple(_padded(sample[: self._config.batch], self._config.batch) for sample in self._samples)
        key = cache_key(
            self.backend,
            state_hash(network),
            [tensor.shape for tensor in example],
            precision,
            device_identity(example[0].device),
            compiler_versions(),
        )
        cache = EngineCache((self._config.cache or cache_folder()).expanduser())
        if builder.load is not None and (path := cache.find(key)) is not None:
            try:
                return builder.load(path)
            except Exception as error:
                logger.warning("%s: cannot be loaded (%s) and is built again", path, _sentence(error))
                cache.discard(key)
        shape, kind = tuple(example[0].shape), str(precision).removeprefix("torch.")
        logger.info("building a %s engine for %s in %s; eager serves meanwhile", self.backend, shape, kind)
        start = time.monotonic()
        run = builder.build(export(network, example, precision), example, precision)
        logger.info("%s engine built in %.0f s", self.backend, time.monotonic() - start)
        if builder.save is not None:
            save = builder.save
            try:
                cache.store(key, lambda path: save(run, path, example))
            except Exception as error:
                logger.warning("%s: the engine cannot be kept there (%s)", cache.folder, _sentence(error))
        return run

    def _check(self, inputs: Sequence[Tensor]) -> None:
        expected = [(tuple(sample.shape[1:]), sample.dtype) for sample in self._samples]
        got = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in inputs]
        if got != expected or {len(tensor) for tensor in inputs} != {len(inputs[0])} or not len(inputs[0]):
            raise ValueError(f"the engine takes items of {expected}, one or more, got {got}")

    def _tell(self, reason: str) -> None:
        logger.warning("the %s engine %s; eager serves", self.backend, reason)


def choose_backend(wanted: str, device: torch.device) -> str:
    """`eager`, `compile` or `trt`: what is wanted where it can be had, else `eager` with one sentence."""
    if wanted == "auto":
        return "trt" if device.type == "cuda" and has_tensorrt() else "eager"
    if wanted == "trt" and device.type != "cuda":
        logger.warning("a trt engine needs a CUDA device, this is %s; eager serves", device.type)
        return "eager"
    if wanted == "trt" and not has_tensorrt():
        logger.warning("a trt engine needs torch-tensorrt (pip install 'anchorface[trt]'); eager serves")
        return "eager"
    return wanted


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type of an engine's insides. Raises ValueError for one that the GPU is not made for."""
    if wanted == "auto":
        capable = device.type == "cuda" and (
            torch.cuda.get_device_capability(device) >= CAPABILITY[torch.float16]
        )
        return torch.float16 if capable else torch.float32
    check_capability(PRECISIONS[wanted], device)
    return PRECISIONS[wanted]


def export(
    network: nn.Module, example: Sequence[Tensor], precision: torch.dtype = torch.float32
) -> ExportedProgram:
    """`network` as a graph of ATen operators, for tensors of the shapes of `example` alone.

    With a `precision` of 16 bits convolutions and matrix products run in it, and what is left, such as the sum
    with the input, in float32; inputs and output are those of the network. The casts are part of the graph.
    Raises what `torch.export` raises.
    """
    if precision is torch.float32:
        return torch.export.export(network, tuple(example))
    exported = torch.export.export(Mixed(network, precision), tuple(example))
    # torch warns of itself here. A filter, as `catch_warnings` is not for threads.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
    # Brings the region under autocast, a graph within the graph, into the open as casts.
    inlined: ExportedProgram = exported.run_decompositions({})
    return inlined


@torch.inference_mode()
def error_in_codes(
    run: Run, network: nn.Module, samples: Sequence[Tensor], batch: int
) -> tuple[float, float]:
    """Mean and largest difference of `run`, in padded batches, from `network`, in code values; nan for no number."""
    answer = _in_batches(run, samples, batch, padded=True)
    expected = _in_batches(network, samples, batch)
    if answer.shape != expected.shape:
        raise ValueError(f"the answer should be {tuple(expected.shape)}, got {tuple(answer.shape)}")
    difference = (answer.float() - expected).abs() * 255
    return float(difference.mean()), float(difference.max())


def _in_batches(run: Run, inputs: Sequence[Tensor], batch: int, *, padded: bool = False) -> Tensor:
    parts = []
    for start in range(0, len(inputs[0]), batch):
        part = [tensor[start : start + batch] for tensor in inputs]
        count = len(part[0])
        if padded:
            part = [_padded(tensor, batch) for tensor in part]
        parts.append(run(*part)[:count])
    return torch.cat(parts)


def _padded(tensor: Tensor, batch: int) -> Tensor:
    """Zeros behind the items; a copy in any case, so that engines always see the same layout in memory."""
    whole = tensor.new_zeros(batch, *tensor.shape[1:])
    whole[: len(tensor)] = tensor
    return whole


def _sentence(error: Exception) -> str:
    """The first line of what an error says; compilers add pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
