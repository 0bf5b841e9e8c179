"""Recognisers from the user's own files: AdaFace checkpoints, and ArcFace networks in ONNX.

AdaFace (Kim et al., CVPR 2022, arXiv 2204.00964): the layers carry the names of the published checkpoints
(github.com/mk-minchul/AdaFace), so these load as they are. ArcFace (Deng et al., CVPR 2019): such as those of
InsightFace's model packs.

Shapes: N crops, C channels, D width of an embedding.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from models.detector import available_providers
from models.pictures import VIEW_PX
from models.recogniser import check_crops
from models.weights import CheckpointError, load_state

_UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}
_CHANNELS = (64, 128, 256, 512)
_EMBEDDING = 512


class AdaFaceRecogniser:
    """AdaFace IR-18, IR-50 or IR-101; which one is read from the checkpoint's keys."""

    same_person = 0.3
    clear_norm = 0.0

    def __init__(
        self, path: str | Path, *, allow_pickle: bool = False, device: str | torch.device = "cpu"
    ) -> None:
        """Loads `.safetensors`, or a pickled file where `allow_pickle` permits it (read with `weights_only`).

        Raises `CheckpointError` for a file that cannot be read or holds another network.
        """
        state = _own_keys(load_state(Path(path), allow_pickle=allow_pickle))
        layers = _layers_of(state, path)
        self.name = f"adaface-ir{layers}"
        self.device = torch.device(device)
        network = AdaFace(layers)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: not the weights of AdaFace IR-{layers} ({error})") from error
        self._network = network.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def embed(self, crops: Tensor) -> Tensor:
        """Raw embeddings, float32 (N, 512) on the CPU, of aligned `crops`, uint8 (N, 3, 112, 112) RGB."""
        check_crops(crops)
        if len(crops) == 0:
            return torch.zeros(0, _EMBEDDING)
        crops_bgr = crops.to(self.device).flip(1).float() / 127.5 - 1
        embeddings: Tensor = self._network(crops_bgr)
        return embeddings.cpu()


class AdaFace(nn.Module):
    """Improved residual network with 18, 50 or 101 layers. Input float32 (N, 3, 112, 112) BGR in [-1, 1]."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        if layers not in _UNITS:
            raise ValueError(f"layers must be one of {sorted(_UNITS)}, got {layers}")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        blocks = []
        previous = 64
        for channels, units in zip(_CHANNELS, _UNITS[layers], strict=True):
            for index in range(units):
                blocks.append(_Block(previous, channels, stride=2 if index == 0 else 1))
                previous = channels
        self.body = nn.Sequential(*blocks)  # (N, 512, 7, 7)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(previous),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(previous * 7 * 7, _EMBEDDING),
            nn.BatchNorm1d(_EMBEDDING, affine=False),
        )

    def forward(self, crops_bgr: Tensor) -> Tensor:
        """Raw embeddings (N, 512); the original returns norm and direction apart, here the norm stays in."""
        embeddings: Tensor = self.output_layer(self.body(self.input_layer(crops_bgr)))
        return embeddings


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels_in == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return result


def _own_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights: training checkpoints call them `model.`, beside the classifier (`head.`)."""
    prefixed = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    return prefixed or state


def _layers_of(state: dict[str, Tensor], path: str | Path) -> int:
    indices = [key.split(".")[1] for key in state if key.startswith("body.")]
    blocks = len(set(indices))
    for layers, units in _UNITS.items():
        if blocks == sum(units):
            return layers
    found = ", ".join(sorted({key.split(".")[0] for key in state})[:4]) or "nothing"
    raise CheckpointError(
        f"{path}: not AdaFace IR-18, IR-50 or IR-101, which have 8, 24 or 49 blocks called `body.N`; "
        f"found {blocks} (the file starts with {found})"
    )


class ArcFaceRecogniser:
    """A network that takes float32 (N, 3, 112, 112) RGB, (value - 127.5) / 127.5, and gives (N, D).

    Not thread-safe.
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
        if shape is None or shape[1:] != [3, VIEW_PX, VIEW_PX] or len(outputs[0].shape) != 2:
            raise CheckpointError(
                f"{path}: not a recogniser; one input (N, 3, {VIEW_PX}, {VIEW_PX}) and an output (N, D) are "
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
    """Logs once for each file, by the cache."""
    logging.getLogger(__name__).warning(
        "%s: if this is one of InsightFace's pretrained models, it is for non-commercial research only", path
    )
