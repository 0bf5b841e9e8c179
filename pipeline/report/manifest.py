"""`--c2pa`: a signed manifest in the result that names the actions and the input.

Specification: Coalition for Content Provenance and Authenticity (extra `provenance`).
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from configs import ConfigError
from pipeline import __version__
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError, reason
from pipeline.media.files import PartialFile
from pipeline.people.cast import asked_restorers
from pipeline.report.counts import Report
from pipeline.report.provenance import SOURCE_TYPE, settings_hash, weights

_KINDS = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".avif": "image/avif",
    ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip
"""Media types that can hold a manifest, by extension."""
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----\n?", re.DOTALL)
_TRIAL = {
    "title": "trial",
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
        }
    ],
}
"""The smallest manifest that can be signed."""
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
"""No network access, whatever the manifest of an untrusted input asks for."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The signer: a chain of certificates and a key, both PEM, and the key's algorithm."""

    path: Path
    chain: bytes
    key: bytes
    algorithm: str


def load_credentials(path: Path, input: Path, output: Path) -> Credentials:
    """The chain and the key in the PEM file `path`, checked by signing a small picture.

    Raises ConfigError if c2pa is not installed or the file cannot be used, SinkError if `output` cannot hold a
    manifest.
    """
    c2pa = _c2pa()
    if input.is_dir() or output.suffix.lower() not in _KINDS:
        what = (
            "a folder of photos"
            if input.is_dir()
            else f"a file of the kind {output.suffix or '(no extension)'}"
        )
        raise SinkError(f"{output}: {what} cannot hold a manifest (--c2pa); write one of {', '.join(_KINDS)}")
    try:
        text = path.expanduser().read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"--c2pa: {path} cannot be read ({reason(error)})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--c2pa: {path} is no PEM file; it must hold the certificates and the key"
        ) from error
    credentials = _parsed(path, text)
    picture, signed = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")
    try:
        # An expired certificate must be reported before the film is restored.
        with _signer(c2pa, credentials) as signer, _builder(c2pa, _TRIAL) as builder:
            builder.sign(signer, "image/jpeg", io.BytesIO(picture.getvalue()), signed)
    except c2pa.C2paError as error:
        raise ConfigError(f"--c2pa: {path} cannot sign ({_reason(error)})") from error
    return credentials


def sign(output: Path, input: Path, config: PipelineConfig, report: Report, credentials: Credentials) -> None:
    """Adds a signed manifest to `output`, which was made from `input`.

    Raises SinkError; then `output` is unchanged.
    """
    c2pa = _c2pa()
    kind = _KINDS[output.suffix.lower()]
    try:
        with (
            PartialFile(output, source=input, overwrite=True).written() as path,
            _signer(c2pa, credentials) as signer,
            _builder(c2pa, _manifest(output, config, report)) as builder,
        ):
            ingredient = {"title": input.name, "relationship": "parentOf", "instance_id": "input"}
            with input.open("rb") as stream:
                builder.add_ingredient(ingredient, _kind_of(input), stream)
            with output.open("rb") as before, path.open("rb+") as after:
                builder.sign(signer, kind, before, after)
            _check(c2pa, path, kind)
    except SinkError:
        raise
    except (c2pa.C2paError, OSError) as error:
        raise SinkError(f"{output}: is complete, but could not be signed ({_reason(error)})") from error


def _manifest(output: Path, config: PipelineConfig, report: Report) -> dict[str, Any]:
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["input"]}}
    agent = {"name": "anchorface", "version": __version__}
    done: dict[str, Any] = {"action": "c2pa.transcoded", "softwareAgent": agent}
    if report.restored:
        done = {
            "action": "c2pa.edited",
            "softwareAgent": agent,
            "digitalSourceType": SOURCE_TYPE,
            "description": "faces were restored by a neural network; all other pixels are those of the input",
            "parameters": {
                "anchorface.restorer": ", ".join(Path(kind).name for kind in asked_restorers(config)),
                "anchorface.settings_sha256": settings_hash(config),
                "anchorface.weights": [
                    {"part": each.part, "file": each.file, "sha256": each.sha256} for each in weights(config)
                ],
                "anchorface.frames": report.frames,
                "anchorface.faces_restored": report.restored,
                "anchorface.faces_held_back": report.held_back,
            },
        }
    return {
        "title": output.name,
        "format": _KINDS[output.suffix.lower()],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [opened, done]}}],
    }


def _check(c2pa: Any, path: Path, kind: str) -> None:
    """Reads the manifest back. Raises OSError if it does not match the file."""
    with (
        path.open("rb") as stream,
        c2pa.Context.from_dict(_OFFLINE) as context,
        c2pa.Reader(kind, stream, context=context) as reader,
    ):
        state = reader.get_validation_state()
    if state not in ("Valid", "Trusted"):
        raise OSError(f"read back, the manifest is {str(state).lower()}")


def _parsed(path: Path, text: str) -> Credentials:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    blocks = [(found[1], found[0]) for found in _PEM.finditer(text)]
    chain = [block for name, block in blocks if name == "CERTIFICATE"]
    keys = [block for name, block in blocks if name.endswith("PRIVATE KEY")]
    if not chain or len(keys) != 1:
        raise ConfigError(
            f"--c2pa: {path} holds {len(chain)} certificates and {len(keys)} private keys; it must be a PEM file of "
            "the chain, the signer's own first, and the signer's key"
        )
    try:
        key = serialization.load_pem_private_key(keys[0].encode(), None)
        leaf = x509.load_pem_x509_certificate(chain[0].encode())
    except TypeError as error:
        raise ConfigError(f"--c2pa: the key in {path} is encrypted; write it without a password") from error
    except ValueError as error:
        raise ConfigError(f"--c2pa: {path} cannot be read (a certificate or the key is damaged)") from error
    if leaf.public_key() != key.public_key():
        raise ConfigError(f"--c2pa: the first certificate in {path} is not that of the key")
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(path, "".join(chain).encode(), pem, _algorithm(path, key))


def _algorithm(path: Path, key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    sizes = {256: "es256", 384: "es384", 521: "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in sizes:
        return sizes[key.curve.key_size]
    raise ConfigError(f"--c2pa: the key in {path} is none of RSA, P-256, P-384, P-521 and Ed25519")


def _signer(c2pa: Any, credentials: Credentials) -> Any:
    info = c2pa.C2paSignerInfo(credentials.algorithm, credentials.chain, credentials.key, None)
    return c2pa.Signer.from_info(info)


def _builder(c2pa: Any, manifest: dict[str, Any]) -> Any:
    ours = {"claim_generator_info": [{"name": "anchorface", "version": __version__}]}
    return c2pa.Builder(json.dumps(ours | manifest), context=c2pa.Context.from_dict(_OFFLINE))


def _kind_of(input: Path) -> str:
    return _KINDS.get(input.suffix.lower(), f"application/x-{input.suffix.lower().lstrip('.') or 'unknown'}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _c2pa() -> Any:
    try:
        import c2pa
    except ModuleNotFoundError as error:
        raise ConfigError(
            '--c2pa needs c2pa-python; install it with: pip install -e ".[provenance]"'
        ) from error
    return c2pa
