"""Work of the server that runs in processes of its own.

- `python -m pipeline.serve.child restore ARGUMENTS` runs the ordinary command and ends when its standard input does:
  it can be cancelled in the same way on every system, and does not outlive the server.
- `python -m pipeline.serve.child inspect FILE EXTENSION` prints `Facts` about an uploaded file as JSON: a file that
  harms the libraries that open it harms only this process.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import INTERRUPTED, SourceError
from pipeline.media.photos import PhotoSource
from pipeline.media.source import FileSource

_ROOT = Path(__file__).parents[2]
_GRACE_SECONDS = 8.0
_FILMS = {
    "mov": (".mp4", ".m4v", ".mov"),
    "matroska": (".mkv", ".webm"),
    "mpegts": (".ts", ".m2ts"),
    "mpeg": (".mpg", ".mpeg", ".vob"),
}
"""Extensions of results by the first of FFmpeg's names of the input's format; other formats become `.mkv`."""
_PHOTOS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "TIFF": ".tif", "BMP": ".bmp"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about an uploaded file."""

    is_photo: bool
    extension: str
    """Of the result."""
    width: int
    height: int
    seconds: float | None = None
    frames: int | None = None


def child_command(*arguments: str) -> tuple[str, ...]:
    """Command line of a child process."""
    return (sys.executable, "-P", "-m", "pipeline.serve.child", *arguments)


def child_environment() -> dict[str, str]:
    """Environment in which a child runs the code of this process, wherever it is installed."""
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *([others] if others else [])])}


def inspect(path: Path, extension: str) -> Facts:
    """Facts about the file at `path`; `extension`, from the upload's name, is kept if it suits the container.

    Raises SourceError for anything but a readable video or photo.
    """
    photo = _photo(path)
    if photo is not None:
        return photo
    info = FileSource(path).info
    suitable = _FILMS.get(info.container.partition(",")[0], _FILMS["matroska"][:1])
    extension = extension if extension in suitable else suitable[0]
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
    # Decodes it, with all checks of the pipeline.
    next(iter(PhotoSource(path)))
    return Facts(True, _PHOTOS[kind], *size)


def _end_with_input() -> None:
    # Not `sys.stdin`: its lock would block the interpreter's shutdown.
    while os.read(0, 1 << 12):
        pass
    # As Ctrl-C does, so that no unfinished file is left.
    _thread.interrupt_main(signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    os._exit(INTERRUPTED)


def _restore(arguments: Sequence[str]) -> int:
    from pipeline.cli import main  # not needed to inspect a file

    threading.Thread(target=_end_with_input, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)  # a call in progress has priority
    return main(arguments)


def _main(word: str, *arguments: str) -> int:
    if word == "restore":
        return _restore(arguments)
    try:
        print(json.dumps(asdict(inspect(Path(arguments[0]), arguments[1]))))
    except SourceError as error:
        print(json.dumps({"error": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
