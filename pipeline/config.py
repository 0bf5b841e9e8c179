"""All settings of a run: one field per part, each part's settings beside the part itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from models.engine import EngineConfig
from models.fast.restorer import CROP_SIZES
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

MOST_STEPS = 1000
"""Noise levels that flow models are trained to tell apart; more steps than that say nothing new."""


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
    """Gallery of the people in the film, a folder made by `scan`; none = nobody is known by name."""
    only: tuple[str, ...] = ()
    """Names of the gallery's people who are restored, and nobody else; empty = as the gallery says."""
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
    """Which network tells people apart."""

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
    on screen, at four times the cost; 192 keeps less detail in two thirds of the time."""
    allow_pickle: bool = False
    """Accept a `.pth`, `.pt` or `.ckpt` checkpoint (read with weights_only)."""
    klein: str = "black-forest-labs/FLUX.2-klein-4B"
    """Model of `klein`: its name in the hub's cache (this one or `-base-4B`), or a folder of the same layout."""
    adapter: Path | None = None
    """Adapter that teaches `klein` to restore: `lora_weights.safetensors` or one of ours; none = klein as it is."""
    prompt: str | None = None
    """What `klein` is told to make of a face; none = the prompt that lies encoded with the model, or else ours."""
    steps: int | None = None
    """Passes of `iconface` or `klein` for each face; none = as many as the model was made for."""
    guidance: float | None = None
    """How far `iconface` goes towards the references, and `klein` towards its prompt: 1 = just there, at no extra
    cost; none = as the model was made for."""
    image_guidance: float | None = None
    """How far `iconface` goes towards the degraded face: 1 = just there, at no extra cost; none = as the model was
    made for."""
    average_references: bool = False
    """Let `iconface` look at each reference by itself and average, as in RefID, instead of at all of them at once."""
    seed: int = 42
    """Seed of the noise that `iconface` and `klein` start from."""
    own_noise: bool = False
    """Give each face that `iconface` restores noise of its own instead of one for all (for comparison)."""
    previous_sigma: float = 1.0
    """Where a face changed little, `iconface` begins at what it made of it before, noised to this level: above 0.05,
    with in proportion fewer steps; 1 always begins with noise alone. Less than 1 needs `restore.previous`."""
    most_change: float = 0.3
    """Share by which the tokens of a face may have changed since `iconface` last worked on its track, at most, for what
    it added then to be added again, at about half the time; 0 = it always works. On a GPU it always does."""
    previous_group: bool = True
    """Let `iconface` see what it made of the face before, if it is told (`restore.previous`) and made for it."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How `fast` runs on a GPU."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.crop_size not in CROP_SIZES:
            raise ValueError(f"crop_size must be one of {CROP_SIZES}, got {self.crop_size}")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt must not be empty; none is the usual one")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be between 1 and {MOST_STEPS}, got {self.steps}")
        for name in ("guidance", "image_guidance"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if not 0.05 < self.previous_sigma <= 1:
            raise ValueError(f"previous_sigma must be above 0.05 and at most 1, got {self.previous_sigma}")
        if not (math.isfinite(self.most_change) and self.most_change >= 0):
            raise ValueError(f"most_change must be finite and not negative, got {self.most_change}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}")


@dataclass(frozen=True, slots=True)
class MaskerConfig:
    """What keeps hands, microphones and hair before a face as they are."""

    kind: str = "none"
    """`none`, or a part of your own as `package.module:Class` (see Masker in models/protocols.py)."""


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """All settings of one run."""

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
        if self.restorer.previous_sigma < 1 and not self.restore.previous:
            raise ValueError(
                "restorer.previous_sigma below 1 needs the face before; add restore.previous=true"
            )
