"""`SpandrelRestorer`: other people's face restorers, by the path of their weights.

spandrel (https://github.com/chaiNNer-org/spandrel) recognises the architecture by the names of the weights. It comes
with the extra `spandrel` and is imported only here, when such a model is asked for: it needs torchvision, and each
torchvision needs exactly one torch.

Shapes: B crops, S = 512. GFPGAN (arXiv 2101.04061), RestoreFormer (CVPR 2022) and CodeFormer (arXiv 2206.11253) all
take faces in the FFHQ alignment of `models.align` and work on [-1, 1].
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configs import ConfigError
from models.pictures import to_codes
from models.protocols import Needs, Request, Result, check_crop
from models.weights import CheckpointError, load_state


@dataclass(frozen=True, slots=True)
class _Known:
    """What spandrel does not say of an architecture."""

    licence: str
    """That of the weights which its authors published."""
    call: Callable[[Any, Tensor], Tensor]
    """Network and float32 (B, 3, S, S) in [-1, 1] to the same, as in the authors' own scripts."""


# The networks are called directly: for GFPGAN and CodeFormer, spandrel 0.4.2 passes [0, 1] on unchanged.
_KNOWN = {
    # The noise that lies with the weights, not new noise at each call, which would flicker.
    "GFPGAN": _Known("Apache-2.0", lambda network, x: network(x, return_rgb=False, randomize_noise=False)[0]),
    "RestoreFormer": _Known("Apache-2.0", lambda network, x: network(x)[0]),
    # 0.5 is the authors' balance of quality and fidelity.
    "CodeFormer": _Known("S-Lab License 1.0, non-commercial", lambda network, x: network(x, weight=0.5)[0]),
}
CROP_PX = 512
_FACE_RESTORERS = f"its face restorers are {', '.join(_KNOWN)}"


class SpandrelRestorer:
    """Restores each aligned face by itself; references are not used."""

    def __init__(self, path: Path, device: str | torch.device = "cpu", *, allow_pickle: bool = False) -> None:
        """`path`: `.safetensors`, or with `allow_pickle` also `.pth`, `.pt`, `.ckpt`.

        Raises `CheckpointError` for a file that cannot be read, an architecture that spandrel does not know and a
        model that is not for faces, `ConfigError` where spandrel is missing.
        """
        self.device = torch.device(device)
        self.needs = Needs(CROP_PX, references=False, device=self.device)
        self._model = _load(path, load_state(path, allow_pickle=allow_pickle)).to(self.device).eval()
        self._model.model.requires_grad_(False)
        name = self._model.architecture.name
        self._known = _KNOWN.get(self._model.architecture.id)
        licence = self._known.licence if self._known else "not known here, see where they came from"
        logging.getLogger(__name__).warning(
            "%s: %s; licence of its published weights: %s; references are not used", path, name, licence
        )

    @torch.inference_mode()
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises `ValueError` for crops of another form.

        On a CPU, and where the architecture says nothing about batches, the requests go one by one; on a GPU they
        form one batch.
        """
        for request in requests:
            check_crop(request.crop, CROP_PX)
        size = len(requests) if self.device.type != "cpu" and self._known else 1
        results: list[Result] = []
        for start in range(0, len(requests), max(size, 1)):
            crops = torch.stack([request.crop for request in requests[start : start + size]])
            results += [Result(image) for image in self._batch(crops)]
        return results

    def _batch(self, crops: Tensor) -> Tensor:
        pictures = crops.to(self.device).float().div_(255)
        if self._known:
            restored = self._known.call(self._model.model, pictures * 2 - 1).add(1).div(2)
        else:
            restored = self._model(pictures)  # spandrel's own contract: [0, 1] to [0, 1]
        if restored.shape[-1] > CROP_PX:
            restored = F.interpolate(restored, size=(CROP_PX, CROP_PX), mode="area")
        return to_codes(restored).cpu()


def _load(path: Path, state: dict[str, Tensor]) -> Any:
    """spandrel's descriptor of the model that these weights belong to."""
    spandrel, registry = _spandrel(path)
    try:
        model = registry.load(state)
    except spandrel.UnsupportedModelError as error:
        raise CheckpointError(
            f"{path}: no architecture that spandrel {spandrel.__version__} knows; {_FACE_RESTORERS}"
        ) from error
    except Exception as error:
        # Weights that do not fit raise any exception, by the architecture.
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: the weights do not fit the architecture that their names point to ({reason})"
        ) from error
    if model.purpose != "FaceSR":
        raise CheckpointError(
            f"{path}: {model.architecture.name} is for whole pictures (spandrel calls it {model.purpose}), "
            f"not for faces; {_FACE_RESTORERS}"
        )
    return model


def _spandrel(path: Path) -> tuple[Any, Any]:
    """spandrel, and a registry of all architectures; its global one is not changed."""
    try:
        import spandrel
        import spandrel_extra_arches
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path}: a restorer of this kind needs spandrel, but {error.name} is not installed; "
            'pip install -e ".[spandrel]"'
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        # A torchvision of another release or build than torch fails in one of these ways.
        raise ConfigError(
            f"{path}: spandrel cannot be imported ({error}); torch and torchvision must be of the same release and "
            'from the same index: pip install -e ".[spandrel]"'
        ) from error
    registry = spandrel.ArchRegistry()
    registry.add(*spandrel.MAIN_REGISTRY, *spandrel_extra_arches.EXTRA_REGISTRY)
    return spandrel, registry
