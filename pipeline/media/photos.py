"""A photo or a folder of photos in place of a video: one frame per photo; results keep names and formats."""

from __future__ import annotations

import os
import struct
import warnings as python_warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from pipeline.errors import SinkError, SourceError, reason
from pipeline.frames import Frame
from pipeline.media.coding import planes_of
from pipeline.media.files import PartialFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP")
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "TIFF": {"compression": "tiff_lzw"},
}
_SOFTWARE = 0x0131
"""EXIF tag `Software`."""
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>{}</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
)
_FULL_RANGE = 2
_HEAD = 1 << 12
"""Bytes at the start of a file that contain its bit depth."""
_PNG_DEPTH = 24
"""Offset of the bits per sample in a PNG's header, always its first chunk."""


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """Facts about photos before they are read."""

    path: Path
    frame_count: int
    """Number of photos."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class PhotoSource:
    """The photo at `path`, or the photos in the folder `path` by name, each as one frame in planar RGB.

    Rotated upright by EXIF, without alpha. An unreadable photo of a folder is skipped and reported in `damage`; with
    `strict` it raises SourceError. So does a single photo, and a folder without a readable one.
    """

    live = False

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self.path = path
        self.strict = strict
        if not os.path.exists(path):
            raise SourceError(f"{path}: no such file or folder")
        self.files = sorted(p for p in path.iterdir() if self.reads(p)) if path.is_dir() else [path]
        if not self.files:
            raise SourceError(f"{path}: no photos in this folder (looked for {', '.join(SUFFIXES)})")
        self.info = PhotoInfo(path, len(self.files))
        self.damage: list[str] = []
        self.warnings: list[str] = []

    @staticmethod
    def reads(path: Path) -> bool:
        """Whether `path` looks like a photo, by its extension."""
        return path.suffix.lower() in SUFFIXES

    def __iter__(self) -> Iterator[Frame]:
        """Frames; the pts is the index of the photo in `files`."""
        self.damage = []
        self.warnings = []
        index = 0
        for pts, file in enumerate(self.files):
            try:
                photo = _read(file)
            except SourceError as error:
                if self.strict or not self.path.is_dir():
                    raise
                self.damage.append(str(error))
                continue
            if photo.pictures > 1:
                self.warnings.append(f"{file}: has {photo.pictures} pictures, only the first one is restored")
            native = _frame(photo.upright)
            native.pts, native.time_base = pts, Fraction(1)
            yield Frame(index, pts, Fraction(1), native)
            index += 1
        if not index:
            raise SourceError(
                f"{self.path}: none of its {len(self.files)} photos can be read: {self.damage[0]}"
            )


class PhotoSink:
    """Writes restored photos: one to the file `path`, those of a folder under the same names into the folder `path`.

    A context manager like FileSink; each photo appears when it is complete. Alpha, colour profile, resolution and EXIF
    are copied from the original. `note` goes into EXIF's software, `source_type`, a term of IPTC, into XMP. Raises
    SinkError.
    """

    def __init__(
        self,
        path: Path,
        source: PhotoSource,
        *,
        overwrite: bool = False,
        note: str = "",
        source_type: str = "",
    ) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._notes = note, source_type
        self._source = source
        self._overwrite = overwrite
        self._folder = source.path.is_dir()
        self._made = False
        if self._folder:
            if os.path.exists(path) and not path.is_dir():
                raise SinkError(f"{path}: is a file, but the input is a folder; give a folder")
            if os.path.exists(path) and path.samefile(source.path):
                raise SinkError(f"{path}: is the input folder itself; give another one")
            if os.path.isdir(path):
                for file in source.files:
                    PartialFile(path / file.name, source=file, overwrite=overwrite)
        else:
            if not PhotoSource.reads(path):
                raise SinkError(
                    f"{path}: a photo is written as one of {', '.join(SUFFIXES)}; give such a name"
                )
            PartialFile(path, source=source.path, overwrite=overwrite)

    def __enter__(self) -> Self:
        if self._folder:
            try:
                self._made = not os.path.exists(self.path)
                self.path.mkdir(exist_ok=True)
            except OSError as error:
                raise SinkError(f"{self.path}: the folder cannot be made ({reason(error)})") from error
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Writes the photo of index `pts`."""
        file = self._source.files[pts]
        target = self.path / file.name if self._folder else self.path
        try:
            with PartialFile(target, source=file, overwrite=self._overwrite).written() as path:
                kind = Image.registered_extensions()[target.suffix.lower()]
                picture, kept = _with_notes(native, _read(file).upright, kind, *self._notes)
                picture.save(path, format=kind, **kept, **_SAVE_OPTIONS.get(kind, {}))
        except SinkError:
            raise
        except (OSError, ValueError) as error:
            raise SinkError(
                f"{target}: cannot be written ({str(error).lower()}); free space or change the name"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Removes a folder that was created and stayed empty after an error."""
        if self._made and error is not None:
            with suppress(OSError):
                self.path.rmdir()


@dataclass(frozen=True, slots=True)
class _Photo:
    upright: Image.Image
    pictures: int
    """Pictures in the file (pages or animation); `upright` is the first."""


def _read(file: Path) -> _Photo:
    try:
        with python_warnings.catch_warnings():
            # Pillow warns above one size and raises above twice that; both are refused here.
            python_warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                # The further pictures of a camera's MPO are previews and gain maps.
                pictures = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
                deep = _is_deep(file, picture)
                picture.load()
                upright = ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(
            f"{file}: more than {Image.MAX_IMAGE_PIXELS} pixels; shrink the photo first"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise SourceError(f"{file}: no photo that can be read ({str(error).lower()})") from error
    if deep:
        raise SourceError(f"{file}: photos of more than 8 bits are not supported; convert it to 8 bits first")
    return _Photo(upright, pictures)


def _is_deep(file: Path, picture: Image.Image) -> bool:
    """Whether the file has more than 8 bits per sample; Pillow silently takes the upper 8 of colours."""
    if picture.mode.startswith(("I", "F")):
        return True
    if isinstance(picture, TiffImageFile):
        return any(bits > 8 for bits in picture.tag_v2.get(BITSPERSAMPLE, ()))
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    if picture.format == "PNG":
        return head[_PNG_DEPTH] > 8
    if picture.format == "AVIF":
        # Third byte of the AV1 configuration box: the bit high_bitdepth.
        configuration = head.partition(b"av1C")[2]
        return len(configuration) > 2 and bool(configuration[2] & 0x40)
    return False


def _frame(picture: Image.Image) -> av.VideoFrame:
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    pixels = np.asarray(picture.convert(mode))
    native = av.VideoFrame(picture.width, picture.height, "gbrp")
    for plane, channel in zip(planes_of(native), (1, 2, 0), strict=True):
        plane[:] = pixels[..., channel]
    native.color_range = _FULL_RANGE
    return native


def _with_notes(
    native: av.VideoFrame, original: Image.Image, kind: str, note: str, source_type: str
) -> tuple[Image.Image, dict[str, Any]]:
    """The picture of `native` with the alpha of `original`, and the metadata to save with it."""
    green, blue, red = planes_of(native)
    picture = Image.fromarray(np.dstack([red, green, blue]).astype(np.uint8))
    if original.has_transparency_data:
        picture.putalpha(original.convert("RGBA").getchannel("A"))
        if kind in ("JPEG", "BMP"):
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture).convert("RGB")
    # A profile for grey or CMYK does not fit the RGB output.
    names = ("icc_profile", "dpi") if original.mode in ("RGB", "RGBA", "P") else ("dpi",)
    kept = {name: original.info[name] for name in names if original.info.get(name)}
    exif = original.getexif()
    if note:
        exif[_SOFTWARE] = note
    if len(exif) and kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        kept["exif"] = exif.tobytes()
    if source_type and kind in ("JPEG", "WEBP", "AVIF"):
        kept["xmp"] = _XMP.format(source_type).encode()
    if source_type and kind == "PNG":
        kept["pnginfo"] = PngInfo()
        kept["pnginfo"].add_itxt("XML:com.adobe.xmp", _XMP.format(source_type))
    return picture, kept
