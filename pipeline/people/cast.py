"""The cast of a run: people known beforehand, the user's choices, and one restorer made of several.

Legend: S side of a crop, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs import ConfigError
from models.pictures import recogniser_crop
from models.protocols import (
    Needs,
    Neighbour,
    Previous,
    Recogniser,
    References,
    Request,
    Restorer,
    Result,
)
from pipeline.build import build_restorer
from pipeline.config import InputConfig, PipelineConfig, RestorerConfig
from pipeline.errors import reason
from pipeline.media.source import FileSource
from pipeline.people.gallery import Known, Record, read_record, sha256
from pipeline.people.scan import Scanner, from_png
from pipeline.stages.portraits import Portraits
from pipeline.stages.views import resized
from trackers.gallery import EVERYBODY, LEFT_OUT, LIST, RECORD, Casting, Entry, Gallery, chosen, read_gallery
from trackers.people import Acquaintance
from trackers.references import View

Moved = TypeVar("Moved", Previous, Neighbour)


@dataclass(frozen=True, slots=True)
class Cast:
    """The people of a run's gallery and the user's choices."""

    gallery: Gallery | None = None
    casting: Casting = EVERYBODY


def read_cast(settings: InputConfig, film: str) -> Cast:
    """The cast of a run over the file `film`. Raises ConfigError for a mistake in the list or a wrong name."""
    if settings.people is None:
        return Cast()
    gallery = read_gallery(settings.people.expanduser())
    choices = {entry.name: entry.choice for entry in gallery.people}
    where = str(gallery.folder / LIST)
    casting = chosen(
        choices, only=settings.only, skip=settings.skip, strangers=gallery.strangers, where=where
    )
    for entry in gallery.people:
        if entry.name in settings.only and not (entry.pictures or entry.photos):
            raise ConfigError(
                f"--only {entry.name}: has neither views nor photos in {where}, so the face is unknown"
            )
    return Cast(gallery, replace(casting, film=film, start_seconds=settings.start_seconds))


def build_restorers(config: PipelineConfig, cast: Cast) -> tuple[Restorer | None, Casting]:
    """Builds the restorers; the choices returned skip people who have none. None = no face is restored.

    A restorer beside the run's own is built only if a restored person asks for it.
    """
    # Strength 0 changes nothing, so no network is built.
    if not config.blend.strength:
        return None, cast.casting
    choices = cast.casting.choices
    asked = cast.casting.restorers
    usual = build_restorer(config.restorer)
    if not asked:
        return usual, cast.casting
    others = {kind: _another(config.restorer, kind, name) for kind, name in asked.items()}
    casting = cast.casting
    if usual is None:
        left = {name: choice if choice.restorer else LEFT_OUT for name, choice in choices.items()}
        casting = replace(casting, choices=left, strangers=LEFT_OUT)
    return Restorers(usual, others), casting


def asked_restorers(config: PipelineConfig) -> list[str]:
    """The kinds of all restorers used by `config` and its list of people, the run's own first; empty = none.

    Raises ConfigError for a mistake in the list.
    """
    if not config.blend.strength:
        return []
    kinds = dict.fromkeys([config.restorer.kind, *read_cast(config.input, "").casting.restorers])
    return [kind for kind in kinds if kind != "none"]


def check_steps(steps: int | None, config: PipelineConfig) -> None:
    """Raises ConfigError where `--steps` was given and no restorer of the run takes steps, as far as names tell."""
    kinds = asked_restorers(config) if steps is not None else []
    if kinds and set(kinds) <= {"auto", "aligned", "fast"}:
        raise ConfigError(f"--steps is for iconface and klein, and the restorer is {kinds[0]}; leave it out")


def _another(own: RestorerConfig, kind: str, name: str) -> Restorer:
    try:
        restorer = build_restorer(own.instead(kind))
    except ConfigError as error:
        raise ConfigError(f"the restorer of {name!r} in the list of people: {error}") from error
    if restorer is None:
        raise ConfigError(
            f"the restorer of {name!r} in the list of people is none; write restore = false instead"
        )
    return restorer


def digest(people: Path | None) -> str:
    """sha256 of everything a run uses of a gallery; empty without one."""
    return read_gallery(people.expanduser()).digest() if people is not None else ""


def acquaintances(gallery: Gallery, portraits: Portraits) -> list[Acquaintance]:
    """The people of `gallery` with at least one picture.

    Raises ConfigError for a damaged record or picture, SourceError for a photo without a face.
    """
    record = read_record(gallery.folder / RECORD)
    people = [_acquaintance(entry, record, portraits) for entry in gallery.people]
    return [somebody for somebody in people if somebody is not None]


def met_before(source: FileSource, config: PipelineConfig, portraits: Portraits) -> list[Acquaintance]:
    """Everybody found by a first pass over `source`, under numbered names."""
    scanner = Scanner(config, portraits.detector, portraits.recogniser)
    scanner.look(source)
    people = []
    for number, found in enumerate(scanner.result().people, 1):
        best = found.best()
        views = tuple(_view(each.picture, Known.of(each), portraits.crop_size) for each in best)
        # The sum over all shots is the most stable look.
        looks = (*_distinct(each.look for each in best), found.total)
        people.append(Acquaintance(f"person {number}", looks, views))
    return people


def _acquaintance(entry: Entry, record: Record, portraits: Portraits) -> Acquaintance | None:
    views: list[View] = []
    looks: list[NDArray[np.float32]] = []
    own: list[str] = []
    for path in entry.pictures:
        content = _bytes_of(path)
        known = record.pictures.get(sha256(content))
        if known is None:
            own.append(str(path))
            continue
        view = _view(content, known, portraits.crop_size)
        look = known.look
        if record.recogniser != portraits.recogniser.name:
            view = _seen_by(portraits.recogniser, view)
            look = view.embedding
        views.append(view)
        looks.append(look)
    # One by one: by the list all of them are this person, similar or not.
    photos = [
        view for path in (*own, *map(str, entry.photos)) for each in portraits.people([path]) for view in each
    ]
    looks += [photo.embedding for photo in photos]
    if not looks:
        return None
    return Acquaintance(entry.name, _distinct(looks), tuple(views), tuple(photos))


def _view(content: bytes, known: Known, crop_size: int) -> View:
    crop = from_png(content)
    assert crop is not None, "a picture with a known hash is intact"
    return View(resized(crop, crop_size), known.embedding, known.quality, known.origin, known.yaw)


def _seen_by(recogniser: Recogniser, view: View) -> View:
    """`view` with the embedding of another recogniser, and its quality scaled by the ratio of the norms."""
    embedding = recogniser.embed(recogniser_crop(view.crop)[None])[0].numpy()
    share = float(np.linalg.norm(embedding) / max(float(np.linalg.norm(view.embedding)), 1e-6))
    return View(view.crop, embedding, view.quality * share, view.source, view.yaw)


def _distinct(looks: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
    """Each look once: views of one shot share theirs."""
    return tuple({look.tobytes(): look for look in looks}.values())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from error


class Restorers:
    """A restorer that passes each face to the restorer of its person.

    All take crops of one size, the largest among them.
    """

    def __init__(self, usual: Restorer | None, others: Mapping[str, Restorer]) -> None:
        """`usual`: for requests that name no restorer; None if there are none."""
        self._by_name = ({} if usual is None else {"": usual}) | dict(others)
        needs = {name: restorer.needs for name, restorer in self._by_name.items()}
        kept_for = frozenset(name for name, each in needs.items() if each.kept)
        self.needs = Needs(
            max(each.crop_size for each in needs.values()),
            references=any(each.references for each in needs.values()),
            neighbours=max(each.neighbours for each in needs.values()),
            previous=any(each.previous for each in needs.values()),
            kept=bool(kept_for),
            kept_for=kept_for,
            device=next(iter(needs.values())).device,
        )
        # Resized reference sets by side, kept while the original set is in use.
        self._smaller: dict[int, WeakKeyDictionary[References, References]] = {}

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises KeyError for an unknown restorer."""
        results: list[Result | None] = [None] * len(requests)
        for name in dict.fromkeys(request.restorer for request in requests):
            places = [place for place, request in enumerate(requests) if request.restorer == name]
            restored = self._by(self._by_name[name], [requests[place] for place in places])
            for place, result in zip(places, restored, strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def _by(self, restorer: Restorer, requests: Sequence[Request]) -> list[Result]:
        size = restorer.needs.crop_size
        if size == self.needs.crop_size:
            return restorer.restore(requests)
        small = [
            Request(
                resized(r.crop, size),
                self._resized(r.references, size),
                None if r.previous is None else _smaller(r.previous, size),
                kept=r.kept,
                neighbours=tuple(_smaller(neighbour, size) for neighbour in r.neighbours),
            )
            for r in requests
        ]
        results = restorer.restore(small)
        return [
            Result(_changed(request.crop, asked.crop, result.image), result.kept)
            for request, asked, result in zip(requests, small, results, strict=True)
        ]

    def _resized(self, references: References, size: int) -> References:
        known = self._smaller.setdefault(size, WeakKeyDictionary())
        if references not in known:
            crops = tuple(resized(crop, size) for crop in references.crops)
            known[references] = References(
                crops, references.embeddings, references.version, references.sources
            )
        return known[references]


def _smaller(moved: Moved, size: int) -> Moved:
    """What was moved onto a crop, for a crop of `size` pixels."""
    gate = cv2.resize(moved.gate.numpy(), (size, size), interpolation=cv2.INTER_AREA)
    return replace(moved, image=resized(moved.image, size), gate=torch.from_numpy(gate))


def _changed(crop: Tensor, small: Tensor, restored: Tensor) -> Tensor:
    """`crop`, uint8 (3, S, S), plus the change from `small` to `restored`, both of a smaller side.

    Detail beyond the smaller crop stays as in the film.
    """
    change = restored.numpy().transpose(1, 2, 0).astype(np.float32) - small.numpy().transpose(1, 2, 0)
    side = crop.shape[-1]
    change = cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC)
    image = crop.numpy().transpose(1, 2, 0) + change
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
