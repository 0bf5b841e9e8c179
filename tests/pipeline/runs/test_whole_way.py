"""From file to file with the shipped models, on clips made from the astronaut's portrait."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import PipelineConfig, Report, restore_video
from pipeline.config import InputConfig
from pipeline.errors import SourceError
from pipeline.frames import Frame, TrackedFrame
from pipeline.media.encode import EncodeConfig
from pipeline.pixels.blend import BlendConfig
from pipeline.runs.assembly import build, open_source
from pipeline.stages.track import track
from support.clips import astronaut, packets, picture, write_clip
from trackers.references import View

LOSSLESS = replace(PipelineConfig(), encode=EncodeConfig(codec="ffv1"))
Scene = Callable[[int], NDArray[np.uint8]]


def portrait(index: int) -> NDArray[np.uint8]:
    """The astronaut, moving slowly: uint8 (240, 320, 3)."""
    return picture(index, 320, 240)


def sideways(index: int) -> NDArray[np.uint8]:
    """The same as a phone held upright stores it: a quarter turn clockwise."""
    return np.ascontiguousarray(np.rot90(portrait(index), -1))


def grey(index: int) -> NDArray[np.uint8]:
    return np.repeat(portrait(index).mean(-1, keepdims=True), 3, -1).astype(np.uint8)


def squeezed(index: int) -> NDArray[np.uint8]:
    """Shown twice as wide as it is stored."""
    return np.ascontiguousarray(picture(index, 320, 240)[:, ::2])


def write(
    path: Path, view: Scene, *, frames: int = 12, rotation: int = 0, aspect: Fraction | None = None
) -> Path:
    height, width = view(0).shape[:2]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(view(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def seen(path: Path, config: PipelineConfig = LOSSLESS) -> list[TrackedFrame]:
    """What the track stage sees in a clip."""
    source = open_source(path, config)
    return list(track(source, build(config, source).perception, config.track, crops=True))


def open_people(path: Path, config: PipelineConfig) -> list[View]:
    """The views that are there before the first frame."""
    people = build(config, open_source(path, config)).perception.people
    return [view for person in people.photos() for view in people.references(person).views]


@pytest.mark.parametrize(
    ("view", "rotation", "aspect"),
    [(portrait, 0, None), (sideways, 90, None), (squeezed, 0, Fraction(2, 1))],
    ids=["plain", "rotated", "anamorphic"],
)
def test_the_face_is_found_upright_and_restored(
    view: Scene, rotation: int, aspect: Fraction | None, tmp_path: Path
) -> None:
    clip = write(tmp_path / "in.mp4", view, rotation=rotation, aspect=aspect)
    report = restore_video(clip, tmp_path / "out.mkv", LOSSLESS)
    assert (report.frames, report.restored, report.people) == (12, 12, {0})
    before, after = pictures(clip), pictures(tmp_path / "out.mkv")
    assert all((a != b).mean() > 0.02 for a, b in zip(before, after, strict=True))


def test_crops_of_a_rotated_and_a_stretched_clip_show_the_same_face(tmp_path: Path) -> None:
    crops = []
    for name, view, rotation, aspect in (
        ("plain", portrait, 0, None),
        ("rotated", sideways, 90, None),
        ("stretched", squeezed, 0, Fraction(2, 1)),
    ):
        clip = write(tmp_path / f"{name}.mp4", view, rotation=rotation, aspect=aspect)
        crops.append(seen(clip)[6].faces[0].crop.numpy().astype(np.float32))
    for other in crops[1:]:
        assert np.corrcoef(crops[0].ravel(), other.ravel())[0, 1] > 0.95


def test_most_of_the_picture_keeps_its_bits(tmp_path: Path) -> None:
    clip = write(tmp_path / "in.mp4", portrait)
    restore_video(clip, tmp_path / "out.mkv", LOSSLESS)
    source = open_source(clip, LOSSLESS)
    faces = [frame.faces[0] for frame in seen(clip)]
    for before, after, face, frame in zip(
        pictures(clip), pictures(tmp_path / "out.mkv"), faces, source, strict=True
    ):
        corners = np.linalg.inv(np.vstack([face.matrix, [0, 0, 1]])) @ np.array(
            [[-1, 256, -1, 256], [-1, -1, 256, 256], [1, 1, 1, 1]]
        )
        left, top = np.floor(corners[:2].min(1)).astype(int)
        right, bottom = np.ceil(corners[:2].max(1)).astype(int) + 1
        outside = np.ones((frame.native.height, frame.native.width), bool)
        outside[max(top, 0) : bottom, max(left, 0) : right] = False
        assert outside.mean() > 0.1
        assert (before[:240][outside] == after[:240][outside]).all()


def test_a_black_and_white_film_stays_black_and_white(tmp_path: Path) -> None:
    clip = write(tmp_path / "in.mp4", grey)
    report = restore_video(clip, tmp_path / "out.mkv", LOSSLESS)
    assert report.restored == 12
    for before, after in zip(pictures(clip), pictures(tmp_path / "out.mkv"), strict=True):
        assert (before[240:] == after[240:]).all()


def test_a_clip_without_faces_keeps_every_frame_time_and_packet_of_sound(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", frames=15, sound=["aac"], subtitles="subrip", width=64, height=48)
    report = restore_video(clip, tmp_path / "out.mkv", LOSSLESS)
    assert report.restored == 0
    assert all((a == b).all() for a, b in zip(pictures(clip), pictures(tmp_path / "out.mkv"), strict=True))
    assert packets(clip) == packets(tmp_path / "out.mkv")


def test_a_photo_given_as_reference_becomes_a_view_of_the_person(tmp_path: Path) -> None:
    photo = tmp_path / "her.png"
    Image.fromarray(astronaut()).save(photo)
    clip = write(tmp_path / "in.mp4", portrait)
    config = replace(LOSSLESS, input=InputConfig(references=(str(photo),)))
    with_photo, without = seen(clip, config)[0].faces[0], seen(clip)[0].faces[0]
    assert len(with_photo.references) == len(without.references) + 1


def test_a_photo_given_serves_a_face_that_is_too_unclear_to_be_recognised(tmp_path: Path) -> None:
    old, photo = tmp_path / "old.png", tmp_path / "her.png"
    small = cv2.resize(portrait(0), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    noisy = np.clip(small + np.random.default_rng(0).normal(0, 20, small.shape), 0, 255).astype(np.uint8)
    Image.fromarray(cv2.resize(noisy, portrait(0).shape[1::-1], interpolation=cv2.INTER_CUBIC)).save(old)
    Image.fromarray(astronaut()).save(photo)
    config = replace(LOSSLESS, input=InputConfig(references=(str(photo),)))
    (face,) = seen(old, config)[0].faces
    assert face.person_id is not None
    assert face.references.sources == ("photo her.png",)
    unwilling = replace(config, people=replace(config.people, guess=0.0))
    (face,) = seen(old, unwilling)[0].faces
    assert face.person_id is None


def test_a_clip_given_as_reference_becomes_views_of_the_person(tmp_path: Path) -> None:
    clip = write(tmp_path / "in.mp4", portrait)
    config = replace(LOSSLESS, input=InputConfig(references=(str(write(tmp_path / "her.mp4", portrait)),)))
    pinned = [view for view in open_people(clip, config) if view.pinned]
    assert 1 <= len(pinned) <= 4
    assert pinned[0].source == "her.mp4"


def test_a_reference_that_matches_nobody_is_told(tmp_path: Path) -> None:
    photo = tmp_path / "her.png"
    Image.fromarray(astronaut()).save(photo)
    clip = write_clip(tmp_path / "in.mkv", frames=6, width=64, height=48)
    report = restore_video(
        clip, tmp_path / "out.mkv", replace(LOSSLESS, input=InputConfig(references=(str(photo),)))
    )
    assert any("her.png matched nobody" in warning for warning in report.warnings)


def test_reference_photos_that_show_nobody_or_cannot_be_read_are_refused(tmp_path: Path) -> None:
    clip = write(tmp_path / "in.mp4", portrait, frames=3)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (200, 200), "green").save(folder / "meadow.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for given, name in ((folder, "meadow.png"), (tmp_path / "broken.png", "broken.png")):
        with pytest.raises(SourceError, match=name):
            restore_video(
                clip, tmp_path / "out.mkv", replace(LOSSLESS, input=InputConfig(references=(str(given),)))
            )
        assert not (tmp_path / "out.mkv").exists()


def test_strength_nought_needs_no_network(tmp_path: Path) -> None:
    clip = write(tmp_path / "in.mp4", portrait)
    report = restore_video(clip, tmp_path / "out.mkv", replace(LOSSLESS, blend=BlendConfig(strength=0)))
    assert (report.restored, report.passed["not asked for"]) == (0, 12)


def test_a_photo_and_a_folder_of_photos_are_restored(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(portrait(10 * index)).save(folder / f"{index}.png")
    single: Report = restore_video(folder / "0.png", tmp_path / "better.png")
    several = restore_video(folder, tmp_path / "better")
    assert (single.restored, several.restored) == (1, 2)
    assert sorted(path.name for path in (tmp_path / "better").iterdir()) == ["0.png", "1.png"]
    assert (np.asarray(Image.open(tmp_path / "better.png")) != portrait(0)).any()


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Frames alive at any time are bounded by the hand-overs, the look-ahead and the batches."""
    config = replace(LOSSLESS, depth=1, track=replace(LOSSLESS.track, lookahead=4))
    alive: list[int] = []

    def count(report: Report) -> None:
        if report.frames % 20 == 0:
            gc.collect()
            alive.append(sum(type(o) is Frame for o in gc.get_objects()))

    for frames in (40, 120):
        clip = write(tmp_path / f"{frames}.mp4", lambda index: portrait(index % 20), frames=frames)
        restore_video(clip, tmp_path / f"out{frames}.mkv", config, watch=count)
    assert min(alive) > 0
    assert max(alive[2:]) <= max(alive[:2]) + 4
