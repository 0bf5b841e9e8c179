"""Figures over time against examples computed by hand; their table and plots."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.protocols import Face, Needs, References, Request, Result
from pipeline.evaluation.measures import (
    FACE_SQUARE,
    SIDE_PX,
    FlowMeter,
    Motion,
    Place,
    Window,
    consistent,
    embedding_distance,
    landmark_jitter,
    regions,
    relative_change,
    sharpness,
    warping_error,
    window_around,
)
from pipeline.evaluation.meter import Instruments, Meter
from pipeline.evaluation.rows import CountingRestorer, softened, softening
from pipeline.evaluation.scores import ClipScores, Metric, Row, Series, as_json, table, write_plots
from pipeline.frames import Frame
from pipeline.pixels.blend import crop_mask
from pipeline.pixels.colour import luma_region
from pipeline.pixels.geometry import Geometry
from support.clips import picture

SIZE = 96
ALL = np.ones((SIZE, SIZE), bool)
MATRIX = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def noise(seed: int = 0, side: int = SIZE) -> NDArray[np.float32]:
    """Random luma, float32 (side, side)."""
    return np.random.default_rng(seed).uniform(50, 200, (side, side)).astype(np.float32)


def shift(x: float, y: float) -> NDArray[np.float32]:
    """The flow of a uniform translation."""
    return np.full((SIZE, SIZE, 2), (x, y), np.float32)


def uniform_frame(luma: NDArray[np.float32]) -> av.VideoFrame:
    """A grey full-range frame with the given luma."""
    frame = av.VideoFrame.from_ndarray(luma.round().astype(np.uint8), "gray")
    frame.color_range = 2
    return frame


def as_frame(luma: NDArray[np.float32], index: int = 0) -> Frame:
    return Frame(index, index, Fraction(1, 25), uniform_frame(luma))


def test_a_still_picture_has_no_warping_error() -> None:
    luma = noise()
    motion = FlowMeter().measure(luma, luma)
    assert motion.seen.all()
    assert warping_error(luma, luma, motion, ALL) == 0


def test_a_picture_moved_as_its_flow_says_has_no_warping_error_and_one_left_behind_has() -> None:
    luma = noise()
    moved = np.roll(luma, (2, 5), (0, 1))
    motion = consistent(shift(5, 2), shift(-5, -2))
    assert warping_error(luma, moved, motion, ALL) == 0
    left_behind = warping_error(luma, luma, motion, ALL)
    assert left_behind is not None
    assert left_behind > 20


@pytest.mark.parametrize(
    ("x", "y", "gone"),
    [(5, 0, np.s_[:, -5:]), (-5, 0, np.s_[:, :5]), (0, 5, np.s_[-5:]), (0, -5, np.s_[:5])],
    ids=["right", "left", "down", "up"],
)
def test_pixels_that_leave_the_window_or_do_not_come_back_are_not_seen(
    x: int, y: int, gone: tuple[slice, ...] | slice
) -> None:
    backward = shift(-x, -y)
    backward[40 + y : 60 + y, 40 + x : 60 + x] = (3 - x, 2 - y)
    expected = np.ones((SIZE, SIZE), bool)
    expected[gone] = False
    expected[40:60, 40:60] = False
    assert np.array_equal(consistent(shift(x, y), backward).seen, expected)


@pytest.mark.parametrize(
    ("x", "y", "gone"),
    [(0.6, 0, np.s_[:, -1]), (-0.6, 0, np.s_[:, 0]), (0, 0.6, np.s_[-1]), (0, -0.6, np.s_[0])],
    ids=["right", "left", "down", "up"],
)
def test_a_pixel_that_leaves_the_window_by_a_little_is_not_seen(
    x: float, y: float, gone: tuple[slice, int] | int
) -> None:
    expected = np.ones((SIZE, SIZE), bool)
    expected[gone] = False
    assert np.array_equal(consistent(shift(x, y), shift(-x, -y)).seen, expected)


def test_a_step_of_brightness_is_the_warping_error_and_only_inside() -> None:
    first, second = np.full((2, SIZE, SIZE), 100, np.float32)
    second += 7
    second[:48] += 50
    lower = ALL.copy()
    lower[:48] = False
    assert warping_error(first, second, consistent(shift(0, 0), shift(0, 0)), lower) == 7


def test_too_few_pixels_are_not_measured() -> None:
    few = np.zeros((SIZE, SIZE), bool)
    few[0, :99] = True
    motion = Motion(shift(0, 0), ALL)
    assert warping_error(noise(), noise(), motion, few) is None
    assert sharpness(noise(), few) is None


def test_sharpness_is_the_squared_step_of_a_ramp() -> None:
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    assert sharpness(3 * x + 2 * y, ALL) == pytest.approx(13)


def test_relative_change_is_the_difference_in_parts_of_the_mean() -> None:
    assert relative_change(80, 120) == pytest.approx(0.4)
    assert relative_change(120, 80) == pytest.approx(0.4)
    assert relative_change(0, 0) == 0


def test_embeddings_that_agree_are_at_no_distance_and_perpendicular_ones_at_the_root_of_two() -> None:
    one, other = np.eye(8, dtype=np.float32)[:2]
    assert embedding_distance(one, 5 * one) == 0
    assert embedding_distance(one, other) == pytest.approx(2**0.5)
    assert embedding_distance(one, -one) == pytest.approx(2)


def test_straight_motion_has_no_jitter_and_a_step_there_and_back_twice_its_length() -> None:
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    step = np.array([3, 4], np.float32)
    assert landmark_jitter(points, points + step, points + 2 * step, 20) == 0
    assert landmark_jitter(points, points + step, points, 20) == pytest.approx(2 * 5 / 20)


def test_the_square_for_reference_metrics_lies_inside_the_face_region_and_could_not_be_larger() -> None:
    window = window_around([MATRIX], SIDE_PX, SIDE_PX)
    face, _ = regions(MATRIX, window)
    assert face[FACE_SQUARE].all()
    rows, columns = FACE_SQUARE
    assert not face[rows.start - 2 : rows.stop + 2, columns.start - 2 : columns.stop + 2].all()


def test_face_and_rim_follow_the_crop_into_the_frame_and_do_not_overlap() -> None:
    # The crop at twice its size, 300 pixels to the right and 200 down.
    matrix = np.array([[0.5, 0, -150], [0, 0.5, -100]], np.float32)
    window = window_around([matrix], 1000, 1000)
    face, rim = regions(matrix, window)
    wanted = crop_mask(SIDE_PX, 32) > 0.5
    assert face.sum() == pytest.approx(4 * wanted.sum(), rel=0.01)
    rows, columns = np.nonzero(face)
    assert columns.mean() + window.left == pytest.approx(300 + 2 * 127.5, abs=1)
    assert rows.mean() + window.top == pytest.approx(200 + 2 * np.nonzero(wanted)[0].mean(), abs=1)
    assert not (face & rim).any()
    assert rim.any(0).sum() == pytest.approx(face.any(0).sum() + 2 * 2 * 26, abs=4)


def test_a_window_stays_inside_the_frame() -> None:
    assert window_around([MATRIX], 200, 100) == Window(0, 0, 200, 100)


class FixedDetector:
    """Finds one face that jumps back and forth by `step` pixels."""

    def __init__(self, step: float = 0.0) -> None:
        self.step = step
        self.calls = 0

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        self.calls += 1
        place = place_at(0)
        points = place.face.landmarks + np.float32(self.step * (self.calls % 2))
        return [Face(place.face.box, points, 0.9)]


class SwitchingRecogniser:
    """Embeds every `period`th face as another person, orthogonal to the first."""

    name, same_person, clear_norm = "switching", 0.5, 0.0

    def __init__(self, period: int = 1000) -> None:
        self.period = period
        self.calls = 0

    def embed(self, crops: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 7 * torch.eye(4)[[int(self.calls % self.period == 0)] * len(crops)].float()


def place_at(track_id: int, target: NDArray[np.float32] | None = None) -> Place:
    """A face that fills a frame of 256 pixels."""
    points = np.array([[96, 120], [159, 120], [128, 157], [100, 185], [156, 185]], np.float32)
    return Place(track_id, Face(np.array([40, 40, 216, 230], np.float32), points, 0.9), MATRIX, target)


def measured(
    frames: Sequence[NDArray[np.float32]],
    tracks: Sequence[int] | None = None,
    references: Sequence[NDArray[np.float32]] | None = None,
    **parts: object,
) -> Row:
    """The row of `lumas` (256, 256) of one face, with motion from `references`, by default from the same lumas."""
    instruments = Instruments(
        parts.get("detector", FixedDetector()), parts.get("recogniser", SwitchingRecogniser())
    )
    meter = Meter("row", instruments, Geometry())
    references = references or [frames[0]] * len(frames)
    for index, (luma, reference) in enumerate(zip(frames, references, strict=True)):
        place = place_at(tracks[index] if tracks else 0)
        meter.add(uniform_frame(luma), [place], reference=uniform_frame(reference))
    return meter.row


def test_a_clip_whose_brightness_alternates_has_this_step_as_its_warping_error() -> None:
    luma = noise(side=256)
    row = measured([luma, luma + 6, luma, luma + 6])
    assert row.mean(Metric.WARPING) == pytest.approx(6, abs=0.1)
    assert row.mean(Metric.FLICKER) == pytest.approx(0, abs=1e-3)
    assert row.series[Metric.WARPING].by_frame().keys() == {1, 2, 3}


def test_motion_is_measured_on_the_reference_alone() -> None:
    moving = [picture(2 * k, 256, 256).mean(-1).astype(np.float32) for k in range(3)]
    followed = measured(moving, references=moving).mean(Metric.WARPING)
    believed_still = measured(moving).mean(Metric.WARPING)
    assert followed is not None
    assert believed_still is not None
    assert followed < believed_still / 3


def test_a_clip_whose_contrast_alternates_has_the_change_of_its_energy_as_flicker() -> None:
    # Half the contrast is a quarter of the energy: a change of 0.75 in parts of 0.625.
    checks = np.indices((256, 256)).sum(0) % 2 * np.float32(80) + 80
    row = measured([checks, 120 + (checks - 120) / 2, checks])
    assert row.mean(Metric.FLICKER) == pytest.approx(1.2)
    assert row.mean(Metric.RIM_FLICKER) == pytest.approx(1.2)


def test_one_frame_with_another_person_is_two_jumps_of_identity() -> None:
    row = measured([noise(side=256)] * 5, recogniser=SwitchingRecogniser(3))
    assert row.mean(Metric.VIDD) == pytest.approx(2 * 2**0.5 / 4)


def test_nothing_is_compared_from_one_track_to_another() -> None:
    row = measured([noise(k, 256) for k in range(4)], tracks=[0, 0, 1, 1])
    for metric in (Metric.VIDD, Metric.WARPING, Metric.FLICKER):
        assert row.series[metric].by_frame().keys() == {1, 3}
    assert row.mean(Metric.LANDMARKS) is None


def test_landmarks_are_those_found_in_the_restored_frames() -> None:
    assert measured([noise(side=256)] * 5).mean(Metric.LANDMARKS) == 0
    row = measured([noise(side=256)] * 5, detector=FixedDetector(1.0))
    assert row.mean(Metric.LANDMARKS) == pytest.approx(2 * 2**0.5 / 63, rel=1e-3)
    # A face found elsewhere is another face.
    assert measured([noise(side=256)] * 5, detector=FixedDetector(60)).mean(Metric.LANDMARKS) is None


def test_nearness_to_the_ground_truth_counts_the_face_and_not_what_is_around_it() -> None:
    truth, other = noise(side=256), noise(1, 256)
    face, _ = regions(MATRIX, Window(0, 0, 256, 256))
    rows = {}
    for name, luma in (("same", truth), ("around", np.where(face, truth, other)), ("face", truth + 5)):
        meter = Meter(name, Instruments(FixedDetector(), SwitchingRecogniser()), Geometry())
        target = np.array([0.6, 0.8, 0, 0], np.float32)
        frame = uniform_frame(truth)
        meter.add(uniform_frame(luma), [place_at(0, target)], reference=frame, truth=frame)
        rows[name] = meter.row
    assert rows["face"].mean(Metric.PSNR) == pytest.approx(20 * np.log10(255 / 5), abs=0.01)
    assert rows["same"].mean(Metric.SSIM) == rows["around"].mean(Metric.SSIM) == 1
    assert rows["same"].mean(Metric.IDENTITY) == pytest.approx(0.6)
    assert rows["same"].mean(Metric.PERCEPTUAL) is None


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_a_truth_is_softened_to_the_sharpness_that_is_wanted(share: float) -> None:
    place = place_at(0)
    truth = [as_frame(noise(seed, SIDE_PX), seed) for seed in range(11)]
    face, _ = regions(place.matrix, Window(0, 0, SIDE_PX, SIDE_PX))

    def mean(sigma: float) -> float:
        pictures = (softened(frame.native, sigma) for frame in truth)
        found = [sharpness(luma_region(picture, 0, 0, SIDE_PX, SIDE_PX), face) for picture in pictures]
        return float(np.mean(np.asarray(found, float)))

    wanted = share * mean(0)
    sigma = softening(truth, [[place]] * len(truth), wanted)
    assert mean(sigma) == pytest.approx(wanted, rel=0.15)


def test_a_truth_that_is_soft_already_is_left_as_it_is() -> None:
    place = place_at(0)
    frame = as_frame(noise(0, SIDE_PX))
    assert softening([frame], [[place]], 1e9) == 0
    assert softening([frame], [[]], 1.0) == 0
    assert softened(frame.native, 0) is frame.native


def test_the_restorer_is_counted_and_otherwise_unchanged() -> None:
    class Doubling:
        needs = Needs(64, references=False)

        def restore(self, requests: Sequence[Request]) -> list[Result]:
            return [Result(2 * request.crop) for request in requests]

    counting = CountingRestorer(Doubling())
    requests = [Request(torch.full((3, 64, 64), k, dtype=torch.uint8), References()) for k in range(3)]
    results = counting.restore(requests) + counting.restore(requests[:1])
    assert [int(result.image[0, 0, 0]) for result in results] == [0, 2, 4, 0]
    assert (counting.calls, counting.faces, counting.needs) == (2, 4, Doubling.needs)


def scores(name: str, values: dict[str, list[float]], frames: int = 4) -> ClipScores:
    """Rows with these warping errors by frame."""
    rows = []
    for setting, errors in values.items():
        row = Row(setting, given=3)
        for index, error in enumerate(errors):
            row.series[Metric.WARPING].add(index, error)
        rows.append(row)
    return ClipScores(name, "", "source", frames, frames, frames / 25, tuple(rows))


def test_the_table_has_a_row_for_each_setting_and_the_means_over_clips() -> None:
    one = scores("one", {"source": [2, 4], "tried": [1, 1]})
    two = scores("two", {"source": [5, 5], "tried": [3, 3]})
    assert "all clips" not in table([one])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table([one, two]).splitlines()]
    assert lines[0][:3] == ["clip", "setting", "warping error"]
    assert [line[:3] for line in lines[2:]] == [
        ["one", "source", "3.00"],
        ["one", "tried", "1.00"],
        ["two", "source", "5.00"],
        ["two", "tried", "3.00"],
        ["all clips", "source", "4.00"],
        ["all clips", "tried", "2.00"],
    ]
    given = lines[0].index("given")
    assert [line[given] for line in lines[2:]] == ["3", "3", "3", "3", "6", "6"]


def test_values_of_each_frame_are_the_means_of_its_faces() -> None:
    series = Series()
    for frame, value in ((1, 2.0), (1, 4.0), (0, 9.0), (2, None)):
        series.add(frame, value)
    assert series.by_frame() == {0: 9, 1: 3}
    assert series.mean() == 5
    assert Series().mean() is None
    report = as_json([scores("one", {"source": [2, 4]})])[0]["rows"][0]
    assert report["means"]["warping"] == 3
    assert report["means"]["vidd"] is None


def test_plots_draw_a_line_for_each_row_and_none_over_a_gap(tmp_path: Path) -> None:
    clip_scores = scores("a <b>", {"source": [1, 2, 3, 4], "tried": [2, 2]})
    clip_scores.rows[1].series[Metric.WARPING].add(3, 2.0)
    assert write_plots(tmp_path, [clip_scores]) == [tmp_path / "warping.svg"]
    drawing = ElementTree.parse(tmp_path / "warping.svg")
    lines = drawing.findall(".//{*}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [4, 2, 2]
    # A single value is a dot: a line from it to itself.
    assert len(set(lines[2].attrib["points"].split())) == 1
    heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    texts = [text.text for text in drawing.findall(".//{*}text")]
    assert {"source", "tried", "a <b>: warping error"} <= set(texts)
