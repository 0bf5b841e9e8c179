"""`python -m pipeline.serve.child ARGUMENTS`: the ordinary command, which ends when its standard input does.

So it is cancelled in the same way on every system, and does not outlive the server, however that ends.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.cli import main
from pipeline.errors import INTERRUPTED, SourceError
from pipeline.media.photos import PhotoSource
from pipeline.media.source import FileSource

_FILMS = {
    "mov": (".mp4", ".m4v", ".mov"),
    "matroska": (".mkv", ".webm"),
    "mpegts": (".ts", ".m2ts"),
    "mpeg": (".mpg", ".mpeg", ".vob"),
}
"""Extensions of results by the first of FFmpeg's names of the input's format; others become the second one's."""
_PHOTOS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "TIFF": ".tif", "BMP": ".bmp"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file."""

    is_photo: bool
    extension: str
    """Of the result."""
    width: int
    height: int
    seconds: float | None = None
    frames: int | None = None


def look(path: Path, named: str) -> Facts:
    """What the file at `path` is; `named`, the extension that its owner gave it, decides where several fit.

    Raises SourceError with one sentence where it is neither a video nor a photo that can be read.
    """
    photo = _photo(path)
    if photo is not None:
        return photo
    info = FileSource(path).info
    fitting = _FILMS.get(info.container.partition(",")[0], _FILMS["matroska"][:1])
    extension = named if named in fitting else fitting[0]
    return Facts(False, extension, info.width, info.height, info.duration_seconds, info.frame_count)


def _photo(path: Path) -> Facts | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=tuple(_PHOTOS)) as picture:
            kind = picture.format or ""
            size = picture.size
    except UnidentifiedImageError:
        return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"{path}: this picture cannot be read ({str(error).rstrip('.')})") from error
    # Decodes it, with all of the pipeline's own checks.
    next(iter(PhotoSource(path)))
    return Facts(True, _PHOTOS[kind], *size)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(look(Path(sys.argv[1]), sys.argv[2]))))
    except SourceError as error:
        print(json.dumps({"error": str(error)}))


_GRACE_SECONDS = 8.0


def _end_with_input() -> None:
    # Not `sys.stdin`, whose lock would break the interpreter's own end.
    while os.read(0, 1 << 12):
        pass
    # As Ctrl-C does, so that nothing unfinished is left.
    _thread.interrupt_main(signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)  # a call that goes on beside must not stall
    sys.exit(main())
