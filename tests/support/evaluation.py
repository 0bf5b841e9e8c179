"""Folders, a checkpoint and a command line for the tests of the evaluation."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.evaluation import __main__ as evaluate
from models.iconface.model import IconFaceModel
from models.iconface.shape import AutoencoderShape, IconFaceShape
from models.weights import save_checkpoint
from support.clips import astronaut


def folder_of_faces(folder: Path, views: int = 2) -> Path:
    """Two people with `views` pictures each, the later ones darker."""
    folder.mkdir()
    rows = []
    for person, picture in enumerate((astronaut(), astronaut()[::-1])):
        for view in range(views):
            image = (picture if view % 2 else picture[:, ::-1]) // (1 + view // 2)
            file = f"{person}_{view}.png"
            cv2.imwrite(str(folder / file), np.ascontiguousarray(image[..., ::-1]))
            rows.append((file, f"person {person}", 512))
    return write_index(folder, rows)


def write_index(folder: Path, rows: list[tuple[str, str, int]]) -> Path:
    """Rows of file, identity and true_px."""
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "identity", "origin", "true_px"])
        writer.writerows((file, identity, "test", true_px) for file, identity, true_px in rows)
    return folder


def evaluate_with(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--no-judge", "--threads", "1", *words])
    evaluate.main()


def save_iconface(path: Path, rows: int = 16) -> Path:
    """A checkpoint in which nothing is zero, for crops of 16 * `rows` pixels."""
    shape = IconFaceShape(
        heads=2,
        head_width=16,
        double_blocks=1,
        single_blocks=1,
        rotary=(4, 4, 4, 4),
        channels=16,
        rows=rows,
        context=12,
        high_tokens=1,
        low_tokens=2,
        identity_width=16,
        memory=4,
        memory_width=16,
        read_width=8,
    )
    torch.manual_seed(0)
    codec = AutoencoderShape(widths=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), latent=4)
    model = IconFaceModel(shape, codec)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    save_checkpoint(path, model.state_dict(), model.shapes(), 7)
    return path
