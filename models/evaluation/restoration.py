"""Restorers side by side: the same degraded faces, given no references, the right person's or a wrong one's.

What a restorer makes of a face is kept between evaluations.

Shapes: N faces; pictures uint8 (256, 256, 3) RGB in the FFHQ alignment, sources uint8 (512, 512, 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import models
from configs import ConfigError
from models.aligned.restorer import AlignedRestorer
from models.degradation.stills import Preset
from models.evaluation.faces import SIDE_PX, Cache, degraded, embed_pictures, key_of, reduced
from models.evaluation.meter import Difference, Measured, Meter, Scores, difference, score
from models.fast.restorer import FastRestorer
from models.iconface.restorer import IconFaceRestorer
from models.iconface.settings import IconFaceSettings
from models.pictures import Picture, to_picture, to_tensor
from models.protocols import References, Request, Restorer
from models.recogniser import EmbeddedRecogniser, identity_anchor
from models.weights import EMBEDDED, Checkpoint, CheckpointError, load_checkpoint, load_embedded

_CODE = ("*.py", "aligned/*.py", "fast/*.py", "iconface/*.py")
"""All that restorers are written in, and some more: better one result too many worked out again."""
DEGRADED = "degraded"
_NONE, _RIGHT, _WRONG = "no reference", "right reference", "wrong reference"
_THREE_RIGHT, _THREE_WRONG = "three right references", "three wrong references"
_OF_REFERENCES = (
    (_RIGHT, _NONE),
    (_WRONG, _NONE),
    (_RIGHT, _WRONG),
    (_THREE_RIGHT, _NONE),
    (_THREE_RIGHT, _RIGHT),
    (_THREE_WRONG, _NONE),
)
"""What is compared for each restorer."""
_OF_METHODS = ("", _NONE, _RIGHT, _THREE_RIGHT)
"""With which references the restorers are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A restorer under its name in the tables."""

    name: str
    restorer: Restorer
    key: str
    """Names all that its results depend on besides the request."""


def fast_method(path: Path | None, precision: torch.dtype = torch.float32) -> Method:
    """`fast` with the checkpoint at `path`, or with the shipped one."""
    checkpoint = load_checkpoint(path) if path else load_embedded("fast")
    restorer = FastRestorer(checkpoint, precision=precision)
    return Method("fast", restorer, _key("fast", checkpoint, precision))


def aligned_method(path: Path | None, precision: torch.dtype = torch.float32) -> Method:
    """`aligned` with the checkpoint at `path`, or with the shipped one."""
    checkpoint = load_checkpoint(path) if path else load_embedded("aligned")
    return Method(
        "aligned", AlignedRestorer(checkpoint, precision=precision), _key("aligned", checkpoint, precision)
    )


def iconface_methods(
    path: Path | None,
    steps: Sequence[int],
    embedded: Path = EMBEDDED,
    precision: torch.dtype = torch.float32,
    usual: IconFaceSettings | None = None,
) -> list[Method]:
    """`iconface` once for each number of `steps`, with the checkpoint at `path` or with the one in `embedded`.

    `usual`: the other settings of sampling. Empty where there is neither checkpoint. Raises `CheckpointError` for
    weights that take crops of another size.
    """
    if path is None and not (embedded / "iconface.safetensors").exists():
        return []
    checkpoint = load_checkpoint(path) if path else load_embedded("iconface", embedded)
    methods = []
    for count in steps:
        settings = replace(usual or IconFaceSettings(), steps=count)
        restorer = IconFaceRestorer(checkpoint, settings=settings, precision=precision)
        side = restorer.needs.crop_size
        if side != SIDE_PX:
            raise CheckpointError(
                f"{checkpoint.path}: takes crops of {side} pixels, but faces are measured at {SIDE_PX}"
            )
        key = _key("iconface", checkpoint, precision, settings)
        methods.append(Method(f"iconface {count}", restorer, key))
    return methods


def restored(
    method: Method, pictures: list[Picture], references: list[References], cache: Cache
) -> list[Picture]:
    """`pictures`, uint8 (256, 256, 3), as `method` restores them, each with its own `references`."""
    results: list[Picture] = []
    for picture, own in zip(pictures, references, strict=True):
        key = key_of(method.key, picture, own.embeddings.numpy(), *(crop.numpy() for crop in own.crops))
        found = cache.find(key)
        if found is None:
            (result,) = method.restorer.restore([Request(to_tensor(picture), own)])
            found = to_picture(result.image)
            cache.keep(key, found)
        results.append(np.asarray(found, np.uint8))
    return results


def _key(
    name: str, checkpoint: Checkpoint, precision: torch.dtype, settings: IconFaceSettings | None = None
) -> str:
    """From the contents of the files and of the code; the number of threads decides in which order sums are made."""
    folder = Path(models.__file__).parent
    files = [path for pattern in _CODE for path in sorted(folder.glob(pattern))]
    # Restorers look at crops with the shipped encoder, and `aligned` finds points with the shipped landmarks.
    files += [
        EMBEDDED / f"{used}.safetensors"
        for used in ("encoder", *(("landmarks",) if name == "aligned" else ()))
    ]
    if checkpoint.path is not None:
        files.append(checkpoint.path)
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return key_of(name, settings, str(precision), torch.get_num_threads(), contents)


@dataclass(frozen=True, slots=True)
class Experiment:
    """Pictures of one kind of damage, and what was measured on them."""

    sheet: dict[str, list[Picture]]
    """The columns of a contact sheet."""
    scores: list[Scores]
    differences: list[Difference]


def experiment(
    people: list[list[Picture]], first_seed: int, preset: Preset, methods: list[Method], meter: Meter
) -> Experiment:
    """Every picture degraded with a seed of its own, restored by all `methods`, and measured.

    `people`: sources, equally many of each person. With several each is restored with another one as reference,
    with four also with all three others, and with as many of the next person. `methods`: `fast` first, then
    `iconface` by rising numbers of steps. Raises `ConfigError` where there is no one, or no other person.
    """
    sources = [picture for views in people for picture in views]
    targets = [reduced(source) for source in sources]
    given = _references(people, targets, meter.recogniser)
    damaged = degraded(sources, preset, first_seed, meter.cache)
    kinds = {DEGRADED: damaged}
    anchors: dict[str, NDArray[np.float64]] = {}
    for method in methods:
        for words, references in given.items():
            name = _row(method.name, words)
            kinds[name] = restored(method, damaged, references, meter.cache)
            if len(references[0]):
                anchors[name] = _anchors(references)
    measured = meter.measure(targets, kinds, anchors)
    names = [method.name for method in methods]
    return Experiment(
        _sheet(targets, kinds, given, names),
        [score(name, row) for name, row in measured.items()],
        _differences(measured, names, list(given)),
    )


def _references(
    people: list[list[Picture]], targets: list[Picture], recogniser: EmbeddedRecogniser
) -> dict[str, list[References]]:
    """The references of each face, (N) each, by their name in the tables."""
    if not people:
        raise ConfigError("there are no faces to restore; see which people and views the folders need")
    views = len(people[0])
    nothing = [References()] * len(targets)
    if views == 1:
        return {"": nothing}
    if len(people) == 1:
        raise ConfigError("a wrong person's reference needs a second person, but there is only one")
    crops = [to_tensor(target) for target in targets]
    embeddings = embed_pictures(recogniser, targets)
    given = {_NONE: nothing}
    for count, right_words, wrong_words in ((1, _RIGHT, _WRONG), (3, _THREE_RIGHT, _THREE_WRONG)):
        if count < views:
            chosen = [other_views(index, views)[:count] for index in range(len(targets))]
            right = [References(tuple(crops[k] for k in each), embeddings[each], 1) for each in chosen]
            given |= {right_words: right, wrong_words: right[views:] + right[:views]}
    return given


def other_views(index: int, views: int) -> list[int]:
    """Places of the same person's other pictures, the farthest first; each person's `views` are adjacent."""
    steps = sorted(range(1, views), key=lambda step: abs(step - views / 2))
    return [index - index % views + (index + step) % views for step in steps]


def _anchors(references: list[References]) -> NDArray[np.float64]:
    anchors = torch.stack([identity_anchor(each.embeddings.double()) for each in references])
    return np.asarray(anchors.numpy(), np.float64)


def _differences(measured: dict[str, Measured], names: list[str], given: list[str]) -> list[Difference]:
    """Each restorer against the damage, its references against each other, and the restorers."""
    fast, *flows = names
    pairs = [(_row(name, words), DEGRADED) for name in names for words in given[:2]]
    pairs += [
        (_row(name, words), _row(name, others))
        for name in names
        for words, others in _OF_REFERENCES
        if words in given
    ]
    others = [(flow, fast) for flow in flows] + [(flow, flows[0]) for flow in flows[1:]]
    pairs += [
        (_row(name, words), _row(other, words))
        for words in _OF_METHODS
        if words in given
        for name, other in others
    ]
    return [difference(f"{one} - {other}", measured[one], measured[other]) for one, other in pairs]


def _sheet(
    targets: list[Picture],
    kinds: dict[str, list[Picture]],
    given: dict[str, list[References]],
    names: list[str],
) -> dict[str, list[Picture]]:
    """Damage, `fast`, `iconface` with its fewest and most steps, reference and target; each at its best informed."""
    words = [words for words in ("", _RIGHT, _THREE_RIGHT) if words in given][-1]
    shown = dict.fromkeys([names[0], *names[1:2], *names[-1:]])
    columns = {DEGRADED: kinds[DEGRADED]} | {name: kinds[_row(name, words)] for name in shown}
    if words:
        columns["reference"] = [to_picture(each.crops[0]) for each in given[words]]
    return columns | {"target": targets}


def _row(method: str, words: str) -> str:
    return f"{method}, {words}" if words else method
