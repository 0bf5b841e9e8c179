"""Nobody becomes somebody else: restored faces that lose the person are held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.align import ffhq_to_arcface
from models.detector import CenterFaceDetector
from models.pictures import recogniser_crop
from models.protocols import References, Request, Result
from models.recogniser import EmbeddedRecogniser, Likeness, LikenessMeter, likeness
from pipeline import PipelineConfig, Report
from pipeline.flow import Chain, Hooks, Parts, run
from pipeline.frames import RestoredFace, RestoredFrame
from pipeline.pixels.blend import BlendConfig, blend
from pipeline.pixels.colour import read_crop
from pipeline.runs.assembly import build, open_source
from pipeline.stages.gate import Gate, GateConfig, allowed_by, gate
from pipeline.stages.restore import RestoreConfig, restore
from support.clips import astronaut, write_clip
from support.fakes import IdentityRestorer, tracked_face, tracked_frame

PICTURES = Path(__file__).parents[3] / "docs" / "before_after_portraits.jpg"
"""Of two people, CC BY 4.0."""


class Brightness:
    """Stands for an encoder: the brighter a crop, the farther its embedding is turned, up to a half turn."""

    name = "brightness"
    same_person = 0.5
    clear_norm = 1.0

    def __init__(self) -> None:
        self.crops = 0

    def embed(self, crops: Tensor) -> Tensor:
        self.crops += len(crops)
        angle = crops.float().mean((1, 2, 3)) / 255 * np.pi
        return torch.stack([angle.cos(), angle.sin()], 1)


def plain(level: int) -> Tensor:
    return torch.full((3, 64, 64), level, dtype=torch.uint8)


def faces(levels: Sequence[int], *, origins: str = "") -> list[RestoredFrame]:
    """One track whose crops are of brightness 90 and restored to `levels`; `origins`: n or c for each frame."""
    frames = []
    for index, level in enumerate(levels):
        face = tracked_face()
        origin = "carried" if origins[index : index + 1] == "c" else "network"
        frames.append(
            RestoredFrame(tracked_frame(index, [face]), (RestoredFace(face, plain(level), origin=origin),))
        )
    return frames


def passed(frames: list[RestoredFrame], **settings: object) -> list[float]:
    """What the gate allows of the one face of each frame."""
    keeper = Gate(GateConfig(**{"every": 1, **settings}), LikenessMeter(Brightness()))
    return [frame.faces[0].allowed for frame in gate(frames, keeper)]


def test_less_is_allowed_the_more_of_the_person_is_lost() -> None:
    allowed = [allowed_by(Likeness(1, 0, loss), GateConfig()) for loss in (-0.2, 0.2, 0.275, 0.35, 1.0)]
    assert allowed == [1, 1, pytest.approx(0.5), 0, 0]


def test_without_a_clear_view_a_face_is_held_back_only_where_it_is_a_stranger() -> None:
    """A true face loses up to .6 against a severely degraded one, another's .6 and more (`docs/gate.md`)."""
    unclear = [
        allowed_by(Likeness(1, 0, loss, evidence=0), GateConfig()) for loss in (0.2, 0.5, 0.65, 0.75, 1)
    ]
    assert unclear == [1, 1, pytest.approx(0.5), 0, 0]
    assert allowed_by(Likeness(1, 0, 0.5), GateConfig()) == 0


def test_a_view_is_clear_by_its_detail() -> None:
    face = portrait_of_another()
    picture = np.ascontiguousarray(face.permute(1, 2, 0).numpy())
    lost = torch.from_numpy(cv2.GaussianBlur(picture, (0, 0), 9)).permute(2, 0, 1).contiguous()
    meter = LikenessMeter(EmbeddedRecogniser())
    told = References((face,), torch.zeros(1, 128), 1)
    assert meter.measure(lost, face, References()).evidence == 0
    assert meter.measure(face, face, References()).evidence == 1
    assert meter.measure(lost, face, told).evidence == 1


def test_a_result_between_the_input_and_the_references_loses_nothing() -> None:
    degraded, anchor = torch.tensor([3.0, 0, 0]), torch.tensor([0.0, 1, 0])
    between, stranger = torch.tensor([1.0, 1, 0]), torch.tensor([0.0, 0, 2])
    assert likeness(degraded, degraded, anchor).loss == pytest.approx(0)
    assert likeness(degraded, anchor, anchor).loss == pytest.approx(0, abs=1e-6)
    assert likeness(degraded, between, anchor).loss == pytest.approx(0.5**0.5 - 1)
    lost = likeness(degraded, stranger, anchor)
    assert (lost.before, lost.after, lost.loss) == (0, 0, pytest.approx(0.5**0.5))


def test_without_references_the_input_is_its_own_anchor() -> None:
    degraded, other = torch.tensor([2.0, 0]), torch.tensor([3.0, 4])
    assert likeness(degraded, other, None) == Likeness(1, pytest.approx(0.6), pytest.approx(0.4))


def test_the_anchor_is_of_the_references_crops_by_the_meters_own_encoder() -> None:
    encoder = Brightness()
    references = References((plain(128), plain(128)), torch.zeros(2, 512), 1)
    meter = LikenessMeter(encoder)
    found = meter.measure(plain(0), plain(128), references)
    assert (found.before, found.after) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    meter.measure(plain(0), plain(128), references)
    assert encoder.crops == 2 + 2 + 2  # the references once, two faces each time


def test_the_recognisers_crop_is_cut_at_the_same_place_for_every_size() -> None:
    picture = cv2.resize(astronaut()[:256, 100:356], (512, 512), interpolation=cv2.INTER_CUBIC)
    views = [
        recogniser_crop(
            torch.from_numpy(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
        )
        for side in (256, 512)
    ]
    assert (views[0].float() - views[1].float()).abs().mean() < 3
    corner = ffhq_to_arcface(256) @ np.array([128, 128, 1])
    assert views[0][:, int(corner[1]), int(corner[0])].float() == pytest.approx(
        picture[256, 256].astype(np.float32), abs=25
    )


def test_a_face_that_becomes_another_from_the_start_is_never_shown() -> None:
    assert passed(faces([250] * 4)) == [0] * 4


def test_strength_eases_down_when_the_person_is_lost_and_comes_back() -> None:
    allowed = passed(faces([90] * 2 + [250] * 6 + [90] * 6), ease_frames=4)
    assert allowed == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])


def test_carried_faces_have_the_standing_of_their_keyframe() -> None:
    allowed = passed(faces([90, 250, 250, 250], origins="nccn"), ease_frames=0)
    assert allowed == [1, 1, 1, 0]


def test_only_every_second_keyframe_is_measured() -> None:
    encoder = Brightness()
    keeper = Gate(GateConfig(every=2, ease_frames=0), LikenessMeter(encoder))
    done = list(gate(faces([90, 250, 250, 90, 90, 90], origins="nncnnc"), keeper))
    assert [frame.faces[0].allowed for frame in done] == [1, 1, 1, 1, 1, 1]
    assert encoder.crops == 2 * 2
    done = list(
        gate(faces([90, 250, 250, 90], origins="nnnn"), Gate(GateConfig(every=2), LikenessMeter(encoder)))
    )
    assert [frame.faces[0].allowed for frame in done] == pytest.approx([1, 1, 0.8, 0.6])


def test_a_track_that_comes_back_starts_afresh() -> None:
    frames = faces([250, 90])
    away = RestoredFrame(tracked_frame(5, []), ())
    keeper = Gate(GateConfig(), LikenessMeter(Brightness()))
    assert [
        [face.allowed for face in frame.faces] for frame in gate([frames[0], away, frames[1]], keeper)
    ] == [[0], [], [1]]


def test_parts_of_a_film_give_what_the_whole_gives() -> None:
    frames = faces([90, 90, 250, 250, 250, 90, 90, 90, 90], origins="nnnncncnn")
    whole = Gate(GateConfig(), LikenessMeter(Brightness()))
    expected = [frame.faces[0].allowed for frame in gate(frames, whole)]
    first, second = (Gate(GateConfig(), LikenessMeter(Brightness())) for _ in range(2))
    found = [frame.faces[0].allowed for frame in gate(frames[:4], first)]
    second.go_on_from(first.last)
    assert found + [frame.faces[0].allowed for frame in gate(frames[4:], second)] == expected
    assert min(expected) < 1


def test_what_is_not_allowed_is_not_blended() -> None:
    frame = faces([250])[0]
    half = replace(frame, faces=(replace(frame.faces[0], allowed=0.5),))
    none = replace(frame, faces=(replace(frame.faces[0], allowed=0.0),))
    config = BlendConfig(colour_match=0, grain=0)
    before = frame.tracked.frame.native
    whole, part = (blend(each, config).to_ndarray()[48, 48] - 90.0 for each in (frame, half))
    assert part == pytest.approx(whole / 2, abs=1)
    assert whole > 50
    assert blend(none, config) is before


def test_the_report_counts_and_tells_what_was_held_back() -> None:
    report = Report()
    keeper = Gate(GateConfig(every=1, ease_frames=2), LikenessMeter(Brightness()))
    references = References((plain(90),), torch.zeros(1, 2), 1)
    frames = faces([90, 250, 250, 250])
    for frame in frames:
        told = replace(frame.faces[0].tracked, references=references, person_id=7)
        report.add(keeper.look(replace(frame, faces=(replace(frame.faces[0], tracked=told),))))
    assert (report.held_back, report.held_back_fully) == (3, 2)
    assert report.likeness()[7] == (pytest.approx(1), pytest.approx(-0.04, abs=0.01))
    assert "identity: 3 of these faces were held back, 2 of them fully" in report.summary()
    assert report.as_dict()["likeness"]["7"]["before"] == 1
    report.merge_people(lambda person: 3)
    assert list(report.likeness()) == [3]


def test_a_sound_restoration_is_not_mentioned() -> None:
    report = Report()
    for frame in gate(faces([90, 95]), Gate(GateConfig(), LikenessMeter(Brightness()))):
        report.add(frame)
    assert "identity" not in report.summary()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"loss": (0.2, 0.3)}, "larger first"),
        ({"unclear_loss": (0.2, 0.3)}, "unclear_loss"),
        ({"every": 0}, "every"),
        ({"ease_frames": -1}, "ease_frames"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        GateConfig(**settings)


def portrait_of_another() -> Tensor:
    """The aligned face, uint8 (3, 256, 256), of somebody who is not the astronaut."""
    from pipeline.media.photos import PhotoSource
    from pipeline.pixels.geometry import Geometry

    (frame,) = PhotoSource(PICTURES)
    found = CenterFaceDetector().detect(np.asarray(Image.open(PICTURES).convert("RGB")))
    return read_crop(frame.native, Geometry().crop_matrix(found[0].landmarks, 256), 256)


class Impostor(IdentityRestorer):
    """Restores everybody to one and the same stranger."""

    def __init__(self) -> None:
        super().__init__(256)
        self.stranger = portrait_of_another()

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        return [Result(self.stranger.clone()) for _ in requests]


class Kept:
    """Counts the frames that are not the decoder's own."""

    def __init__(self) -> None:
        self.changed = 0

    def arrange(self, before: object, after: object) -> object:
        self.changed += before is not after
        return after

    def write(self, native: object, pts: int) -> None: ...


def restored_by(restorer: object, clip: Path, *changes: str) -> tuple[Kept, Report]:
    """A run with the shipped networks, but with this restorer."""
    import configs

    config = configs.load(PipelineConfig, None, changes)
    source = open_source(clip, config)
    parts = replace(build(config, source), restorer=restorer)
    sink, report = Kept(), Report()
    run(source, sink, Chain(parts, config), Hooks(report, arrange=sink.arrange))
    return sink, report


def test_a_restorer_that_returns_another_face_changes_nothing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=8, width=320, height=240)
    sink, report = restored_by(Impostor(), clip)
    assert (report.restored, report.held_back_fully, sink.changed) == (8, 8, 0)
    assert "8 of them fully" in report.summary()
    unwatched, report = restored_by(Impostor(), clip, "gate.enabled=false")
    assert (report.held_back, unwatched.changed) == (0, 8)


def test_the_shipped_restorer_is_not_held_back(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=8, width=320, height=240)
    config = PipelineConfig()
    source = open_source(clip, config)
    sink, report = Kept(), Report()
    run(source, sink, Chain(build(config, source), config), Hooks(report, arrange=sink.arrange))
    assert (report.restored, report.held_back, sink.changed) == (8, 0, 8)
    (likeness_of_her,) = report.likeness().values()
    assert min(likeness_of_her) > 0.9


@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_is_allowed_does_not_depend_on_batches(batch_size: int) -> None:
    frames = [tracked_frame(index, [tracked_face(1), tracked_face(2)]) for index in range(6)]

    class Wavering(IdentityRestorer):
        """Gives each face more light than the last."""

        given = 0

        def restore(self, requests: Sequence[Request]) -> list[Result]:
            results = []
            for _ in requests:
                self.given += 1
                results.append(Result(plain(90 + 12 * self.given)))
            return results

    keeper = Gate(GateConfig(every=1), LikenessMeter(Brightness()))
    config = RestoreConfig(batch_size, reuse=False)
    done = [
        face.allowed for frame in gate(restore(frames, Wavering(), config), keeper) for face in frame.faces
    ]
    assert done[0] == 1
    assert done[-1] < 1
    expected = Gate(GateConfig(every=1), LikenessMeter(Brightness()))
    alone = restore(frames, Wavering(), RestoreConfig(3, reuse=False))
    assert done == [face.allowed for frame in alone for face in expected.look(frame).faces]


def test_embeddings_are_the_shipped_encoders(tmp_path: Path) -> None:
    """Whatever recogniser a run has, as the thresholds are in one encoder's space."""
    clip = write_clip(tmp_path / "in.mp4", frames=2, width=64, height=48)
    config = PipelineConfig()
    parts: Parts = build(config, open_source(clip, config))
    assert parts.gate is not None
    assert isinstance(parts.gate._meter._encoder, EmbeddedRecogniser)
