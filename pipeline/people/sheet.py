"""The contact sheet: everybody of a gallery on pictures that can be looked through at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_SIDE = 144
"""Of a picture, in pixels."""
_GAP = 8
_CAPTION = 18
"""Height of a line of text."""
_ROWS = 60
"""People on one sheet: JPEG ends at 65,535 pixels, and a viewer's patience before."""
_GROUND, _INK, _PALE = (24, 24, 26), (240, 240, 240), (165, 165, 170)


@dataclass(frozen=True, slots=True)
class Row:
    """One person."""

    title: str
    facts: str
    pictures: Sequence[tuple[str, bytes]]
    """Caption and file of each picture."""


def contact_sheets(rows: Sequence[Row]) -> Iterator[bytes]:
    """JPEG files, one for each `_ROWS` people."""
    columns = max((len(row.pictures) for row in rows), default=1)
    for start in range(0, len(rows), _ROWS):
        yield _sheet(rows[start : start + _ROWS], columns)


def _sheet(rows: Sequence[Row], columns: int) -> bytes:
    height = 2 * _CAPTION + _SIDE + _CAPTION + 2 * _GAP
    width = max(columns * (_SIDE + _GAP) + _GAP, 480)
    sheet = Image.new("RGB", (width, len(rows) * height + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(15), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        top = number * height + _GAP
        draw.text((_GAP, top), row.title, _INK, title)
        draw.text((_GAP, top + _CAPTION), _fitting(row.facts, small, width - 2 * _GAP), _PALE, small)
        for place, (caption, content) in enumerate(row.pictures):
            left = _GAP + place * (_SIDE + _GAP)
            picture = (
                Image.open(io.BytesIO(content)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
            )
            sheet.paste(picture, (left, top + 2 * _CAPTION))
            below = (left, top + 2 * _CAPTION + _SIDE + 2)
            draw.text(below, _fitting(caption, small, _SIDE), _PALE, small)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut to at most `width` pixels."""
    # The font has not every letter of every alphabet, and a name need not even be text.
    text = text.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}..") > width:
        text = text[:-1]
    return f"{text}.."
