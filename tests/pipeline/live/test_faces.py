"""Faces of live pictures: one frame in, one picture out, at any step of the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.engine import EngineConfig
from models.fast.restorer import FastRestorer, FastSettings
from models.protocols import Request, Restorer, Result
from pipeline import cli
from pipeline.config import InputConfig, PipelineConfig, RestorerConfig
from pipeline.flow import Parts
from pipeline.frames import FULL, Effort, Frame, RestoredFrame
from pipeline.live import quick
from pipeline.live.addresses import source_address
from pipeline.live.faces import Faces
from pipeline.live.quick import quick_beside
from pipeline.live.remembered import read_views, recall, write_views
from pipeline.live.sources import Opened
from pipeline.media.coding import planes_of
from pipeline.pixels.blend import BlendConfig
from pipeline.pixels.colour import read_crops
from pipeline.pixels.kinds import Pixels
from pipeline.runs.assembly import build
from pipeline.runs.demo import write_damaged_clip
from pipeline.stages.effort import Quick
from pipeline.stages.perception import Perception, PerceptionConfig
from pipeline.stages.restore import RestoreConfig
from support.clips import astronaut
from support.fakes import ColourRecogniser, InvertingRestorer, SquareDetector
from support.live import square_frame, two_squares
from trackers.people import People
from trackers.references import View
from trackers.shots import ShotDetector
from trackers.tracks import NorfairTracker


class Counting(InvertingRestorer):
    """Fails on demand."""

    broken = False

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        if self.broken:
            raise RuntimeError("the device is gone")
        return super().restore(requests)


def faces(
    light: Counting | None = None,
    most_carried: int = 0,
    small: Counting | None = None,
    pixels: Pixels | None = None,
) -> tuple[Faces, Counting, SquareDetector]:
    detector, restorer = SquareDetector(), Counting()
    settings = PerceptionConfig(detect_every=4)
    perception = Perception(
        settings,
        detector=detector,
        recogniser=ColourRecogniser(),
        tracker=NorfairTracker(),
        shots=ShotDetector(),
        people=People(),
        crop_size=64,
    )
    config = PipelineConfig(
        restore=RestoreConfig(most_carried=most_carried, most_still=0, reuse=bool(most_carried))
    )
    # A look-ahead, which live pictures have not, must not hold anything back.
    config = replace(config, track=replace(config.track, lookahead=24, perception=settings))
    parts = Parts(perception, restorer, pixels=pixels or Pixels(), quick=Quick(light, small))
    return Faces(parts, config), restorer, detector


def at(effort: Effort, frame: Frame) -> Frame:
    return replace(frame, effort=effort)


def test_every_frame_leaves_at_once_with_its_face_restored() -> None:
    live, _, _ = faces()
    for index in range(6):
        given = square_frame(index)
        restored, picture = live.restore(given)
        assert restored.tracked.frame is given
        assert len(restored.faces) == 1
        assert np.abs(planes_of(picture)[0].astype(int) - planes_of(given.native)[0]).max() > 20


def test_crops_are_cut_and_faces_blended_the_chosen_way() -> None:
    done: list[str] = []

    def cut(native: av.VideoFrame, matrices: Sequence[NDArray[np.float32]], size: int) -> list[torch.Tensor]:
        done.append(f"{len(matrices)} crop")
        return read_crops(native, matrices, size)

    def put_back(frame: RestoredFrame, config: BlendConfig) -> av.VideoFrame:
        done.append("blended")
        return frame.tracked.frame.native

    live, _, _ = faces(pixels=Pixels(cut, put_back))
    frames = [square_frame(index) for index in range(2)]
    assert all(live.restore(frame)[1] is frame.native for frame in frames)
    assert done == ["1 crop", "blended"] * 2


def test_the_step_says_how_rarely_faces_are_sought() -> None:
    counts = []
    for effort in (FULL, Effort(detection_interval=3)):
        live, _, _ = faces()
        done = [live.restore(at(effort, square_frame(index)))[0] for index in range(25)]
        counts.append(sum(restored.tracked.detected for restored in done))
    assert counts == [7, 3]


def test_the_light_restorer_takes_the_place_of_the_chosen_one_at_its_step() -> None:
    light = Counting()
    live, chosen, _ = faces(light)
    live.restore(square_frame(0))
    assert (len(chosen.batches), len(light.batches)) == (1, 0)
    live.restore(at(Effort(light=True), square_frame(1)))
    assert (len(chosen.batches), len(light.batches)) == (1, 1)
    live.restore(square_frame(2))
    assert (len(chosen.batches), len(light.batches)) == (2, 1)


def test_the_smaller_crop_goes_to_its_own_restorer_and_comes_back() -> None:
    small = Counting(crop_size=48)
    live, chosen, _ = faces(small=small)
    way = (FULL, Effort(small=True), Effort(small=True), FULL)
    sides, places = [], []
    for index, effort in enumerate(way):
        given = square_frame(index)
        restored, picture = live.restore(at(effort, given))
        (face,) = restored.faces
        sides.append((face.tracked.crop.shape[-1], face.image.shape[-1]))
        # The face stays where it is in the picture, whatever the size of its crop.
        changed = np.abs(planes_of(picture)[0].astype(int) - planes_of(given.native)[0]) > 5
        places.append(np.array([where.mean() for where in np.nonzero(changed)]))
    assert sides == [(64, 64), (48, 48), (48, 48), (64, 64)]
    assert max(np.abs(place - places[0]).max() for place in places) < 4
    assert (len(chosen.batches), len(small.batches)) == (2, 2)


def test_a_step_without_its_restorer_leaves_crops_as_they_are() -> None:
    live, chosen, _ = faces()
    restored, _ = live.restore(at(Effort(small=True, light=True), square_frame(0)))
    assert restored.faces[0].image.shape[-1] == 64
    assert len(chosen.batches) == 1


def test_one_face_is_the_largest_and_stays_until_another_is_clearly_larger() -> None:
    live, _, _ = faces()
    alone = Effort(most_faces=1)
    wanted = []
    for index, sides in enumerate([(60, 50)] * 3 + [(60, 66)] * 3 + [(40, 66)] * 3):
        restored, _ = live.restore(at(alone, two_squares(index, *sides)))
        assert len(restored.tracked.faces) == 2
        (face,) = restored.faces
        wanted.append("left" if face.tracked.face.landmarks[:, 0].mean() < 120 else "right")
        (other,) = (f for f in restored.tracked.faces if f.strength == 0)
        assert other.reason == "no time"
    assert wanted == ["left"] * 6 + ["right"] * 3
    restored, _ = live.restore(two_squares(9, 40, 66))
    assert len(restored.faces) == 2


def test_the_quick_restorers_are_those_that_take_less_time() -> None:
    def sides(restorer: Restorer | None, kind: str, **settings: int) -> tuple[int | None, int | None]:
        config = PipelineConfig(restorer=RestorerConfig(kind=kind, **settings))  # type: ignore[arg-type]
        found = quick_beside(restorer, config)
        light, small = (part and part.needs.crop_size for part in (found.light, found.small))
        return light, small

    assert sides(FastRestorer(), "auto") == (None, 192)
    assert sides(FastRestorer(crop_size=512), "fast", crop_size=512) == (None, 256)
    assert sides(FastRestorer(crop_size=192), "fast", crop_size=192) == (None, None)
    assert sides(InvertingRestorer(256), "iconface") == (256, 192)
    assert sides(InvertingRestorer(64), "a.b:C") == (None, None)
    assert sides(None, "none") == (None, None)


def test_quick_restorers_are_where_the_chosen_one_is_and_ready_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[RestorerConfig] = []
    monkeypatch.setattr(quick, "build_restorer", asked.append)
    for kind, restorer in (("fast", FastRestorer()), ("iconface", InvertingRestorer(256))):
        fast = FastSettings(EngineConfig(batch=3))
        config = PipelineConfig(
            restorer=RestorerConfig(kind=kind, device="cuda:1", precision="float32", fast=fast)
        )
        quick.quick_beside(restorer, config)
    assert [(config.kind, config.crop_size) for config in asked] == [
        ("fast", 192),
        ("fast", 256),
        ("fast", 192),
    ]
    assert {config.device for config in asked} == {"cuda:1"}
    assert {config.fast.engine for config in asked} == {EngineConfig("eager", batch=3)}
    assert {config.precision for config in asked} == {"float32"}


def test_two_faces_take_turns_at_the_step_that_says_so() -> None:
    asked = []
    for effort in (FULL, Effort(most_carried=4, least_carried=2, most_asked=1)):
        live, restorer, _ = faces(most_carried=1)
        for index in range(24):
            restored, _ = live.restore(at(effort, two_squares(index, 60, 50)))
            assert len(restored.faces) == 2
        asked.append(restorer.batches)
    assert set(asked[0]) == {2}
    assert asked[1][0] == 2
    assert set(asked[1][1:]) == {1}


def test_the_reuse_step_restores_fewer_faces() -> None:
    counts = []
    for effort in (FULL, Effort(most_carried=12)):
        live, restorer, _ = faces(most_carried=1)
        for index in range(20):
            restored, _ = live.restore(at(effort, square_frame(index)))
            assert len(restored.faces) == 1
        counts.append(len(restorer.batches))
    assert counts[1] <= counts[0] // 3


def test_after_an_error_and_a_restart_faces_are_restored_again() -> None:
    live, restorer, _ = faces()
    live.restore(square_frame(0))
    restorer.broken = True
    with pytest.raises(RuntimeError):
        live.restore(square_frame(1))
    restorer.broken = False
    live.restart()
    restored, _ = live.restore(square_frame(2))
    assert len(restored.faces) == 1


def test_a_restart_takes_nothing_over() -> None:
    live, restorer, _ = faces(most_carried=8)
    first, _ = live.restore(square_frame(0))
    live.restore(square_frame(1))
    assert len(restorer.batches) == 1
    live.restart()
    again, _ = live.restore(square_frame(2))
    assert again.faces[0].origin == "network"
    assert again.faces[0].tracked.track_id != first.faces[0].tracked.track_id


def test_warm_up_calls_every_restorer_and_leaves_no_trace() -> None:
    light, small = Counting(), Counting(crop_size=48)
    live, chosen, _ = faces(light, most_carried=8, small=small)
    live.warm_up(square_frame(0))
    assert chosen.batches
    assert light.batches
    assert small.batches
    restored, _ = live.restore(square_frame(0))
    assert restored.faces[0].origin == "network"
    assert restored.tracked.detected


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    write_damaged_clip(path, frames=10)
    return path


def test_a_reference_serves_from_the_first_frame_on(clip: Path, tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    Image.fromarray(astronaut()).save(photo)
    known = []
    for references in ((), (str(photo),)):
        config = PipelineConfig(
            input=InputConfig(references=references), restorer=RestorerConfig(kind="none")
        )
        with Opened(source_address(str(clip)), 1) as source:
            parts = build(config, source)
            restored, picture = Faces(parts, config).restore(Frame(0, 0, Fraction(1, 25), source.first))
            assert picture is source.first  # nothing was restored: the decoder's own
        (face,) = restored.tracked.faces
        known.append((len(face.references), face.person_id in parts.perception.people.photos()))
    assert known[1] == (known[0][0] + 1, True)


def test_who_is_remembered_is_there_from_the_first_frame_of_the_next_call(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "me.faces"
    command = [
        "live",
        str(clip),
        "null:",
        "--restorer",
        "none",
        "--progress",
        "none",
        # Frames may be late on a busy machine; the last ones are waited for.
        "--set",
        "live.most_delay_ms=20000",
        "--remember",
        str(file),
    ]
    assert cli.main(command[:-2]) == 0
    assert list(tmp_path.iterdir()) == []  # nothing is kept that nobody asked for
    assert cli.main(command) == 0
    assert f"views saved in {file}" in capsys.readouterr().err
    assert file.stat().st_mode & 0o077 == 0
    config = PipelineConfig(restorer=RestorerConfig(kind="none"))
    with Opened(source_address(str(clip)), 1) as source:
        parts = build(config, source)
        recall(file, parts.perception)
        restored, _ = Faces(parts, config).restore(Frame(0, 0, Fraction(1, 25), source.first))
    (face,) = restored.tracked.faces
    assert len(face.references) >= 1
    assert (face.person_id, len(parts.perception.people)) == (0, 1)
    views = read_views(file, parts.perception.recogniser.name, 256)
    assert not any(view.pinned for view in views)


def test_a_file_that_remembers_nobody_who_is_known_here_is_one_sentence(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "me.faces"
    view = View(torch.zeros(3, 64, 64, dtype=torch.uint8), np.ones(128, np.float32), 1.0, 0)
    write_views(file, [view], "another recogniser")
    command = ["live", str(clip), "null:", "--restorer", "none", "--remember", str(file)]
    assert cli.main(command) == 4
    assert "holds views of another recogniser" in capsys.readouterr().err
    file.write_bytes(b"nonsense")
    assert cli.main(command) == 4
    assert "not a file of --remember" in capsys.readouterr().err


def test_the_command_restores_in_real_time_and_says_how_late(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mkv"
    command = ["live", str(clip), str(output), "--restorer", "none", "--progress", "none"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "10 frames in" in told
    assert "delay: p50" in told
    with av.open(str(output)) as container:
        assert 1 <= sum(1 for _ in container.decode(video=0)) <= 10


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "camera:0 vcam:"),
        (["camera:No Such Camera", "null:"], 4, "neither a file nor a camera"),
        (["/no/such/file.mp4", "null:"], 4, "no such file"),
        (["rtsp://127.0.0.1:1/a", "null:"], 4, "cannot be read"),
        (["{clip}", "out.gif"], 4, "not written"),
        (["{clip}", "ftp://host/a"], 2, "ftp:// is not written"),
        (["{clip}", "null:", "--duration", "0"], 2, "--duration"),
        (["{clip}", "{clip}", "--overwrite"], 4, "same file as the input"),
        (["{clip}", "null:", "--rate", "0"], 2, "--rate must be above 0"),
        (["{clip}", "null:", "--size", "large"], 2, "--size must look like 1280x720"),
        (["{clip}", "null:", "--set", "live.ladder.calm=2"], 2, "calm must be above 0"),
    ],
)
def test_wrong_input_is_one_sentence(
    clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    assert cli.main(["live", *(part.format(clip=clip) for part in arguments)]) == code
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1


def test_the_list_of_cameras_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["live", "--list"]) == 0
    assert "camera" in capsys.readouterr().out
