"""Frames of any layout as planar ones with the same samples."""

from __future__ import annotations

import av

from pipeline.media.coding import planes_of
from pipeline.pixels.colour import through_filters

_FULL_RANGE, _UNSPECIFIED = 2, 2


def repack(native: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """`native` in another pixel format, with its tags; no sample changes where both hold the same samples."""
    tags = native.color_range, native.colorspace, native.color_primaries, native.color_trc
    try:
        if not native.format.is_rgb:
            # Untagged, else the converter would squeeze full range into limited, or stretch it for the formats that
            # are full by their name, and turn the colours of one standard into those of another.
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
    """Whether nothing of `native` is transparent."""
    components = native.format.components
    if not any(component.is_alpha for component in components) and not native.format.has_palette:
        return True
    depth = max(component.bits for component in components)
    alpha = through_filters(native, ("alphaextract", ""))
    top = (1 << min(depth, alpha.format.components[0].bits)) - 1
    return bool((planes_of(alpha)[0] >= top).all())
