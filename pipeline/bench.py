"""Measurements as commands: `python -m pipeline.bench overhead|flicker|memory CLIP ...` or `networks`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import configs
from models.fast.restorer import FastRestorer
from models.protocols import References, Request
from models.recogniser import EmbeddedRecogniser
from pipeline.build import build, open_source, restore_video
from pipeline.colour import luma_region
from pipeline.config import PipelineConfig
from pipeline.flow import run
from pipeline.report import Report


def main() -> None:
    """Runs one measurement and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    networks_command = commands.add_parser("networks", help=(networks.__doc__ or "").partition("\n")[0])
    networks_command.add_argument("--rounds", type=int, default=40, help="medians are taken over so many")
    for name, measure in (("overhead", overhead), ("flicker", flicker), ("memory", memory)):
        command = commands.add_parser(name, help=(measure.__doc__ or "").partition("\n")[0])
        command.add_argument("clips", metavar="CLIP", nargs="*" if name == "overhead" else "+", type=Path)
        command.add_argument("--set", dest="changes", metavar="A.B=C", action="append", default=[])
        command.add_argument("--runs", type=int, default=3, help="medians are taken over so many runs")
        command.set_defaults(measure=measure)
    options = parser.parse_args()
    if options.command == "networks":
        networks(options.rounds)
        return
    config = configs.load(PipelineConfig, None, options.changes)
    options.measure(options.clips, config, options.runs)


def overhead(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Time of `--restorer none` (faces found and followed) against a plain PyAV transcode with the same encoder.

    Without CLIP a 720p clip without faces is made and measured. Both are timed from opening to closing the
    files, the loading of models included, imports not; they take turns, and the median of each is compared.
    """
    config = replace(config, restorer=replace(config.restorer, kind="none"))
    with tempfile.TemporaryDirectory() as folder:
        if not clips:
            clips = [Path(folder) / "no_faces_720p.mp4"]
            _write_clip_without_faces(clips[0])
        for clip in clips:
            plain, ours = [], []
            for number in range(runs):
                plain.append(_seconds(_transcode, clip, Path(folder) / f"plain{number}.mp4", config))
                ours.append(_seconds(restore_video, clip, Path(folder) / f"ours{number}.mp4", config))
            ratio = statistics.median(ours) / statistics.median(plain)
            print(
                f"{clip.name}: plain transcode {statistics.median(plain):.2f} s, "
                f"--restorer none {statistics.median(ours):.2f} s, ratio {ratio:.2f} (median of {runs})"
            )


def flicker(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Warping error of the restored faces against the same pixels of the source.

    Per pair of frames: optical flow (DIS) on the source, pixels that pass the forward-backward test
    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, mean absolute difference between a frame and the next one warped onto
    it, only where restoration changed a pixel in both frames. Nothing is encoded in between.
    """
    for clip in clips:
        pairs = _BeforeAfter()
        source = open_source(clip, config)
        run(source, pairs, build(config, source), config, report=Report(), arrange=pairs.arrange)
        if not pairs.errors:
            print(f"{clip.name}: no restored face in two frames that follow each other")
            continue
        before, after = np.mean(pairs.errors, axis=0)
        print(
            f"{clip.name}: warping error source {before:.3f}, restored {after:.3f}, "
            f"ratio {after / before:.3f} ({len(pairs.errors)} pairs of frames)"
        )


def memory(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Peak memory of the command on a clip and on the same clip ten times in a row."""
    changes = [part for change in _changes(config) for part in ("--set", change)]
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips:
            peaks = []
            for times in (1, 10):
                longer = Path(folder) / f"{times}.mp4"
                _repeat(clip, longer, times)
                command = [
                    sys.executable,
                    "-m",
                    "pipeline",
                    str(longer),
                    f"{folder}/out{times}.mp4",
                    "--progress",
                ]
                peaks.append(_peak_mib([*command, "none", *changes]))
            print(
                f"{clip.name}: peak {peaks[0]:.0f} MiB, ten times as long {peaks[1]:.0f} MiB, "
                f"ratio {peaks[1] / peaks[0]:.3f}"
            )


def networks(rounds: int) -> None:
    """Time of each embedded network for one face, also as a multiple of that of ten plain convolutions.

    These are 3 x 3, of 64 channels on 64 x 64 cells. All take turns, and the multiple is the median over the
    rounds, so that it says something on a busy machine too.
    """
    cells = torch.rand(1, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    request = Request(torch.zeros(3, 256, 256, dtype=torch.uint8), References())
    works: dict[str, Callable[[], object]] = {
        "ten convolutions": partial(torch.nn.Sequential(*[convolution] * 10), cells),
        "encoder": partial(EmbeddedRecogniser().embed, torch.zeros(1, 3, 112, 112, dtype=torch.uint8)),
        "fast": partial(FastRestorer().restore, [request]),
    }
    for work in works.values():
        work()
    times = np.array([[_seconds(work) for work in works.values()] for _ in range(rounds)])
    multiples = np.median(times / times[:, :1], 0)
    for name, seconds, multiple in zip(works, np.median(times, 0), multiples, strict=True):
        print(f"{name}: {1000 * seconds:.1f} ms, {multiple:.2f} times the convolutions")
    print(f"(medians of {rounds} rounds, {torch.get_num_threads()} threads)")


class _BeforeAfter:
    """A sink that keeps only the warping errors of successive frames."""

    def __init__(self) -> None:
        self.errors: list[tuple[float, float]] = []
        self._last: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def arrange(self, before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
        now = _luma(before), _luma(after)
        if self._last is not None and before is not after:
            self._compare(self._last, now)
        self._last = now
        return after

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Nothing is written."""

    def _compare(
        self,
        last: tuple[NDArray[np.float32], NDArray[np.float32]],
        now: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        touched = (last[0] != last[1]) & (now[0] != now[1])
        if touched.sum() < 100:
            return
        rows, columns = np.where(touched)
        part = np.s_[
            max(rows.min() - 16, 0) : rows.max() + 17, max(columns.min() - 16, 0) : columns.max() + 17
        ]
        first, second = last[0][part], now[0][part]
        if min(first.shape) < 32:
            return
        forward = self._flow.calc(first.astype(np.uint8), second.astype(np.uint8), None)  # type: ignore[call-overload]
        backward = self._flow.calc(second.astype(np.uint8), first.astype(np.uint8), None)  # type: ignore[call-overload]
        y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
        to = x + forward[..., 0], y + forward[..., 1]
        back = cv2.remap(backward, *to, cv2.INTER_LINEAR)
        squares = (forward**2).sum(-1) + (back**2).sum(-1)
        valid = ((forward + back) ** 2).sum(-1) < 0.01 * squares + 0.5
        valid &= touched[part]
        if valid.sum() < 100:
            return
        warped = [cv2.remap(picture[part], *to, cv2.INTER_LINEAR) for picture in now]
        errors = [np.abs(w - p[part])[valid].mean() for w, p in zip(warped, last, strict=True)]
        self.errors.append((float(errors[0]), float(errors[1])))


def _luma(native: av.VideoFrame) -> NDArray[np.float32]:
    return luma_region(native, 0, 0, native.width, native.height)


def _transcode(clip: Path, output: Path, config: PipelineConfig) -> None:
    """What anyone would write with PyAV: decode, encode, copy the sound."""
    options = {"crf": str(config.encode.crf), "preset": config.encode.preset}
    with av.open(str(clip)) as source, av.open(str(output), "w") as target:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        encoded = target.add_stream("libx264", rate=video.average_rate, options=options)
        encoded.width, encoded.height, encoded.pix_fmt = video.width, video.height, video.pix_fmt
        encoded.codec_context.time_base = video.time_base or Fraction(1, 1000)
        copies = {s: target.add_stream_from_template(s) for s in source.streams.audio}
        for packet in source.demux(video, *copies):
            if packet.stream in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                target.mux(encoded.encode(frame))
        target.mux(encoded.encode(None))


def _write_clip_without_faces(path: Path, frames: int = 150) -> None:
    """A camera moving over a cup of coffee: 1280x720, 25 frames per second."""
    from skimage.data import coffee

    picture = cv2.resize(
        coffee(),  # type: ignore[no-untyped-call]
        (1800, 1200),
        interpolation=cv2.INTER_CUBIC,
    )
    noise = np.random.default_rng(0).normal(0, 4, (720, 1280, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(frames):
            left, top = 2 * index, index
            view = picture[top : top + 720, left : left + 1280] + np.roll(noise, 7 * index, 1)
            frame = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _repeat(clip: Path, output: Path, times: int) -> None:
    """The video of `clip`, so many times in a row, encoded once more."""
    with av.open(str(output), "w") as target:
        encoded, count = None, 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if encoded is None:
                    encoded = target.add_stream(
                        "libx264", rate=video.average_rate, options={"preset": "veryfast"}
                    )
                    encoded.width, encoded.height, encoded.pix_fmt = video.width, video.height, "yuv420p"
                for frame in source.decode(video):
                    frame.pts, frame.time_base = count, 1 / Fraction(video.average_rate or 25)
                    count += 1
                    target.mux(encoded.encode(frame))
        assert encoded is not None
        target.mux(encoded.encode(None))


def _peak_mib(command: list[str]) -> float:
    # A child of a fresh process, so that the peak of this one's other children does not count.
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / 1024


def _seconds(work: object, *arguments: object) -> float:
    assert callable(work)
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _changes(config: PipelineConfig) -> list[str]:
    """Every setting as an `a.b=c` change, so that another process runs with the same."""
    changes, group = [], ""
    for line in configs.dump(config).splitlines():
        if line.startswith("["):
            group = line.strip("[]") + "."
        elif line:
            name, _, value = line.partition(" = ")
            changes.append(f"{group}{name}={value}")
    return changes


if __name__ == "__main__":
    main()
