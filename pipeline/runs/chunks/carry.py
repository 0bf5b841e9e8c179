"""What a chunk leaves to the next one of the same shot, as bytes: the last restored keyframe of each track, how the
track stands with the identity gate, and its last crops."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.protocols import Face, References
from models.recogniser import Likeness
from pipeline.flow import ChainState
from pipeline.frames import TrackedFace
from pipeline.stages.gate import Standing
from pipeline.stages.motion import Look, Motion
from pipeline.stages.reuse import Earlier, Keyframe, Planned

_NONE = -1


def to_bytes(state: ChainState) -> bytes:
    """`state` as an .npz file without pickled parts."""
    kept = {track: face for track, face in state.faces.items() if face.key is not None}
    values: dict[str, NDArray[Any]] = {"tracks": np.array(list(kept), np.int64)}
    standings = [[track, asdict(each)] for track, each in state.standings.items()]
    values["standings"] = np.array(json.dumps(standings))
    values["cropped"] = np.array(list(state.crops), np.int64)
    for track, tracked in state.crops.items():
        values |= {
            f"{track}.crops": torch.stack([tracked.crop, *tracked.recent]).numpy(),
            f"{track}.crops.matrix": tracked.matrix,
            f"{track}.crops.landmarks": tracked.face.landmarks,
            f"{track}.crops.person": np.array(_number(tracked.person_id), np.int64),
        }
    for track, face in kept.items():
        assert face.key is not None
        tracked, person = face.tracked, _number(face.tracked.person_id)
        distance = 0 if face.asks or face.earlier is None else face.earlier.distance
        values |= _keyframe_values(f"{track}", face.key) | {
            f"{track}.matrix": tracked.matrix,
            f"{track}.landmarks": tracked.face.landmarks,
            f"{track}.numbers": np.array(
                [person, tracked.references.version, tracked.crop.shape[-1], distance, face.number],
                np.int64,
            ),
        }
        if face.base is not None:
            values |= _keyframe_values(f"{track}.base", face.base)
    content = io.BytesIO()
    np.savez(content, **values)  # type: ignore[arg-type]
    return content.getvalue()


def from_bytes(content: bytes) -> ChainState:
    """The state that `to_bytes` was given; of the last faces only what later ones are compared with."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        values = dict(file)
    last = {int(track): _planned(int(track), values) for track in values["tracks"]}
    standings = {
        track: Standing(**{**each, "likeness": Likeness(**each["likeness"])})
        for track, each in json.loads(str(values["standings"]))
    }
    crops = {int(track): _cropped(int(track), values) for track in values["cropped"]}
    return ChainState(last, standings, crops)


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


def _number(person: int | None) -> int:
    return _NONE if person is None else person


def _cropped(track: int, values: Mapping[str, NDArray[Any]]) -> TrackedFace:
    crops = torch.from_numpy(values[f"{track}.crops"])
    person = int(values[f"{track}.crops.person"])
    tracked = _compared(
        track, person, values[f"{track}.crops.matrix"], values[f"{track}.crops.landmarks"], crops[0]
    )
    return replace(tracked, recent=tuple(crops[1:]))


def _compared(
    track: int, person: int, matrix: NDArray[np.float32], landmarks: NDArray[np.float32], crop: torch.Tensor
) -> TrackedFace:
    """A face of which only that is known that the next one of its track is compared with."""
    return TrackedFace(
        track_id=track,
        person_id=None if person == _NONE else person,
        face=Face(np.zeros(4, np.float32), landmarks, 0.0),
        crop=crop,
        matrix=matrix,
        references=References(),
        strength=1.0,
        reason="",
    )


def _planned(track: int, values: Mapping[str, NDArray[Any]]) -> Planned:
    person, version, side, distance, number = (int(number) for number in values[f"{track}.numbers"])
    key = _keyframe(f"{track}", values)
    key.version = version
    base = _keyframe(f"{track}.base", values) if f"{track}.base.image" in values else None
    crop = torch.zeros(3, side, side, dtype=torch.uint8)
    tracked = _compared(track, person, values[f"{track}.matrix"], values[f"{track}.landmarks"], crop)
    tracked = replace(tracked, references=References(version=version))
    if not distance:
        return Planned(tracked, "network", key, number=number, base=base)
    unknown = Motion(None, np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.float32))
    return Planned(tracked, "carried", key, Earlier(key, unknown, distance), number, base)
