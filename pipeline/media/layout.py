"""Frames from frames: other pixel formats and sizes, and several frames side by side."""

from __future__ import annotations

from collections.abc import Sequence

import av
import cv2
import numpy as np

from pipeline.media.coding import Plane, chroma_step, luma_code, planes_of
from pipeline.media.probe import Display, display_of
from pipeline.pixels.colour import new_frame, through_filters

_FULL_RANGE, _UNSPECIFIED = 2, 2


def repack(native: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """`native` in another pixel format, with its tags; lossless if the format can hold the samples."""
    tags = native.color_range, native.colorspace, native.color_primaries, native.color_trc
    try:
        if not native.format.is_rgb:
            # Without tags: the converter would otherwise convert between ranges and between matrices.
            full = _FULL_RANGE if pixel_format.startswith("yuvj") else 0
            none = (_UNSPECIFIED, _UNSPECIFIED, _UNSPECIFIED)
            _tag(native, (full, *(tags[1:] if av.VideoFormat(pixel_format).is_rgb else none)))
        result = through_filters(native, ("format", f"pix_fmts={pixel_format}"))
    finally:
        _tag(native, tags)
    _tag(result, tags)
    return result


def _tag(native: av.VideoFrame, tags: tuple[int, int, int, int]) -> None:
    native.color_range, native.colorspace, native.color_primaries, native.color_trc = tags


def is_opaque(native: av.VideoFrame) -> bool:
    """Whether no pixel of `native` is transparent."""
    components = native.format.components
    if not any(component.is_alpha for component in components) and not native.format.has_palette:
        return True
    depth = max(component.bits for component in components)
    alpha = through_filters(native, ("alphaextract", ""))
    top = (1 << min(depth, alpha.format.components[0].bits)) - 1
    return bool((planes_of(alpha)[0] >= top).all())


_FONT = cv2.FONT_HERSHEY_SIMPLEX


def side_by_side(
    before: av.VideoFrame, after: av.VideoFrame, captions: tuple[str, str] = ("before", "after")
) -> av.VideoFrame:
    """One frame in the same pixel format that shows `before` left and `after` right, with captions. See `mosaic`."""
    return mosaic((before, after), captions, across=2)


def mosaic(
    cells: Sequence[av.VideoFrame], captions: Sequence[str], *, across: int, display: Display | None = None
) -> av.VideoFrame:
    """`cells` in rows of `across`, each with its caption, in their pixel format.

    Rows are rows as displayed, after rotation and mirroring by `display` (None = that of the first cell). With
    subsampled chroma an odd last column or row is cut off; empty cells are black. Raises ValueError for cells of
    different size or format.
    """
    first = cells[0]
    for cell in cells[1:]:
        if (first.width, first.height, first.format.name) != (cell.width, cell.height, cell.format.name):
            raise ValueError(
                f"frames to compare must be alike, got {first.width}x{first.height} {first.format.name} and "
                f"{cell.width}x{cell.height} {cell.format.name}"
            )
    display = display or display_of(first)
    size, down = cell_size(first.width, first.height, first.format.name), -(-len(cells) // across)
    joined = new_frame(first, *grid_size(size, across, down, display.rotation))
    shown = [_as_shown(plane, display) for plane in planes_of(joined)]
    for index, plane in enumerate(shown):
        plane[:] = luma_code(first, 0) if index == 0 or first.format.is_rgb else _neutral(first)
    for number, cell in enumerate(cells):
        row, column = divmod(number, across)
        places = []
        for target, plane in zip(shown, whole_planes(cell), strict=True):
            high, wide = target.shape[0] // down, target.shape[1] // across
            place = target[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
            place[:] = _as_shown(plane, display)
            places.append(place)
        _stamp(places, captions[number], first)
    return joined


def shrunk(native: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
    """`native` scaled to `size` in whole chroma samples, without an odd last row or column; unchanged at that size."""
    if (native.width, native.height) == size:
        return native
    fresh = new_frame(native, *size)
    for target, plane in zip(planes_of(fresh), whole_planes(native), strict=True):
        height, width = target.shape
        target[:] = (
            plane
            if plane.shape == target.shape
            else cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
        )
    return fresh


def whole_planes(native: av.VideoFrame) -> list[Plane]:
    """The planes of `native` without an odd last row or column."""
    width, height = cell_size(native.width, native.height, native.format.name)
    across, down = chroma_step(native.format.name)
    first, *others = planes_of(native)
    return [first[:height, :width], *(plane[: height // down, : width // across] for plane in others)]


def cell_size(width: int, height: int, pixel_format: str, scale: float = 1.0) -> tuple[int, int]:
    """The largest size in whole chroma samples within `width` x `height` times `scale`, at least one sample."""
    steps = chroma_step(pixel_format)
    across, down = (
        max(step, int(side * scale) // step * step) for side, step in zip((width, height), steps, strict=True)
    )
    return across, down


def grid_size(size: tuple[int, int], across: int, down: int, rotation: int) -> tuple[int, int]:
    """Size of a coded frame that shows `across` x `down` coded cells of `size` after rotation by `rotation` degrees."""
    width, height = size
    return (width * down, height * across) if rotation % 180 else (width * across, height * down)


def frame_size(width: int, height: int, rotation: int, *, columns: int, pixel_format: str) -> tuple[int, int]:
    """Size of a coded frame that shows `columns` frames side by side, after rotation by `rotation` degrees.

    Several frames are cut to whole chroma samples.
    """
    size = cell_size(width, height, pixel_format) if columns > 1 else (width, height)
    return grid_size(size, columns, 1, rotation)


def _as_shown(plane: Plane, display: Display) -> Plane:
    """A view of a coded plane as displayed."""
    turned = np.rot90(plane, display.rotation // 90)
    return turned[:, ::-1] if display.mirrored else turned


def _neutral(like: av.VideoFrame) -> int:
    """The code of neutral chroma."""
    return 1 << (like.format.components[0].bits - 1)


def _stamp(planes: list[Plane], caption: str, like: av.VideoFrame) -> None:
    """Writes `caption`, white on black, into the lower left corner of `planes` as displayed."""
    height, width = planes[0].shape
    scale, thickness = max(0.35, height / 700), max(1, round(height / 350))
    (text_width, text_height), below = cv2.getTextSize(caption, _FONT, scale, thickness)
    margin = max(2, text_height // 2)
    label = np.zeros((text_height + below + 2 * margin, text_width + 2 * margin), np.uint8)
    cv2.putText(label, caption, (margin, margin + text_height), _FONT, scale, 255, thickness, cv2.LINE_AA)
    shrink = min(1.0, width / 2 / label.shape[1], height / 3 / label.shape[0])
    size = max(1, int(label.shape[1] * shrink)), max(1, int(label.shape[0] * shrink))
    label = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_AREA), np.uint8)
    black, white = luma_code(like, 0), luma_code(like, 255)
    codes = black + label.astype(np.float32) * ((white - black) / 255)
    for index, plane in enumerate(planes):
        rows = round(label.shape[0] * plane.shape[0] / height)
        columns = round(label.shape[1] * plane.shape[1] / width)
        corner = plane[plane.shape[0] - rows :, :columns]
        if index == 0 or like.format.is_rgb:
            corner[:] = np.rint(codes).astype(plane.dtype)
        else:
            corner[:] = _neutral(like)
