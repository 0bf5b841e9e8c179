"""How samples code colours: pixel formats, matrices, ranges and chroma siting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError

Plane = NDArray[np.integer[Any] | np.floating[Any]]
"""uint8 or little-endian uint16 (h, w); typed as OpenCV types its arrays."""

_PLANAR = re.compile(
    r"(?:yuv(?:410|411|420|422|440|444)p|yuvj(?:411|420|422|440|444)p|gbrp|gray)(?:(?:9|10|12|14|16)le)?"
)
_SUBSAMPLING = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411", (1, 2): "440", (4, 4): "410"}

# Kr and Kb by FFmpeg's number of the matrix (ITU-T H.273, table 4).
_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470 BG, that is BT.601 with 625 lines
    6: (0.299, 0.114),  # SMPTE 170M, that is BT.601 with 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020 non-constant luminance
}
_RGB, _UNSPECIFIED = 0, 2
_FULL_RANGE, _LIMITED_RANGE = 2, 1


class Siting(str):
    """Chroma siting of a frame in FFmpeg's terms: left, center, topleft, top, ...

    Stored in a frame's `opaque`, as PyAV does not expose the frame's own field. Each frame needs its own object: PyAV
    finds it by identity and drops it with the first frame that is freed.
    """


def planar_format(name: str) -> str:
    """The planar pixel format with the same samples as `name`: yuv4xxp, gbrp or gray, 8 to 16 bits.

    Alpha is dropped. Raises SourceError for other than plain integer formats.
    """
    if _PLANAR.fullmatch(name):
        return name
    try:
        layout = av.VideoFormat(name, 64, 64)
        components = [component for component in layout.components if not component.is_alpha]
        depth = max(component.bits for component in components)
        if layout.is_bayer or re.search(r"f(?:16|32)|xyz", name):
            raise ValueError(name)
        if layout.is_rgb or layout.has_palette:
            family = "gbrp"
        elif len(components) == 1:
            family = "gray"
        else:
            family = f"yuv{_SUBSAMPLING[64 // components[1].width, 64 // components[1].height]}p"
        suffix = {9: "9le", 10: "10le", 12: "12le", 14: "14le", 16: "16le"}.get(depth, "")
        if depth > 8 and not suffix:
            raise ValueError(name)
    except (ValueError, KeyError) as error:
        raise SourceError(
            f"pixel format {name} is not supported: expected YUV, grey or RGB integers of 8 to 16 bits; "
            "convert the video first"
        ) from error
    return family + suffix


def check_matrix(colorspace: int) -> None:
    """Raises SourceError if FFmpeg's matrix number `colorspace` is not supported."""
    if colorspace not in (*_WEIGHTS, _RGB, _UNSPECIFIED, 3, 10):
        raise SourceError(
            f"colour matrix {colorspace} (YCgCo, ICtCp or another rare one) is not supported: "
            "expected BT.601, 709, 2020, FCC, SMPTE 240M or RGB; convert the video first"
        )


def chroma_step(pixel_format: str) -> tuple[int, int]:
    """Luma samples per chroma sample, across and down; (1, 1) for grey and RGB."""
    components = av.VideoFormat(pixel_format, 64, 64).components
    if len(components) == 1:
        return 1, 1
    return 64 // components[1].width, 64 // components[1].height


def luma_code(native: av.VideoFrame, level: float) -> int:
    """The code of the 8-bit full-range `level` in the luma, or the R, G and B, of `native`."""
    coding = coding_of(native)
    return round(coding.luma_offset + level / coding.luma_scale)


def planes_of(native: av.VideoFrame) -> list[Plane]:
    """The planes of a planar frame without line padding, as views."""
    # All platforms with FFmpeg wheels are little-endian.
    dtype = np.uint16 if native.format.components[0].bits > 8 else np.uint8
    views: list[Plane] = []
    for plane in native.planes:
        samples: Plane = np.frombuffer(memoryview(plane), dtype)
        views.append(samples.reshape(plane.height, -1)[:, : plane.width])
    return views


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """How a frame's samples code colours."""

    kind: str
    """yuv, gray or rgb (planes G, B, R)."""
    depth: int
    step_x: int
    step_y: int
    """Luma samples per chroma sample."""
    offset_x: float
    offset_y: float
    """Position of chroma sample 0 in luma pixels."""
    luma_offset: float
    luma_scale: float
    """8-bit full-range value = (code - offset) * scale."""
    chroma_scale: float
    luma_range: tuple[float, float]
    chroma_range: tuple[float, float]
    """Legal codes, inclusive."""
    to_rgb: NDArray[np.float32]
    """float32 (3, 4): codes of the planes to RGB in 8-bit values."""
    from_rgb: NDArray[np.float32]
    """float32 (3 or 1, 3): a difference in RGB to a difference in codes of the planes."""

    def to_plane(self, matrix: NDArray[np.float32], *, chroma: bool = False) -> NDArray[np.float64]:
        """`matrix` (2, 3) from frame to crop as the transform (2, 3) from samples of a plane to crop."""
        result = np.asarray(matrix, np.float64).copy()
        if chroma:
            result[:, 2] += result[:, :2] @ (self.offset_x, self.offset_y)
            result[:, :2] *= (self.step_x, self.step_y)
        return result


def coding_of(native: av.VideoFrame) -> Coding:
    site = native.opaque if isinstance(native.opaque, Siting) else "left"
    return _coding(
        native.format.name,
        native.colorspace,
        native.color_range,
        native.height >= 720 or native.width >= 1280,
        site,
    )


@lru_cache(maxsize=64)
def _coding(name: str, colorspace: int, color_range: int, high_definition: bool, site: str) -> Coding:
    layout = av.VideoFormat(name, 64, 64)
    depth = layout.components[0].bits
    kind = "rgb" if layout.is_rgb else "gray" if len(layout.components) == 1 else "yuv"
    step_x, step_y = chroma_step(name)
    # Players take an unspecified range as limited for YUV, and as full for grey and RGB.
    full = name.startswith("yuvj") or (
        color_range == _FULL_RANGE if kind == "yuv" else color_range != _LIMITED_RANGE
    )
    unit, top = float(1 << (depth - 8)), float((1 << depth) - 1)
    luma_offset, luma_scale = (0.0, 255 / top) if full else (16 * unit, 255 / (219 * unit))
    chroma_scale = 255 / top if full else 255 / (224 * unit)
    luma_range = (0.0, top) if full else (16 * unit, 235 * unit)
    chroma_range = (0.0, top) if full else (16 * unit, 240 * unit)
    if kind == "rgb":
        # Planes G, B, R.
        order = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float64)
        to_rgb = np.hstack([order * luma_scale, np.full((3, 1), -luma_offset * luma_scale)])
        from_rgb = order.T / luma_scale
    else:
        red, blue = _WEIGHTS.get(9 if colorspace == 10 else colorspace, _WEIGHTS[1 if high_definition else 5])
        weights = np.array([red, 1 - red - blue, blue])
        # H.273, equations 38-40 and their inverse.
        analysis = np.vstack(
            [
                weights / luma_scale,
                (np.array([0, 0, 1]) - weights) / (2 * (1 - blue)) / chroma_scale,
                (np.array([1, 0, 0]) - weights) / (2 * (1 - red)) / chroma_scale,
            ]
        )
        synthesis = np.linalg.inv(analysis)
        zero = np.array([luma_offset, 128 * unit, 128 * unit])
        to_rgb = np.hstack([synthesis, -(synthesis @ zero)[:, None]])
        from_rgb = analysis
        if kind == "gray":
            from_rgb = analysis[:1]
    return Coding(
        kind=kind,
        depth=depth,
        step_x=step_x,
        step_y=step_y,
        offset_x=0.0 if "left" in site else (step_x - 1) / 2,
        offset_y=0.0 if "top" in site else step_y - 1.0 if "bottom" in site else (step_y - 1) / 2,
        luma_offset=luma_offset,
        luma_scale=luma_scale,
        chroma_scale=chroma_scale,
        luma_range=luma_range,
        chroma_range=chroma_range,
        to_rgb=to_rgb.astype(np.float32),
        from_rgb=from_rgb.astype(np.float32),
    )
