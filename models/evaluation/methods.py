"""The restorers that are compared, and what they make of a face, kept between evaluations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import models
from models.aligned.restorer import AlignedRestorer
from models.evaluation.cache import Cache, key_of
from models.evaluation.faces import SIDE_PX
from models.fast.restorer import FastRestorer
from models.iconface.restorer import IconFaceRestorer
from models.iconface.sampling import SamplingSettings
from models.protocols import References, Request, Restorer
from models.training.degrade import Picture
from models.weights import EMBEDDED, Checkpoint, CheckpointError, load_checkpoint, load_embedded

_CODE = ("*.py", "aligned/*.py", "fast/*.py", "iconface/*.py")
"""All that restorers are written in, and some more: better one result too many worked out again."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A restorer under its name in the tables."""

    name: str
    restorer: Restorer
    key: str
    """Names all that its results depend on besides the request."""


def fast_method(path: Path | None, precision: torch.dtype = torch.float32) -> Method:
    """`fast` with the checkpoint at `path`, or with the shipped one."""
    checkpoint = load_checkpoint(path) if path else load_embedded("fast")
    restorer = FastRestorer(checkpoint, precision=precision)
    return Method("fast", restorer, _key("fast", checkpoint, precision))


def aligned_method(path: Path | None, precision: torch.dtype = torch.float32) -> Method:
    """`aligned` with the checkpoint at `path`, or with the shipped one."""
    checkpoint = load_checkpoint(path) if path else load_embedded("aligned")
    restorer = AlignedRestorer(checkpoint, precision=precision)
    return Method("aligned", restorer, _key("aligned", checkpoint, precision))


def iconface_methods(
    path: Path | None,
    steps: Sequence[int],
    embedded: Path = EMBEDDED,
    precision: torch.dtype = torch.float32,
    usual: SamplingSettings | None = None,
) -> list[Method]:
    """`iconface` once for each number of `steps`, with the checkpoint at `path` or with the one in `embedded`.

    `usual`: the other settings of sampling. Empty where there is neither checkpoint. Raises `CheckpointError` for
    weights that take crops of another size.
    """
    if path is None and not (embedded / "iconface.safetensors").exists():
        return []
    checkpoint = load_checkpoint(path) if path else load_embedded("iconface", embedded)
    methods = []
    for count in steps:
        settings = replace(usual or SamplingSettings(), steps=count)
        restorer = IconFaceRestorer(checkpoint, settings=settings, precision=precision)
        if restorer.crop_size != SIDE_PX:
            raise CheckpointError(
                f"{checkpoint.path}: takes crops of {restorer.crop_size} pixels, but faces are measured at {SIDE_PX}"
            )
        key = _key("iconface", checkpoint, precision, settings)
        methods.append(Method(f"iconface {count}", restorer, key))
    return methods


def restored(
    method: Method, pictures: list[Picture], references: list[References], cache: Cache
) -> list[Picture]:
    """`pictures`, uint8 (256, 256, 3), as `method` restores them, each with its own `references`."""
    results: list[Picture] = []
    for picture, own in zip(pictures, references, strict=True):
        key = key_of(method.key, picture, own.embeddings.numpy(), *(crop.numpy() for crop in own.crops))
        found = cache.find(key)
        if found is None:
            crop = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
            (result,) = method.restorer.restore([Request(crop, own)])
            found = np.ascontiguousarray(result.image.permute(1, 2, 0).numpy())
            cache.keep(key, found)
        results.append(np.asarray(found, np.uint8))
    return results


def _key(
    name: str, checkpoint: Checkpoint, precision: torch.dtype, settings: SamplingSettings | None = None
) -> str:
    """From the contents of the files and of the code; the number of threads decides in which order sums are made."""
    folder = Path(models.__file__).parent
    files = [path for pattern in _CODE for path in sorted(folder.glob(pattern))]
    # Restorers look at crops with the shipped encoder, and `aligned` finds points with the shipped landmarks.
    files += [
        EMBEDDED / f"{used}.safetensors"
        for used in ("encoder", *(("landmarks",) if name == "aligned" else ()))
    ]
    if checkpoint.path is not None:
        files.append(checkpoint.path)
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return key_of(name, settings, str(precision), torch.get_num_threads(), contents)
