"""What a result says of itself: that faces were restored, by what and with which settings."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import configs
from pipeline import __version__
from pipeline.build import AUTO
from pipeline.config import PipelineConfig
from pipeline.people.cast import asked_restorers
from pipeline.report.page.facts import weights

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a picture into which a trained network has put something."""
_OF_A_RUN = ("output.", "chunks.", "live.")
_OF_SPEED = ("depth", "restore.batch_size", "restore.max_waiting")
"""Settings on which no face depends."""


def settings_hash(config: PipelineConfig) -> str:
    """sha256, in hex, of all settings on which a restored face can depend: equal for equal ones, however they were
    given."""
    values = flat_settings(config)
    lines = [f"{name} = {value!r}" for name, value in sorted(values.items()) if name not in _OF_SPEED]
    text = "\n".join(line for line in lines if not line.startswith(_OF_A_RUN))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def flat_settings(config: PipelineConfig) -> dict[str, Any]:
    """All settings by their full names, as TOML writes their values."""

    def flat(values: dict[str, Any], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            found |= flat(value, f"{where}{name}.") if isinstance(value, dict) else {where + name: value}
        return found

    return flat(tomllib.loads(configs.dump(config)), "")


def changes_faces(config: PipelineConfig) -> bool:
    """Whether `config` and its list of people ask for restored faces at all."""
    return bool(asked_restorers(config))


def note(config: PipelineConfig) -> str:
    """What the result's metadata says of it, in words."""
    if not changes_faces(config):
        return f"passed through anchorface {__version__}, no face was changed"
    kinds = [AUTO if kind == "auto" else Path(kind).name for kind in asked_restorers(config)]
    names = ", ".join(dict.fromkeys(each.file for each in weights(config)))
    # Of a checkpoint the file's name alone: where it lies is nobody's business.
    return (
        f"faces restored by anchorface {__version__} ({', '.join(dict.fromkeys(kinds))}; weights: {names}; "
        f"settings sha256: {settings_hash(config)}; digital source type: {SOURCE_TYPE})"
    )
