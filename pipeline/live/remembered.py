"""Best views of a person, kept between calls in the file of `--remember`, and nowhere else."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.errors import SinkError, SourceError
from pipeline.stages.perception import Perception
from trackers.references import View

_KIND = "anchorface remembered person"


def recall(path: Path, perception: Perception) -> None:
    """Adds the views in the file `path`, if it exists, as a known person."""
    views = read_views(path, perception.recogniser.name, perception.crop_size)
    if views:
        perception.people.add_known_person(views)


def keep(path: Path, perception: Perception, seen: Counter[int]) -> str:
    """Writes the best views of the person `seen` in most frames to `path`; returns a message.

    Reference photos are left out: the user has them.
    """
    people = perception.people
    for person, _ in seen.most_common():
        now = people.current(person)
        views = [] if now is None else [view for view in people.references(now).views if not view.pinned]
        if views:
            write_views(path, views, perception.recogniser.name)
            return f"{len(views)} views saved in {path}"
    return f"no person was seen clearly enough to be saved in {path}"


def read_views(path: Path, recogniser: str, crop_size: int) -> list[View]:
    """The views that `write_views` wrote to `path`; empty if the file does not exist.

    Raises SourceError for another kind of file, recogniser or crop size.
    """
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as stream:
            kind = json.loads((stream.metadata() or {}).get("kind", "{}"))
            tensors = {name: stream.get_tensor(name) for name in ("crops", "embeddings", "facts")}
    except (OSError, SafetensorError, ValueError) as error:
        raise SourceError(f"{path}: not a file of --remember ({error}); give another name") from error
    if kind != {"kind": _KIND, "recogniser": recogniser, "crop_size": crop_size}:
        raise SourceError(f"{path}: holds views of another recogniser or crop size; give another name")
    return [
        View(crop, embedding.numpy(), float(quality), "remembered", float(yaw))
        for crop, embedding, (quality, yaw) in zip(
            tensors["crops"], tensors["embeddings"], tensors["facts"].tolist(), strict=True
        )
    ]


def write_views(path: Path, views: Sequence[View], recogniser: str) -> None:
    """Writes one or more `views` to a file readable by its owner alone. Raises SinkError."""
    tensors = {
        "crops": torch.stack([view.crop for view in views]),
        "embeddings": torch.from_numpy(np.stack([view.embedding for view in views]).astype(np.float32)),
        "facts": torch.tensor([[view.quality, view.yaw] for view in views], dtype=torch.float64),
    }
    kind = {"kind": _KIND, "recogniser": recogniser, "crop_size": int(views[0].crop.shape[-1])}
    part = path.with_name(path.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(save(tensors, {"kind": json.dumps(kind)}))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SinkError(f"{path}: cannot be written ({error.strerror})") from error
