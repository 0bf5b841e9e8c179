"""What a chunk leaves to the next one of the same shot, as bytes: the last restored keyframe of each track, and how
the track stands with the identity gate."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.protocols import Face, References
from models.recogniser import Likeness
from pipeline.frames import TrackedFace
from pipeline.stages.gate import Standing
from pipeline.stages.motion import Look, Motion
from pipeline.stages.reuse import Earlier, Keyframe, Planned

_NONE = -1


def to_bytes(last: Mapping[int, Planned], standings: Mapping[int, Standing]) -> bytes:
    """The last frame's faces and standings (of `Reuse.last`, `Gate.last`), as an .npz file without pickled parts."""
    kept = {track: face for track, face in last.items() if face.key is not None}
    values: dict[str, NDArray[Any]] = {"tracks": np.array(list(kept), np.int64)}
    values["standings"] = np.array(json.dumps([[track, asdict(each)] for track, each in standings.items()]))
    for track, face in kept.items():
        assert face.key is not None
        tracked = face.tracked
        person = _NONE if tracked.person_id is None else tracked.person_id
        distance = 0 if face.asks or face.earlier is None else face.earlier.distance
        values |= _keyframe_values(f"{track}", face.key) | {
            f"{track}.matrix": tracked.matrix,
            f"{track}.landmarks": tracked.face.landmarks,
            f"{track}.numbers": np.array(
                [person, tracked.references.version, tracked.crop.shape[-1], distance, face.number], np.int64
            ),
        }
        if face.base is not None:
            values |= _keyframe_values(f"{track}.base", face.base)
    content = io.BytesIO()
    np.savez(content, **values)  # type: ignore[arg-type]
    return content.getvalue()


def from_bytes(content: bytes) -> tuple[dict[int, Planned], dict[int, Standing]]:
    """For `Reuse.go_on_from` and `Gate.go_on_from`: of the last faces only what later ones are compared with."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        values = dict(file)
    last = {int(track): _planned(int(track), values) for track in values["tracks"]}
    standings = {
        track: Standing(**{**each, "likeness": Likeness(**each["likeness"])})
        for track, each in json.loads(str(values["standings"]))
    }
    return last, standings


def _keyframe_values(name: str, key: Keyframe) -> dict[str, NDArray[Any]]:
    assert key.image is not None
    values: dict[str, NDArray[Any]] = {
        f"{name}.colour": key.look.colour,
        f"{name}.luma": key.look.luma,
        f"{name}.image": key.image,
    }
    if key.kept is not None:
        values[f"{name}.kept"] = key.kept.numpy()
    return values


def _keyframe(name: str, values: Mapping[str, NDArray[Any]]) -> Keyframe:
    kept = values.get(f"{name}.kept")
    return Keyframe(
        Look(values[f"{name}.colour"], values[f"{name}.luma"]),
        values[f"{name}.image"],
        None if kept is None else torch.from_numpy(kept),
    )


def _planned(track: int, values: Mapping[str, NDArray[Any]]) -> Planned:
    person, version, side, distance, number = (int(number) for number in values[f"{track}.numbers"])
    key = _keyframe(f"{track}", values)
    key.version = version
    base = _keyframe(f"{track}.base", values) if f"{track}.base.image" in values else None
    tracked = TrackedFace(
        track_id=track,
        person_id=None if person == _NONE else person,
        face=Face(np.zeros(4, np.float32), values[f"{track}.landmarks"], 0.0),
        crop=torch.zeros(3, side, side, dtype=torch.uint8),
        matrix=values[f"{track}.matrix"],
        references=References(version=version),
        strength=1.0,
        reason="",
    )
    if not distance:
        return Planned(tracked, "network", key, number=number, base=base)
    unknown = Motion(None, np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.float32))
    return Planned(tracked, "carried", key, Earlier(key, unknown, distance), number, base)
