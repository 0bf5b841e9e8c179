"""Networks of random weights, as narrow as can be, and faces for tests of the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut

from models.fast.network import FastNetwork, FastShape
from models.iconface.shape import AutoencoderShape, IconFaceShape, pack
from models.iconface.tiny_autoencoder import TinyAutoencoder
from models.recogniser import Encoder, EncoderShape
from models.training.flow import FlowTask
from models.training.loop import TrainingConfig
from models.training.losses import PerceptualLoss
from models.training.settings import FlowSettings
from models.weights import save_checkpoint

SMALL_ENCODER = EncoderShape(widths=(4, 8, 8, 8), depths=(0, 0, 0, 1), features=16)
SMALL_CODEC = AutoencoderShape(widths=(8, 16), encoder_depths=(0, 1), decoder_depths=(0, 1))
SMALL_FAST = FastShape(
    widths=(8, 8, 8, 8), encoder_depths=(1, 1, 1), middle_depth=1, decoder_depths=(1, 1, 1)
)
CPU = torch.device("cpu")
SMALL_FLOW = IconFaceShape(
    heads=2,
    head_width=16,
    double_blocks=1,
    single_blocks=1,
    rotary=(4, 4, 4, 4),
    context=16,
    high_tokens=1,
    low_tokens=2,
    identity_width=16,
    memory=8,
    memory_width=16,
    read_width=8,
)


def write_faces(folder: Path) -> None:
    """Four faces cut from the astronaut, two of one person, with their index."""
    lines = ["file,identity,origin,true_px"]
    for index in range(4):
        image = Image.fromarray(astronaut()).crop((130 + 8 * index, 10, 290 + 8 * index, 170))
        image.resize((256, 256)).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{'same' if index < 2 else ''},astronaut,256")
    (folder / "index.csv").write_text("\n".join(lines))


def write_flow_folder(folder: Path) -> None:
    """Faces, and checkpoints of all that a `FlowTask` begins with."""
    write_faces(folder)
    autoencoder = TinyAutoencoder(SMALL_CODEC)
    shown = np.stack([np.asarray(Image.open(folder / f"{index}.png")) for index in range(4)])
    pictures = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        tokens = pack(autoencoder.encode(pictures)[0]).flatten(0, 1)
    autoencoder.mean, autoencoder.deviation = tokens.mean(0), tokens.std(0)
    for name, network, shape in (
        ("encoder", Encoder(SMALL_ENCODER), SMALL_ENCODER),
        ("autoencoder", autoencoder, SMALL_CODEC),
        ("fast", FastNetwork(SMALL_FAST), SMALL_FAST),
    ):
        save_checkpoint(folder / f"{name}.safetensors", network.state_dict(), dataclasses.asdict(shape), 0)
    write_perceptual(folder / "perceptual.safetensors")


def small_flow_task(folder: Path, **changes: Any) -> FlowTask:
    """The task of a folder of `write_flow_folder`, without perceptual network and draft unless asked."""
    settings = FlowSettings(
        autoencoder=folder / "autoencoder.safetensors",
        encoder=folder / "encoder.safetensors",
        shape=SMALL_FLOW,
    )
    return FlowTask(dataclasses.replace(settings, **changes), folder, folder / "cache", seed=0, device=CPU)


def small_flow_config(folder: Path, run: Path) -> TrainingConfig:
    """A run of thirty steps."""
    return TrainingConfig(
        task="flow",
        faces=folder,
        cache=folder / "cache",
        run=run,
        batch_size=2,
        images=60,
        learning_rate=3e-3,
        warmup_images=4,
        status_images=10,
        checkpoint_images=60,
        threads=torch.get_num_threads(),
    )


def write_perceptual(path: Path) -> Path:
    """A perceptual network at `path`, which is returned."""
    torch.manual_seed(1)
    widths = dict.fromkeys(("conv11", "conv12"), 4) | dict.fromkeys(PerceptualLoss.names[2:], 6)
    state = {"conv0.weight": torch.eye(3)[:, :, None, None].clone(), "conv0.bias": torch.zeros(3)}
    before = 3
    for name, width in widths.items():
        state |= {
            f"{name}.weight": 0.3 * torch.randn(width, before, 3, 3),
            f"{name}.bias": torch.zeros(width),
        }
        before = width
    save_file(state, path)
    return path
