"""Restorers side by side: the same degraded faces, told nothing, the right person's or a wrong one's references.

Shapes: N faces; pictures uint8 (256, 256, 3) RGB in the FFHQ alignment, sources uint8 (512, 512, 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from configs import ConfigError
from models.evaluation.faces import degraded, embed_pictures, reduced
from models.evaluation.meter import Measured, Meter
from models.evaluation.methods import Method, restored
from models.evaluation.scores import Difference, Scores, difference, score
from models.fast.anchor import identity_anchor
from models.protocols import References
from models.recogniser import EmbeddedRecogniser
from models.training.degrade import Picture, Preset

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
    told = _references(people, targets, meter.recogniser)
    damaged = degraded(sources, preset, first_seed, meter.cache)
    kinds = {DEGRADED: damaged}
    anchors: dict[str, NDArray[np.float64]] = {}
    for method in methods:
        for words, references in told.items():
            name = _row(method.name, words)
            kinds[name] = restored(method, damaged, references, meter.cache)
            if len(references[0]):
                anchors[name] = _anchors(references)
    measured = meter.measure(targets, kinds, anchors)
    names = [method.name for method in methods]
    return Experiment(
        _sheet(targets, kinds, told, names),
        [score(name, row) for name, row in measured.items()],
        _differences(measured, names, list(told)),
    )


def _references(
    people: list[list[Picture]], targets: list[Picture], recogniser: EmbeddedRecogniser
) -> dict[str, list[References]]:
    """What restorers are told of each face, (N) each, by its name in the tables."""
    if not people:
        raise ConfigError("there are no faces to restore; see which people and views the folders need")
    views = len(people[0])
    nothing = [References()] * len(targets)
    if views == 1:
        return {"": nothing}
    if len(people) == 1:
        raise ConfigError("a wrong person's reference needs a second person, but there is only one")
    crops = [torch.from_numpy(target).permute(2, 0, 1).contiguous() for target in targets]
    embeddings = embed_pictures(recogniser, targets)
    told = {_NONE: nothing}
    for count, right_words, wrong_words in ((1, _RIGHT, _WRONG), (3, _THREE_RIGHT, _THREE_WRONG)):
        if count < views:
            chosen = [other_views(index, views)[:count] for index in range(len(targets))]
            right = [References(tuple(crops[k] for k in each), embeddings[each], 1) for each in chosen]
            told |= {right_words: right, wrong_words: right[views:] + right[:views]}
    return told


def other_views(index: int, views: int) -> list[int]:
    """Places of the same person's other pictures, the farthest in turn first; `views` of each stand together."""
    steps = sorted(range(1, views), key=lambda step: abs(step - views / 2))
    return [index - index % views + (index + step) % views for step in steps]


def _anchors(references: list[References]) -> NDArray[np.float64]:
    anchors = torch.stack([identity_anchor(each.embeddings.double()) for each in references])
    return np.asarray(anchors.numpy(), np.float64)


def _differences(measured: dict[str, Measured], names: list[str], told: list[str]) -> list[Difference]:
    """Each restorer against the damage, its references against each other, and the restorers."""
    fast, *flows = names
    pairs = [(_row(name, words), DEGRADED) for name in names for words in told[:2]]
    pairs += [
        (_row(name, words), _row(name, others))
        for name in names
        for words, others in _OF_REFERENCES
        if words in told
    ]
    others = [(flow, fast) for flow in flows] + [(flow, flows[0]) for flow in flows[1:]]
    pairs += [
        (_row(name, words), _row(other, words))
        for words in _OF_METHODS
        if words in told
        for name, other in others
    ]
    return [difference(f"{one} - {other}", measured[one], measured[other]) for one, other in pairs]


def _sheet(
    targets: list[Picture],
    kinds: dict[str, list[Picture]],
    told: dict[str, list[References]],
    names: list[str],
) -> dict[str, list[Picture]]:
    """Damage, `fast`, `iconface` with its fewest and most steps, reference and target; each at its best informed."""
    words = [words for words in ("", _RIGHT, _THREE_RIGHT) if words in told][-1]
    shown = dict.fromkeys([names[0], *names[1:2], *names[-1:]])
    columns = {DEGRADED: kinds[DEGRADED]} | {name: kinds[_row(name, words)] for name in shown}
    if words:
        columns["reference"] = [each.crops[0].permute(1, 2, 0).numpy() for each in told[words]]
    return columns | {"target": targets}


def _row(method: str, words: str) -> str:
    return f"{method}, {words}" if words else method
