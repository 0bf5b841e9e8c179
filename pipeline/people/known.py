"""From a gallery, or a first pass over the very film, to people whom a run knows from its start.

Legend: S side of a crop, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs import ConfigError
from models.pictures import recogniser_crop
from models.protocols import Recogniser
from pipeline.config import PipelineConfig
from pipeline.media.source import FileSource
from pipeline.people.record import Known, Record, read_record, sha256
from pipeline.people.scan import Scanner, from_png
from pipeline.stages.portraits import Portraits
from pipeline.stages.views import resized
from trackers.gallery import RECORD, Entry, Gallery
from trackers.people import Acquaintance
from trackers.references import View


def acquaintances(gallery: Gallery, portraits: Portraits) -> list[Acquaintance]:
    """The people of `gallery`; those without any picture are left out.

    Raises ConfigError for a damaged record or picture, SourceError for a photo without a face.
    """
    record = read_record(gallery.folder / RECORD)
    people = [_acquaintance(entry, record, portraits) for entry in gallery.people]
    return [somebody for somebody in people if somebody is not None]


def met_before(source: FileSource, config: PipelineConfig, portraits: Portraits) -> list[Acquaintance]:
    """Everybody whom a first pass over `source` finds, under names of no meaning."""
    scanner = Scanner(config, portraits.detector, portraits.recogniser)
    scanner.look(source)
    people = []
    for number, found in enumerate(scanner.result().people, 1):
        best = found.best()
        views = tuple(_view(each.picture, Known.of(each), portraits.crop_size) for each in best)
        # The sum over all shots as well: it is steadier than that of any of them.
        looks = (*_different(each.look for each in best), found.total)
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
    # One by one: the list says that all of them are this person, whether they look alike or not.
    photos = [
        view for path in (*own, *map(str, entry.photos)) for each in portraits.people([path]) for view in each
    ]
    looks += [photo.embedding for photo in photos]
    if not looks:
        return None
    return Acquaintance(entry.name, _different(looks), tuple(views), tuple(photos))


def _view(content: bytes, known: Known, crop_size: int) -> View:
    crop = from_png(content)
    assert crop is not None, "a picture that is known by its hash is the one that was written"
    return View(resized(crop, crop_size), known.embedding, known.quality, known.origin, known.yaw)


def _seen_by(recogniser: Recogniser, view: View) -> View:
    """`view` with the embedding of another recogniser; its quality is measured by the length of that."""
    embedding = recogniser.embed(recogniser_crop(view.crop)[None])[0].numpy()
    share = float(np.linalg.norm(embedding) / max(float(np.linalg.norm(view.embedding)), 1e-6))
    return View(view.crop, embedding, view.quality * share, view.source, view.yaw)


def _different(looks: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
    """Views of one shot share their look: each counts once."""
    return tuple({look.tobytes(): look for look in looks}.values())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
