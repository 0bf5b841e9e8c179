"""`--references-log FILE`: the views that each face was restored with.

One line of JSON per run of frames in which a track was restored with the same views: `frames` and `seconds` (first and
last, inclusive), `track`, `person` (id), `name`, `restorer`, and `views`, each with its origin `from` and its `weight`
in the identity anchor: its share of the embeddings' norms.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import ConfigError
from pipeline.errors import SinkError, reason
from pipeline.frames import RestoredFrame, TrackedFace
from pipeline.media.files import PartialFile


@dataclass(slots=True)
class _Stretch:
    face: TrackedFace
    frames: list[int]
    seconds: list[float]

    def goes_on(self, face: TrackedFace, frame: int) -> bool:
        same = self.face.references is face.references and self.face.person_id == face.person_id
        return same and self.frames[1] == frame - 1


class ReferencesLog:
    """Writes line by line, so memory is bounded; the file gets its name at the end of the run.

    A context manager. Raises ConfigError for the output's own name, SinkError where the file cannot be written.
    """

    def __init__(self, path: Path, *, input: Path, output: Path, overwrite: bool) -> None:
        if os.path.abspath(path) == os.path.abspath(output):
            raise ConfigError(f"--references-log: {path} is the output itself; give another name")
        self._file = PartialFile(path, source=input, overwrite=overwrite)
        self._open: dict[int, _Stretch] = {}

    def __enter__(self) -> ReferencesLog:
        self._file.create()
        self._stream = self._file.path.open("w", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for track in list(self._open):
                    self._close(track)
            self._stream.close()
            if kind is None:
                self._file.commit()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._file.discard()

    def note(self, frame: RestoredFrame) -> None:
        """Adds the restored faces of the next frame."""
        index = frame.tracked.frame.index
        seconds = float(frame.tracked.frame.pts * frame.tracked.frame.time_base)
        faces = {face.tracked.track_id: face.tracked for face in frame.faces}
        try:
            for track, stretch in list(self._open.items()):
                if track not in faces or not stretch.goes_on(faces[track], index):
                    self._close(track)
        except OSError as error:
            raise self._failed(error) from error
        for track, face in faces.items():
            stretch = self._open.setdefault(track, _Stretch(face, [index, index], [seconds, seconds]))
            stretch.frames[1], stretch.seconds[1] = index, seconds

    def _close(self, track: int) -> None:
        stretch = self._open.pop(track)
        self._stream.write(json.dumps(self._row(stretch), ensure_ascii=False) + "\n")

    def _row(self, stretch: _Stretch) -> dict[str, Any]:
        face = stretch.face
        views = face.references
        lengths = views.embeddings.norm(dim=1).tolist() if len(views) else []
        return {
            "frames": stretch.frames,
            "seconds": [round(seconds, 3) for seconds in stretch.seconds],
            "track": face.track_id,
            "person": face.person_id,
            "name": face.name,
            "restorer": face.restorer,
            "views": [
                {"from": source, "weight": round(length / max(sum(lengths), 1e-6), 4)}
                for source, length in zip(views.sources, lengths, strict=True)
            ],
        }

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"{self._file.target}: cannot be written ({reason(error)})")
