"""ArcFace recognisers (Deng et al., CVPR 2019) in ONNX, such as those of InsightFace's model packs."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from models.adaface import check_crops
from models.detector import available_providers
from models.recogniser import CROP_PX
from models.weights import CheckpointError


class ArcFaceRecogniser:
    """A network that takes float32 (N, 3, 112, 112) RGB, (value - 127.5) / 127.5, and gives (N, D).

    Not for several threads at once.
    """

    same_person = 0.3
    clear_norm = 0.0

    def __init__(self, path: str | Path, *, threads: int = 2) -> None:
        """Raises `CheckpointError` for a file that cannot be read or is a network of another kind."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=available_providers())
        except Exception as error:
            # onnxruntime has its own exceptions, one for each reason, without a common base.
            raise CheckpointError(f"{path}: cannot be read as ONNX ({error})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else None
        if shape is None or shape[1:] != [3, CROP_PX, CROP_PX] or len(outputs[0].shape) != 2:
            raise CheckpointError(
                f"{path}: not a recogniser; one input (N, 3, {CROP_PX}, {CROP_PX}) and an output (N, D) are "
                f"needed, got {[value.shape for value in inputs]} and {outputs[0].shape}"
            )
        # Old exports begin with the normalisation itself; insightface looks for it in the same way.
        inside = _normalises_itself(Path(path))
        self._mean, self._spread = (0.0, 1.0) if inside else (127.5, 127.5)
        self.name = f"arcface-{Path(path).stem}"
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self._width = outputs[0].shape[1] if isinstance(outputs[0].shape[1], int) else 0
        _say_licence(str(path))

    def embed(self, crops: Tensor) -> Tensor:
        """Raw embeddings, float32 (N, D), of `crops`, uint8 (N, 3, 112, 112) RGB in the ArcFace alignment."""
        check_crops(crops)
        if len(crops) == 0:
            return torch.zeros(0, self._width)
        values = (crops.cpu().numpy().astype(np.float32) - self._mean) / self._spread
        # Some exports are fixed to one crop a call.
        step = self._batch or len(values)
        padding = -len(values) % step
        values = np.concatenate([values, np.zeros((padding, *values.shape[1:]), np.float32)])
        name = self._session.get_inputs()[0].name
        parts = [
            self._session.run(None, {name: values[start : start + step]})[0]
            for start in range(0, len(values), step)
        ]
        return torch.from_numpy(np.concatenate(parts)[: len(crops)].astype(np.float32))


def _normalises_itself(path: Path) -> bool:
    first = [node.name for node in onnx.load(str(path), load_external_data=False).graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in first)
    return subtracts and any(name.startswith(("Mul", "_mul")) for name in first)


@cache
def _say_licence(path: str) -> None:
    """Once for each file: the cache is what makes it once."""
    logging.getLogger(__name__).warning(
        "%s: if this is one of InsightFace's pretrained models, it is for non-commercial research only", path
    )
