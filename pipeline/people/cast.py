"""Who is in a run and what is done with them: the gallery's people, the user's choices, and their restorers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from configs import ConfigError
from models.protocols import Restorer
from pipeline.build import AUTO, MEANT_FOR, build_restorer
from pipeline.config import InputConfig, PipelineConfig, RestorerConfig
from pipeline.people.restorers import Restorers
from trackers.gallery import EVERYBODY, LEFT_OUT, LIST, Casting, Gallery, chosen, read_gallery

_FOR_ALL = {"kind", "device", "allow_pickle", "seed", "engine"}
"""Settings of the run's restorer that another one shares."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What a run takes from its gallery."""

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
                f"--only {entry.name}: has neither views nor photos in {where}, so nobody knows the face"
            )
    return Cast(gallery, replace(casting, film=film, start_seconds=settings.start_seconds))


def build_restorers(config: PipelineConfig, cast: Cast) -> tuple[Restorer | None, Casting]:
    """What restores in this run, and the choices, in which those whom nobody restores are left out.

    Another restorer than the run's own is built only where somebody who is restored asks for it; None = nobody is
    restored.
    """
    # Strength 0 asks for nothing: no network needs to run.
    if not config.blend.strength:
        return None, cast.casting
    choices = cast.casting.choices
    asked = cast.casting.restorers
    own, lent = _shared_out(config.restorer, set(asked))
    usual = build_restorer(own)
    if not asked:
        return usual, cast.casting
    others = {kind: _another(config.restorer, kind, name, lent) for kind, name in asked.items()}
    casting = cast.casting
    if usual is None:
        left = {name: choice if choice.restorer else LEFT_OUT for name, choice in choices.items()}
        casting = replace(casting, choices=left, strangers=LEFT_OUT)
    return Restorers(usual, others), casting


def asked_restorers(config: PipelineConfig) -> list[str]:
    """The kinds of all restorers that `config` and its list of people ask for, the run's own first; without any no
    face is changed. Raises ConfigError for a mistake in the list."""
    if not config.blend.strength:
        return []
    kinds = dict.fromkeys([config.restorer.kind, *read_cast(config.input, "").casting.restorers])
    return [kind for kind in kinds if kind != "none"]


def _shared_out(config: RestorerConfig, asked: set[str]) -> tuple[RestorerConfig, set[str]]:
    """The run's own settings, without those that its restorer does not look at but one of those `asked` for does, and
    the names of these."""
    own = AUTO if config.kind == "auto" else config.kind
    known = {kind for kinds in MEANT_FOR.values() for kind in kinds} | {"none"}
    if own not in known:
        return config, set()  # weights that may be of any kind
    lent = {name for name, kinds in MEANT_FOR.items() if own not in kinds and asked & set(kinds)}
    usual = RestorerConfig()
    return replace(config, **{name: getattr(usual, name) for name in lent}), lent


def _another(own: RestorerConfig, kind: str, name: str, lent: set[str]) -> Restorer:
    usual = RestorerConfig()
    taken = _FOR_ALL | {each for each in lent | {"precision"} if kind in MEANT_FOR[each]}
    shared = {field.name: getattr(own, field.name) for field in fields(own) if field.name in taken}
    try:
        restorer = build_restorer(replace(usual, **{**shared, "kind": kind}))
    except ConfigError as error:
        raise ConfigError(f"the restorer of {name!r} in the list of people: {error}") from error
    if restorer is None:
        raise ConfigError(
            f"the restorer of {name!r} in the list of people is none; write restore = false instead"
        )
    return restorer


def digest(people: Path | None) -> str:
    """sha256 of all that a run takes from a gallery; empty without one."""
    return read_gallery(people.expanduser()).digest() if people is not None else ""
