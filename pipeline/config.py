"""All settings of a run: one field per part, each part's settings beside the part itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar

from configs.document import documented
from models.aligned.restorer import AlignedSettings
from models.engine import EngineConfig
from models.fast.restorer import CROP_SIZES, FastSettings
from models.iconface.settings import SEED, IconFaceSettings, KleinSettings
from models.precision import PRECISIONS
from pipeline.live.settings import LiveConfig
from pipeline.media.encode import EncodeConfig
from pipeline.media.fields import MODES
from pipeline.media.hardware import DecodeConfig
from pipeline.pixels.blend import BlendConfig
from pipeline.pixels.kinds import PixelsConfig
from pipeline.serve.settings import ServeConfig
from pipeline.stages.gate import GateConfig
from pipeline.stages.restore import RestoreConfig
from pipeline.stages.track import TrackConfig
from trackers.people import PeopleConfig
from trackers.shots import ShotConfig
from trackers.tracks import TrackerConfig


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What of the input is used."""

    start_seconds: float = 0.0
    """Skip this much of the beginning (a trial)."""
    duration_seconds: float | None = None
    """Stop after this much (a trial); none = to the end."""
    strict: bool = False
    """Fail on the first damaged packet, or photo of a folder, instead of keeping what can be decoded."""
    deinterlace: str = "none"
    """Make whole frames of interlaced ones: `frame`, one for each at its own time; `field`, two for each; `none`."""
    references: tuple[str, ...] = ()
    """Photos, folders of photos, or clips of the people in the film."""
    people: Path | None = None
    """Gallery of the people in the film, a folder made by `scan`; none = no person is known by name."""
    only: tuple[str, ...] = ()
    """Names of the gallery's people who are restored, no others; empty = as the gallery says."""
    skip: tuple[str, ...] = ()
    """Names of the gallery's people who are left as they are."""
    two_passes: bool = False
    """Look through the whole film first, so that best views of later scenes serve earlier ones."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.start_seconds) or not math.isfinite(self.duration_seconds or 0):
            raise ValueError(
                f"start_seconds and duration_seconds must be finite, got {self.start_seconds}, {self.duration_seconds}"
            )
        if (self.only or self.skip) and self.people is None:
            raise ValueError("--only and --skip name people of a gallery; give it with --people FOLDER")
        if self.two_passes and self.people is not None:
            raise ValueError(
                "a gallery already knows the whole film; give --people or --two-passes, not both"
            )
        if self.start_seconds < 0:
            raise ValueError(f"start_seconds must not be negative, got {self.start_seconds}")
        if self.duration_seconds is not None and self.duration_seconds <= 0:
            raise ValueError(f"duration_seconds must be above 0, got {self.duration_seconds}")
        if self.deinterlace not in MODES:
            raise ValueError(f"deinterlace must be one of {', '.join(MODES)}, got {self.deinterlace!r}")


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """What becomes of the output."""

    compare: bool = False
    """Write before and after side by side, with captions."""
    overwrite: bool = False
    """Replace an existing output file."""
    report: Path | None = None
    """Write what was done to whom as a page, `NAME.html`; none = no page."""
    c2pa: Path | None = None
    """Sign a manifest of what was done with the certificates and the key in this PEM file; none = no manifest."""
    references_log: Path | None = None
    """Write which references each face was restored with, a line of JSON for each stretch; none = no such file."""


@dataclass(frozen=True, slots=True)
class ChunkConfig:
    """How a film is cut into chunks, which are kept beside the output until it is complete."""

    resume: bool = False
    """Keep finished chunks in the folder OUT.parts, and continue from existing ones."""
    workers: int = 1
    """Processes that restore chunks in parallel."""
    ray: str | None = None
    """Address of a Ray cluster that restores the chunks, HOST:PORT or ray://HOST:PORT; `auto` = the cluster of
    RAY_ADDRESS or of this machine, else one started here; none = processes of this machine."""
    seconds: float = 20.0
    """Minimum length of a chunk, which ends at the next cut; twice as long is the maximum."""

    @property
    def asked_for(self) -> bool:
        """Whether the film is restored in chunks."""
        return self.resume or self.workers > 1 or self.ray is not None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds must be finite and above 0, got {self.seconds}")


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """How people are found in films (`scan` and `--two-passes`)."""

    every_seconds: float = 0.5
    """Time between two sampled frames; shorter appearances may be missed."""
    detect_width: int = 768
    """Width in pixels of the picture for detection; a larger one finds smaller faces."""
    views: int = 6
    """Maximum best views kept per person."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.every_seconds) and self.every_seconds > 0):
            raise ValueError(f"every_seconds must be finite and above 0, got {self.every_seconds}")
        if not 64 <= self.detect_width <= 4096:
            raise ValueError(f"detect_width must be between 64 and 4096, got {self.detect_width}")
        if self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Which detector finds faces."""

    kind: str = "centerface"
    """`centerface` (ships with the package), or an SCRFD `.onnx`, an insightface model folder or pack
    (`buffalo_l`), or a part of your own as `package.module:Class`."""
    min_score: float = 0.5
    """Detections below this confidence are dropped."""

    def __post_init__(self) -> None:
        if not 0 < self.min_score < 1:
            raise ValueError(f"min_score must be between 0 and 1, got {self.min_score}")


@dataclass(frozen=True, slots=True)
class RecogniserConfig:
    """Which network recognises people."""

    kind: str = "embedded"
    """`embedded`, an AdaFace checkpoint (`.safetensors`), an ArcFace `.onnx`, or `package.module:Class`."""
    same_person: float | None = None
    """Cosine similarity from which two clear views are the same person; none = the recogniser's own."""
    allow_pickle: bool = False
    """Accept a `.pth` or `.ckpt` checkpoint (read with weights_only)."""


@dataclass(frozen=True, slots=True)
class RestorerConfig:
    """Which network restores faces."""

    kind: str = "auto"
    """`auto` (`aligned`; `fast` for live video), `aligned`, `fast`, `iconface`, `klein`, `none` (find and follow only),
    the path of a checkpoint (ours, or a face restorer that spandrel knows: GFPGAN, RestoreFormer, CodeFormer), or
    `package.module:Class`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`."""
    precision: str = "auto"
    """Precision of products in `aligned`, `fast` and `iconface`: `float32`, `bfloat16`, `float16` (CUDA only), or
    `auto`: bfloat16 where the hardware multiplies it natively (CPUs with AMX or AVX512-BF16, GPUs from compute
    capability 8.0), else float32."""
    crop_size: int = 256
    """Side in pixels of the crops: 192 (`fast` only), 256 or 512. 512 keeps more detail of faces larger than 256 pixels
    on screen, at four times the cost; 192 keeps less detail in two thirds of the time. Other restorers than `aligned`
    and `fast` have a size of their own."""
    allow_pickle: bool = False
    """Accept a `.pth`, `.pt` or `.ckpt` checkpoint (read with weights_only)."""
    seed: int = SEED
    """Seed of the noise from which `iconface` and `klein` start."""
    aligned: AlignedSettings = field(default_factory=AlignedSettings)
    fast: FastSettings = field(default_factory=FastSettings)
    iconface: IconFaceSettings = field(default_factory=IconFaceSettings)
    klein: KleinSettings = field(default_factory=KleinSettings)

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.crop_size not in CROP_SIZES:
            raise ValueError(f"crop_size must be one of {CROP_SIZES}, got {self.crop_size}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}")

    def instead(self, kind: str) -> RestorerConfig:
        """The same settings for the restorer `kind`, with its usual crop size."""
        return replace(self, kind=kind, crop_size=RestorerConfig().crop_size)


@dataclass(frozen=True, slots=True)
class MaskerConfig:
    """What keeps hands, microphones and hair before a face as they are."""

    kind: str = "none"
    """`none`, or a part of your own as `package.module:Class` (see Masker in models/protocols.py)."""


RENAMED: Mapping[str, tuple[str, ...]] = {
    "restorer.klein": ("restorer.klein.model",),
    "restorer.adapter": ("restorer.klein.adapter",),
    "restorer.prompt": ("restorer.klein.prompt",),
    **{f"restorer.{name}": (f"restorer.iconface.{name}", f"restorer.klein.{name}") for name in ("steps", "guidance")},
    **{
        f"restorer.{name}": (f"restorer.iconface.{name}",)
        for name in (
            "image_guidance", "average_references", "own_noise", "previous_sigma", "most_change", "previous_group"
        )
    },
    **{f"restorer.engine.{each.name}": (f"restorer.fast.engine.{each.name}",) for each in fields(EngineConfig)},
}  # fmt: skip
"""Earlier names of settings, which are still accepted, and the present ones."""


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """All settings of one run."""

    renamed: ClassVar[Mapping[str, tuple[str, ...]]] = RENAMED
    """For `configs.load`."""
    input: InputConfig = field(default_factory=InputConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    chunks: ChunkConfig = field(default_factory=ChunkConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    shots: ShotConfig = field(default_factory=ShotConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    restorer: RestorerConfig = field(default_factory=RestorerConfig)
    masker: MaskerConfig = field(default_factory=MaskerConfig)
    restore: RestoreConfig = field(default_factory=RestoreConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    scan: ScanConfig = field(default_factory=ScanConfig)
    depth: int = 4
    """Frames that may wait between two stages; 0 runs all stages in one thread."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError(f"depth must not be negative, got {self.depth}")
        if self.restorer.iconface.previous_sigma < 1 and not self.restore.previous:
            raise ValueError(
                "restorer.iconface.previous_sigma below 1 needs the previous restoration; add restore.previous=true"
            )


def default_file() -> str:
    """The text of configs/default.toml (`./just defaults` writes it)."""
    return (
        "# Every setting with its default. Copy what you want to change into a file of your own and pass it with\n"
        "# --config; a single one is changed with --set, for example --set track.lookahead=48.\n\n"
        + documented(PipelineConfig())
    )
