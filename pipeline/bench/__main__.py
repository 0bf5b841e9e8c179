"""Measurements as commands: `python -m pipeline.bench table`, `overhead|flicker|memory|landmarks CLIP ...`,
`live|serve|long CLIP`, `calls CLIP [CLIP]`, `networks` or `pixels`.

Exit codes: 0 done, 2 a wrong option or setting, 3 a wrong checkpoint, 4 a file that cannot be read or written."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

import configs
from configs import ConfigError
from models.weights import CheckpointError
from pipeline.bench.calls import calls, chosen_calls
from pipeline.bench.endless import Form
from pipeline.bench.endurance import endurance
from pipeline.bench.film_wear import landmarks
from pipeline.bench.flicker import WarpingErrors
from pipeline.bench.live import live, read_rate, read_size
from pipeline.bench.pixels import pixels
from pipeline.bench.speed import child, networks, seconds_of, transcode
from pipeline.bench.throughput import table, ways
from pipeline.config import PipelineConfig
from pipeline.flow import run
from pipeline.media.decode import open_input
from pipeline.report.counts import Report
from pipeline.runs.assembly import build, open_source
from pipeline.runs.film import restore_video

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement, prints its figures and gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_networks(commands)
    for measure in (overhead, flicker, memory, landmarks):
        _add_measure(commands, measure)
    _add_live(commands)
    _add_calls(commands)
    _add_long(commands)
    _add_serve(commands)
    _add_pixels(commands)
    _add_table(commands)
    options = parser.parse_args(arguments)
    try:
        _check(options)
        options.run(options)
    except ConfigError as error:
        return _refuse(error, 2)
    except CheckpointError as error:
        return _refuse(error, 3)
    except OSError as error:
        return _refuse(error, 4)
    except subprocess.CalledProcessError as error:
        if error.returncode not in (2, 3, 4):
            raise
        # The command that was measured has said why.
        return int(error.returncode)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses wrong settings and clips before anything is measured: some words use them late, or in a process."""
    if "changes" in options:
        _config(options)
    for clip in [*getattr(options, "clips", ()), *([options.clip] if "clip" in options else ())]:
        open_input(clip).close()


def _refuse(error: Exception, code: int) -> int:
    print(f"anchorface: {error}", file=sys.stderr)
    return code


def _add_networks(commands: _Commands) -> None:
    command = _command(commands, "networks", networks)
    command.add_argument("--rounds", type=int, default=40, help="medians are taken over so many")
    command.add_argument(
        "--iconface", type=Path, metavar="CHECKPOINT", help="weights of iconface in place of the shipped ones"
    )
    command.set_defaults(run=lambda options: networks(options.rounds, options.iconface))


def _add_measure(commands: _Commands, measure: Callable[[list[Path], PipelineConfig, int], None]) -> None:
    command = _command(commands, measure.__name__, measure)
    command.add_argument("clips", metavar="CLIP", nargs="*" if measure is overhead else "+", type=Path)
    _add_set(command)
    command.add_argument("--runs", type=int, default=3, help="medians are taken over so many runs")
    command.set_defaults(run=lambda options: measure(options.clips, _config(options), options.runs))


def _add_live(commands: _Commands) -> None:
    command = _command(commands, "live", live)
    command.add_argument("clip", metavar="CLIP", type=Path)
    command.add_argument("--seconds", type=float, default=60.0, help="so long, the clip forth and back")
    command.add_argument(
        "--size", type=read_size, metavar="WxH", help="scale and crop the clip to this before"
    )
    command.add_argument(
        "--rate", type=read_rate, metavar="N", help="frames per second, in place of the clip's own"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    _add_set(command)

    def measure(options: argparse.Namespace) -> None:
        form = Form(options.size, options.rate)
        live(options.clip, _config(options, "live"), options.seconds, form, options.json)

    command.set_defaults(run=measure)


def _add_calls(commands: _Commands) -> None:
    command = _command(commands, "calls", calls)
    command.add_argument("clips", metavar="CLIP", nargs="+", type=Path, help="of one face, then one of two")
    command.add_argument("--seconds", type=float, default=60.0, help="so long for each")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    command.add_argument("--only", default="", metavar="WORDS", help="calls that have this in their name")
    _add_set(command)

    def measure(options: argparse.Namespace) -> None:
        calls(options.clips, options.seconds, chosen_calls(options.only), options.changes, options.json)

    command.set_defaults(run=measure)


def _add_long(commands: _Commands) -> None:
    command = _command(commands, "long", endurance)
    command.add_argument("clip", metavar="CLIP", type=Path)
    command.add_argument("--frames", type=int, default=10_000)
    _add_set(command)
    command.set_defaults(
        run=lambda options: endurance(options.clip, options.frames, options.changes, _repeat)
    )


def _add_serve(commands: _Commands) -> None:
    command = _command(commands, "serve", _codings)
    command.add_argument("clip", metavar="CLIP", type=Path)
    _add_set(command)
    command.set_defaults(run=lambda options: _codings(options.clip, _config(options)))


def _add_pixels(commands: _Commands) -> None:
    command = _command(commands, "pixels", pixels)
    command.add_argument("--rounds", type=int, default=20, help="medians are taken over so many")
    _add_set(command)
    command.set_defaults(run=lambda options: pixels(_config(options), options.rounds))


def _add_table(commands: _Commands) -> None:
    command = _command(commands, "table", table)
    command.add_argument("--rounds", type=int, default=3, help="medians are taken over so many")
    command.add_argument("--frames", type=int, default=50, help="length of the generated clips")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    command.add_argument("--only", default="", metavar="WORDS", help="ways that have this in their name")
    _add_set(command)

    def measure(options: argparse.Namespace) -> None:
        words = options.only.split(",")
        chosen = [way for way in ways() if any(word in way.name for word in words)]
        table(options.rounds, options.frames, options.changes, options.json, chosen)

    command.set_defaults(run=measure)


def _command(commands: _Commands, name: str, measure: Callable[..., object]) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=(measure.__doc__ or "").partition("\n")[0])


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", dest="changes", metavar="A.B=C", action="append", default=[])


def _config(options: argparse.Namespace, preset: str | None = None) -> PipelineConfig:
    return configs.load(PipelineConfig, configs.preset(preset) if preset else None, options.changes)


def _codings(clip: Path, config: PipelineConfig) -> None:
    """What the coding of the page's pictures leaves of faces."""
    from pipeline.bench.serve import codings  # needs the extra `serve`

    codings(clip, config)


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
                plain.append(seconds_of(transcode, clip, Path(folder) / f"plain{number}.mp4", config.encode))
                ours.append(seconds_of(restore_video, clip, Path(folder) / f"ours{number}.mp4", config))
            ratio = statistics.median(ours) / statistics.median(plain)
            print(
                f"{clip.name}: plain transcode {statistics.median(plain):.2f} s, "
                f"--restorer none {statistics.median(ours):.2f} s, ratio {ratio:.2f} (median of {runs})"
            )


def flicker(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Warping error of the restored faces against the same pixels of the source (see `WarpingErrors`)."""
    for clip in clips:
        pairs = WarpingErrors()
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
                peaks.append(child([*command, "none", *changes]).peak_mib)
            print(
                f"{clip.name}: peak {peaks[0]:.0f} MiB, ten times as long {peaks[1]:.0f} MiB, "
                f"ratio {peaks[1] / peaks[0]:.3f}"
            )


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
    sys.exit(main())
