"""Pixel arithmetic on the decoder's own planes: thumbnails and crops out of them, differences into them.

No frame is ever converted to RGB as a whole: crops are cut from the planes that the decoder gave, and what is
written back is a difference, so a sample that no face touches keeps its bits.
Positions count pixel centres of luma at integers; chroma samples lie where the stream says.
Legend: H W frame, h w region or thumbnail, S side of a crop, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
import torch
from av.filter import Graph
from numpy.typing import NDArray
from torch import Tensor

from pipeline.frames import Patch
from pipeline.media.coding import Coding, Plane, Siting, coding_of, planes_of
from pipeline.pixels.placement import SOFT_FROM, reading, softness, writing


def luma_thumbnail(native: av.VideoFrame, width: int) -> tuple[NDArray[np.uint8], float]:
    """Luma of `native` shrunk to `width` pixels (never enlarged) and frame pixels per thumbnail pixel.

    uint8 (h, w), full range whatever the stream's range and depth; each pixel is the mean of its area.
    """
    coding = coding_of(native)
    planes = planes_of(native)
    width = min(width, native.width)
    if coding.kind == "rgb":
        green, blue, red = (_levels(_shrink(plane, width), coding) for plane in planes[:3])
        small = cv2.cvtColor(cv2.merge([red, green, blue]), cv2.COLOR_RGB2GRAY)
    else:
        small = _levels(_shrink(planes[0], width), coding)
    return np.asarray(small, np.uint8), native.width / width


def rgb_thumbnail(native: av.VideoFrame, width: int) -> tuple[NDArray[np.uint8], float]:
    """`native` shrunk to `width` pixels (never enlarged) and frame pixels per thumbnail pixel.

    uint8 (h, w, 3) RGB full range. Each pixel is the mean of the area it covers.
    """
    coding = coding_of(native)
    planes = planes_of(native)
    width = min(width, native.width)
    first = _shrink(planes[0], width)
    size = (first.shape[1], first.shape[0])
    # Chroma siting is left aside here: it is a quarter of a thumbnail pixel at most.
    others = [_shrink(plane, width) if plane.shape[1] >= width else plane for plane in planes[1:3]]
    others = [
        p if p.shape == first.shape else cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in others
    ]
    return _to_rgb([first, *others], coding), native.width / width


def luma_region(native: av.VideoFrame, left: int, top: int, right: int, bottom: int) -> NDArray[np.float32]:
    """Luma of a half-open region of the frame, float32 (bottom - top, right - left), 8-bit full range."""
    coding = coding_of(native)
    planes = [plane[top:bottom, left:right].astype(np.float32) for plane in planes_of(native)]
    if coding.kind == "rgb":
        green, blue, red = (plane * np.float32(coding.luma_scale) for plane in planes[:3])
        return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue, np.float32)
    return np.asarray((planes[0] - coding.luma_offset) * np.float32(coding.luma_scale), np.float32)


def luma_window(native: av.VideoFrame, matrix: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Luma of `native` under `matrix` (2, 3), frame to window: uint8 (size, size), full range."""
    coding = coding_of(native)
    planes = planes_of(native)[: 3 if coding.kind == "rgb" else 1]
    levels = [_levels(_read_plane(plane, coding.to_plane(matrix), size), coding) for plane in planes]
    if coding.kind == "rgb":
        green, blue, red = levels
        return np.asarray(cv2.cvtColor(cv2.merge([red, green, blue]), cv2.COLOR_RGB2GRAY), np.uint8)
    return levels[0]


def read_crop(native: av.VideoFrame, matrix: NDArray[np.float32], size: int) -> Tensor:
    """The crop of `native` under `matrix` (2, 3), frame to crop: uint8 (3, size, size) RGB full range.

    Only the planes around the crop are read; shrinking is anti-aliased, beyond the frame it is mirrored
    (far beyond: the border goes on).
    """
    coding = coding_of(native)
    planes = []
    for index, plane in enumerate(planes_of(native)[:3]):
        chroma = coding.kind == "yuv" and index > 0
        # Chroma is soft by its making: linear shows no difference there, in a quarter of the time.
        interpolation = cv2.INTER_LINEAR if chroma else cv2.INTER_CUBIC
        planes.append(_read_plane(plane, coding.to_plane(matrix, chroma=chroma), size, interpolation))
    return torch.from_numpy(np.ascontiguousarray(_to_rgb(planes, coding).transpose(2, 0, 1)))


def read_crops(native: av.VideoFrame, matrices: Sequence[NDArray[np.float32]], size: int) -> list[Tensor]:
    """`read_crop` under each of `matrices`."""
    return [read_crop(native, matrix, size) for matrix in matrices]


def add_patches(native: av.VideoFrame, patches: Sequence[Patch]) -> av.VideoFrame:
    """A new frame: `native` plus the differences of `patches`, with all its properties and side data.

    Differences are converted linearly to the stream's matrix, range and depth. Samples where a patch's mask
    vanishes keep their bits, and a difference of zero changes nothing; results stay in the legal code range
    except where the source itself left it.
    """
    coding = coding_of(native)
    fresh = copy_frame(native)
    planes = planes_of(fresh)
    for patch in patches:
        if patch.grain is None and not patch.delta.any():
            continue
        deltas = list(cv2.split(cv2.transform(np.asarray(patch.delta, np.float32), coding.from_rgb)))
        luma = 1 if coding.kind == "yuv" else len(planes)
        away = None if patch.coarse is None else patch.coarse[..., 3]
        if patch.coarse is not None:
            codes = _coarse_codes(patch.coarse, coding)
            deltas[:luma] = [delta + code for delta, code in zip(deltas[:luma], codes[:luma], strict=True)]
        place = coding.to_plane(patch.matrix)
        _add(planes[:luma], deltas[:luma], patch, place, coding.luma_range, away, 1 / coding.luma_scale)
        if coding.kind == "yuv":
            chroma = coding.to_plane(patch.matrix, chroma=True)
            _add(planes[1:3], deltas[1:], patch, chroma, coding.chroma_range, None, None)
    return fresh


def _coarse_codes(coarse: NDArray[np.float32], coding: Coding) -> Sequence[Plane]:
    """A `Patch.coarse` as codes of luma, or of G, B and R, (S, S) each."""
    # Weighted like the crop itself, so that an offset of codes counts as far as the crop does.
    rows = np.hstack([coding.from_rgb, np.full((len(coding.from_rgb), 1), coding.luma_offset, np.float32)])
    return cv2.split(cv2.transform(coarse, rows))


def new_frame(like: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """An empty frame of another size with the pixel format, time and colour tags of `like`."""
    fresh = av.VideoFrame(width, height, like.format.name)
    fresh.pts = like.pts
    if like.time_base:
        fresh.time_base = like.time_base
    fresh.opaque = Siting(like.opaque if isinstance(like.opaque, Siting) else "left")
    fresh.duration = like.duration
    fresh.color_range, fresh.colorspace = like.color_range, like.colorspace
    fresh.color_primaries, fresh.color_trc = like.color_primaries, like.color_trc
    return fresh


def copy_frame(native: av.VideoFrame) -> av.VideoFrame:
    """A frame with its own planes and all properties and side data of `native`; its picture type is open."""
    # An empty filter graph is the one way that hands on every property, also those without a Python name.
    fresh = through_filters(native)
    fresh.make_writable()
    fresh.pict_type = 0
    return fresh


def through_filters(native: av.VideoFrame, *filters: tuple[str, str]) -> av.VideoFrame:
    """`native` after FFmpeg's `filters`, each (name, arguments); without any it shares the planes."""
    graph = Graph()
    last = graph.add_buffer(
        width=native.width,
        height=native.height,
        format=native.format,
        time_base=native.time_base or Fraction(1, 90000),
    )
    for name, arguments in (*filters, ("buffersink", "")):
        link = graph.add(name, arguments or None)
        last.link_to(link)
        last = link
    graph.configure()
    graph.push(native)
    result = graph.pull()
    assert isinstance(result, av.VideoFrame)
    return result


def _shrink(plane: Plane, width: int) -> Plane:
    height = max(1, round(plane.shape[0] * width / plane.shape[1]))
    small = plane
    # Means over pairs are quick, those over a broken ratio are not; below 2 linear covers all samples too.
    while small.shape[1] >= 2 * width and small.shape[1] % 2 == 0 and small.shape[0] % 2 == 0:
        small = cv2.resize(small, (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if small.shape == (height, width):
        return small
    near = small.shape[1] < 2 * width
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR if near else cv2.INTER_AREA)


def _levels(plane: Plane, coding: Coding) -> NDArray[np.uint8]:
    """Luma (or R, G, B) codes as 8-bit full-range values."""
    if coding.depth == 8 and coding.luma_scale == 1:
        return np.asarray(plane, np.uint8)
    scale = coding.luma_scale
    lifted = np.maximum(plane, np.asarray(coding.luma_offset, plane.dtype)) if coding.luma_offset else plane
    return np.asarray(cv2.convertScaleAbs(lifted, alpha=scale, beta=-coding.luma_offset * scale), np.uint8)


def _to_rgb(planes: Sequence[Plane], coding: Coding) -> NDArray[np.uint8]:
    """Planes of equal size to uint8 (h, w, 3) RGB full range."""
    if coding.kind == "gray":
        return np.asarray(cv2.merge([_levels(planes[0], coding)] * 3), np.uint8)
    codes = cv2.merge(list(planes))
    if coding.depth > 8:
        # Saturated at 0 by the unsigned type, at 255 below.
        return np.asarray(np.minimum(cv2.transform(codes, coding.to_rgb), 255), np.uint8)
    return np.asarray(cv2.transform(codes, coding.to_rgb), np.uint8)


def _read_plane(
    plane: Plane, matrix: NDArray[np.float64], size: int, interpolation: int = cv2.INTER_CUBIC
) -> Plane:
    """`plane` warped by `matrix` (2, 3), samples to crop, onto (size, size)."""
    place = reading(plane.shape, matrix, size)
    region = plane[place.top : place.bottom, place.left : place.right]
    if place.factor > 1:
        region = _reduce(region, place.factor, cv2.BORDER_REPLICATE)
    region = _soften(region, place.ratio)
    border = cv2.BORDER_REFLECT_101 if place.mirrored else cv2.BORDER_REPLICATE
    return cv2.warpAffine(region, place.warp, (size, size), flags=interpolation, borderMode=border)


def _add(
    planes: Sequence[Plane],
    deltas: Sequence[Plane],
    patch: Patch,
    matrix: NDArray[np.float64],
    legal: tuple[float, float],
    away: Plane | None,
    grain_scale: float | None,
) -> None:
    """Adds `deltas` (S, S), warped back by `matrix` (samples to crop), to `planes` one by one, in place of the share
    `away` (S, S) of what is there."""
    place = writing(planes[0].shape, matrix, patch.mask.shape[0])
    if place is None:
        return

    def onto_plane(image: Plane, *, support: bool = False) -> NDArray[np.float32]:
        if place.factor > 1:
            image = _reduce(image, place.factor, cv2.BORDER_CONSTANT)
        # Cubic keeps detail: linear takes a twentieth of the change of a face of the crop's own size. But only what is
        # linear and not softened keeps the mask's support.
        image = image if support else _soften(image, place.ratio)
        shape = (place.right - place.left, place.bottom - place.top)
        how = cv2.INTER_LINEAR if support else cv2.INTER_CUBIC
        warped = cv2.warpAffine(image, place.warp, shape, flags=how, borderMode=cv2.BORDER_CONSTANT)
        return np.asarray(warped, np.float32)

    inside = onto_plane(patch.mask, support=True) > 0
    share = None if away is None else onto_plane(away)
    for plane, delta in zip(planes, deltas, strict=True):
        change = onto_plane(delta)
        if grain_scale is not None and patch.grain is not None:
            _add_grain(change, patch, (place.left, place.top), np.float32(grain_scale))
        region = plane[place.top : place.bottom, place.left : place.right]
        before = region.astype(np.float32)
        if share is not None:
            change -= share * before
        after = np.rint(before + change)
        # A sample that is outside the legal range already may stay where it is.
        low, high = legal
        if before.min() < low or before.max() > high:
            np.clip(after, np.minimum(before, low), np.maximum(before, high), out=after)
        else:
            np.clip(after, low, high, out=after)
        np.copyto(region, after, where=inside, casting="unsafe")


def _add_grain(change: NDArray[np.float32], patch: Patch, corner: tuple[int, int], scale: np.float32) -> None:
    assert patch.grain is not None
    x, y = patch.grain_origin[0] - corner[0], patch.grain_origin[1] - corner[1]
    height, width = patch.grain.shape
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + height, change.shape[0]), min(x + width, change.shape[1])
    if bottom > top and right > left:
        part = patch.grain[top - y : bottom - y, left - x : right - x]
        change[top:bottom, left:right] += scale * part


def _reduce(image: Plane, factor: int, border: int) -> Plane:
    """`image` with each `factor` x `factor` block replaced by its mean; `border` fills up to whole blocks."""
    height, width = image.shape[:2]
    more_y, more_x = -height % factor, -width % factor
    if more_y or more_x:
        image = cv2.copyMakeBorder(image, 0, more_y, 0, more_x, border)
    size = ((width + more_x) // factor, (height + more_y) // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _soften(image: Plane, ratio: float) -> Plane:
    """`image` without the detail that would alias when it is shrunk `ratio` times (1 to 2)."""
    if ratio < SOFT_FROM:
        return image
    return cv2.GaussianBlur(image, (0, 0), softness(ratio), borderType=cv2.BORDER_REPLICATE)


def chroma_spread(native: av.VideoFrame) -> float:
    """How colourful `native` is: 95th percentile of the chroma's distance from what luma alone explains (a straight
    line), 8-bit code values.

    0 for grey pictures; low for black-and-white film that is toned (sepia) or was captured with a tint.
    """
    coding = coding_of(native)
    if coding.kind == "gray":
        return 0.0
    planes = planes_of(native)
    step = max(1, native.width // (coding.step_x * 80))
    steps = [(step * coding.step_y, step * coding.step_x), (step, step), (step, step)]
    luma, *others = [
        plane[::down, ::across].astype(np.float32)
        for plane, (down, across) in zip(planes, steps, strict=False)
    ]
    if coding.kind == "rgb":
        # Planes G, B, R: green stands for luma.
        first, second, scale = others[0] - luma, others[1] - luma, coding.luma_scale / 2
    else:
        first, second, scale = *others, coding.chroma_scale
    luma = luma[: first.shape[0], : first.shape[1]]
    distance = np.hypot(_unexplained(first, luma), _unexplained(second, luma))
    return scale * float(np.percentile(distance, 95))


def _unexplained(chroma: NDArray[np.float32], luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of `chroma` (h, w) when its middle and its straight line over `luma` (h, w) are taken away."""
    centred = luma - luma.mean()
    slope = float((chroma * centred).mean()) / max(float((centred**2).mean()), 1.0)
    left = chroma - np.float32(slope) * centred
    return np.asarray(left - np.median(left), np.float32)
