"""`python -m models.training.publish NAME RECIPE --date 2026-01-31`: a run's checkpoint into the package.

Copies the averaged weights of the run that RECIPE names into `models/embedded` and writes the entry of
`manifest.toml`: sha256, architecture, licence, origins, recipe and its hash, images seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from pathlib import Path

from configs import ConfigError, load
from models.training.dataset import read_rows
from models.training.loop import TrainingConfig
from models.weights import EMBEDDED, CheckpointError, load_checkpoint

ARCHITECTURES = {
    "aligned": "models.aligned.network.AlignedNetwork",
    "encoder": "models.recogniser.Encoder",
    "fast": "models.fast.network.FastNetwork",
    "iconface": "models.iconface.model.IconFaceModel",
    "landmarks": "models.landmarks.LandmarkNetwork",
}
TASKS = {
    "aligned": "aligned",
    "encoder": "encoder",
    "fast": "fast",
    "iconface": "flow",
    "landmarks": "landmarks",
}
LICENCE = (
    "non-commercial (trained partly on CelebAMask-HQ and on generated faces that came without a licence)"
)
NOTICES = {"aligned": "trained on from Real-ESRGAN x4plus, BSD-3-Clause, see NOTICE"}
"""What stands in the manifest beside the licence."""


def main() -> None:
    """Publishes one checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m models.training.publish", description=__doc__)
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--date", required=True, help="day of the training, YYYY-MM-DD")
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    try:
        publish(arguments.name, arguments.recipe, arguments.date, arguments.folder)
    except (ConfigError, CheckpointError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def publish(name: str, recipe: Path, date: str, folder: Path = EMBEDDED) -> None:
    """Copies the checkpoint of the recipe's run and renews its entry in the manifest of `folder`.

    Raises `ConfigError` for the recipe of another network, `FileNotFoundError` without a checkpoint.
    """
    config = load(TrainingConfig, recipe)
    if config.task != TASKS[name]:
        raise ConfigError(
            f"{recipe}: this recipe's task is {config.task}, and {name} is made by {TASKS[name]}"
        )
    content = (config.run / "checkpoint.safetensors").read_bytes()
    target = folder / f"{name}.safetensors"
    target.write_bytes(content)
    manifest_path = folder / "manifest.toml"
    entries = tomllib.loads(manifest_path.read_text(encoding="utf-8")) if manifest_path.exists() else {}
    entries[name] = {
        "file": target.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "architecture": ARCHITECTURES[name],
        "licence": LICENCE,
        **({"notice": NOTICES[name]} if name in NOTICES else {}),
        "origins": sorted({row.origin for row in read_rows(config.faces) if row.true_px > 0}),
        "recipe": f"configs/{recipe.name}",
        "recipe_sha256": hashlib.sha256(recipe.read_bytes()).hexdigest(),
        "images_seen": config.images_before + load_checkpoint(target).images_seen,
        "date": date,
    }
    manifest_path.write_text(_toml(entries), encoding="utf-8")


def _toml(entries: dict[str, dict[str, object]]) -> str:
    lines = ["# The checkpoints of this folder; written by models.training.publish."]
    for name, entry in sorted(entries.items()):
        # A JSON string, number or list of strings is a TOML value too.
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
