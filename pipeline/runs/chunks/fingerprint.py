"""What a finished chunk depends on: the input, the settings, the weights and the version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from models.precision import name_of
from models.weights import EMBEDDED
from pipeline import __version__
from pipeline.build import resolved_pixels, resolved_precision, restorer_device
from pipeline.config import PipelineConfig
from pipeline.people.cast import digest
from pipeline.report.provenance import flat_settings

_NO_MATTER = {
    "depth",
    "output.overwrite",
    "output.c2pa",
    "chunks.resume",
    "chunks.workers",
    "chunks.ray",
    "restore.batch_size",
    "restore.max_waiting",
    "input.people",
}
"""Settings on which no picture depends."""
_WHOLE = 1 << 30
"""Larger files are known by their ends: reading them would take longer than a chunk."""
_END = 1 << 22


def fingerprint(input: Path, config: PipelineConfig) -> dict[str, str]:
    """Names and values; runs of equal ones give equal pictures."""
    settings = flat_settings(config)
    named = [config.restorer.kind, config.restorer.klein, config.detector.kind, config.recogniser.kind]
    named += [str(config.restorer.adapter or ""), *config.input.references]
    found = {
        "version": __version__,
        "the input": _hash(input),
        "the weights": _hash(EMBEDDED / "manifest.toml"),
        # `auto` is another one on another machine.
        "the precision of the restorer": name_of(resolved_precision(config.restorer)),
        "the way of blending (pixels.kind)": resolved_pixels(config.pixels, config.restorer),
        # On it depends whether answers are used again.
        "the kind of the restorer's device": restorer_device(config.restorer.device).type,
    }
    found |= {f"the file {name}": _hash(Path(name).expanduser()) for name in named if _exists(name)}
    if config.input.people is not None:
        # Whatever lies in the folder, and wherever that lies: what a run takes from it matters.
        found["the list of people"] = digest(config.input.people)
    return found | {name: str(value) for name, value in settings.items() if name not in _NO_MATTER}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first thing that differs, in words for a sentence; empty if nothing does."""
    for name in [*now, *(name for name in before if name not in now)]:
        then, here = before.get(name), now.get(name)
        if then != here:
            if name.startswith("the "):
                return f"{name} was another one"
            return f"{name} was {then}, now it is {here}"
    return ""


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except OSError:
        return False


def _hash(path: Path) -> str:
    """Of a file's bytes, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(path)}\0{_hash(file)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        if size <= _WHOLE:
            while block := stream.read(_END):
                digest.update(block)
        else:
            digest.update(stream.read(_END))
            stream.seek(-_END, 2)
            digest.update(stream.read(_END))
    return digest.hexdigest()
