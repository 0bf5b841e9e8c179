"""`python -m pipeline live SOURCE SINK`."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import configs
from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError
from pipeline.frames import Frame
from pipeline.live.addresses import Address, cameras, sink_address, source_address
from pipeline.live.capture import TICK, Capture
from pipeline.live.faces import Faces
from pipeline.live.ladder import steps
from pipeline.live.quick import quick_beside
from pipeline.live.remembered import keep, recall
from pipeline.live.report import LiveReport
from pipeline.live.run import Watch, run
from pipeline.live.sinks import NullSink, Outlet, holds_sound, open_sink
from pipeline.live.sound import SoundQueue
from pipeline.live.sources import Opened, Wanted
from pipeline.live.worker import Worker
from pipeline.people.cast import check_steps
from pipeline.runs.assembly import build
from pipeline.stages.effort import Quick

_SETTLED_FRAMES = 100
"""Frames after which the delay is stable."""


def command(options: argparse.Namespace, changes: list[str]) -> int:
    """Runs the command and returns its exit code."""
    if options.list:
        for number, camera in enumerate(cameras()):
            print(f"camera:{number}  {camera.name} ({camera.device})")
        if not cameras():
            print("no camera found on this machine")
        return 0
    if options.source is None or options.sink is None:
        raise ConfigError("live needs SOURCE and SINK, for example camera:0 vcam: (see --help)")
    config = configs.load(PipelineConfig, options.config or configs.preset("live"), changes)
    check_steps(options.steps, config)
    if options.seconds is not None and not options.seconds > 0:
        raise ConfigError(f"--duration must be above 0 seconds, got {options.seconds:g}")
    if options.rate is not None and not 0 < options.rate < math.inf:
        raise ConfigError(f"--rate must be above 0 and finite, got {options.rate:g}")
    if options.size is not None and re.fullmatch(r"[1-9]\d*x[1-9]\d*", options.size) is None:
        raise ConfigError(f"--size must look like 1280x720, got {options.size}")
    source, sink = source_address(options.source), sink_address(options.sink)
    # With a pipe as sink, the standard output carries the pictures.
    stream = sys.stderr if sink.kind == "pipe" else sys.stdout
    report = restore_live(
        source,
        sink,
        config,
        wanted=Wanted(options.size, options.rate),
        duration_seconds=options.seconds,
        remember=options.remember,
        tell=lambda sentence: print(f"live: {sentence}", file=sys.stderr, flush=True),
        watch=_watch(options.progress, stream, audio_delay=options.audio_delay),
    )
    text = (
        json.dumps({"event": "done", **report.as_dict()}) if options.progress == "json" else report.summary()
    )
    print(text, file=stream)
    return 0


def restore_live(
    source: Address,
    sink: Address,
    config: PipelineConfig,
    *,
    wanted: Wanted | None = None,
    duration_seconds: float | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
    watch: Watch = lambda report: None,
    quick: Quick | None = None,
    remember: Path | None = None,
) -> LiveReport:
    """Restores the faces of a live source until it ends, `duration_seconds` have passed, or Ctrl-C.

    `remember`: file of views that serve as references from the start; at the end it receives the best views of the
    person seen in most frames. `tell` is called with messages, from any thread; `watch` after pictures were written.
    Raises ConfigError, CheckpointError, SourceError or SinkError with one sentence.
    """
    files = [end.place for end in (source, sink) if end.kind == "file" and os.path.exists(end.place)]
    if len(files) == 2 and os.path.samefile(*files):
        raise SinkError(f"{sink.text}: is the same file as the input {source.text}; give another name")

    def opened() -> Opened:
        return Opened(source, config.live.stall_seconds, wanted)

    report = LiveReport()
    with ExitStack() as stack:
        first = stack.enter_context(opened())
        outlet = _outlet(sink, first, config, tell)
        parts = build(config, first)
        if remember is not None:
            recall(remember, parts.perception)
        quick = quick or quick_beside(parts.restorer, config)
        worker = stack.enter_context(Worker(Faces(replace(parts, quick=quick), config)))
        tell("warming up")
        worker.warm_up(Frame(0, 0, TICK, first.first))
        stack.enter_context(outlet)
        sound = SoundQueue() if first.sound is not None and holds_sound(sink) else None
        capture = stack.enter_context(Capture(first, opened, config.live, tell, sound))
        try:
            run(
                capture,
                outlet,
                worker,
                steps(
                    restores=parts.restorer is not None,
                    has_light=quick.light is not None,
                    has_small=quick.small is not None,
                ),
                config.live,
                rate=first.info.rate,
                report=report,
                watch=watch,
                duration_seconds=duration_seconds,
                sound=sound,
            )
        except KeyboardInterrupt:
            tell("stopped")  # the usual end of a call; a file is completed
        if remember is not None:
            tell(keep(remember, parts.perception, report.seen))
        current = parts.perception.people.current
        report.people = {now for person in report.people if (now := current(person)) is not None}
    return report


def _outlet(sink: Address, source: Opened, config: PipelineConfig, tell: Callable[[str], None]) -> NullSink:
    def make() -> NullSink:
        return open_sink(
            sink,
            source.first,
            source.info.rate,
            config.encode,
            overwrite=config.output.overwrite,
            sound=source.sound,
        )

    return Outlet(make, config.live, tell) if sink.kind == "network" else make()


def _watch(kind: str, stream: TextIO, *, audio_delay: bool) -> Watch:
    """Prints progress every two seconds, and the delay for the sound when it is stable or changes."""
    after = time.monotonic() + 2
    printed_ms: int | None = None

    def watch(report: LiveReport) -> None:
        nonlocal after, printed_ms
        if time.monotonic() < after:
            return
        after = time.monotonic() + 2
        if kind == "json":
            print(json.dumps({"event": "progress", **report.as_dict()}), file=stream, flush=True)
        elif kind != "none":
            print(report.line(), file=sys.stderr, flush=True)
        ms = report.sound_delay_ms
        changed = printed_ms is None or abs(ms - printed_ms) >= 20
        if audio_delay and report.written >= _SETTLED_FRAMES and changed:
            printed_ms = ms
            print(
                f"live: delay the sound by {ms} ms (OBS: Advanced Audio Properties, Sync Offset)",
                file=sys.stderr,
                flush=True,
            )

    return watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `live` alone."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="camera:0, a camera's name, rtsp://, rtmp://, http(s)://, udp://, a file (in real time) or - (y4m)",
    )
    parser.add_argument(
        "sink",
        metavar="SINK",
        nargs="?",
        help="vcam: (virtual camera), rtmp://, rtsp://, udp://, a file, - (y4m) or null: (for measurements)",
    )
    parser.add_argument("--list", action="store_true", help="list the cameras of this machine and exit")
    parser.add_argument(
        "--size", metavar="WxH", help="frame size requested from a camera, for example 1280x720"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="frames per second requested from a camera")
    parser.add_argument(
        "--duration", type=float, metavar="SECONDS", dest="seconds", help="stop after this time"
    )
    parser.add_argument(
        "--remember",
        type=Path,
        metavar="FILE",
        help="start with the views in FILE and save the best views of the person seen longest there",
    )
    parser.add_argument(
        "--audio-delay", action="store_true", help="print the delay to set for the sound in OBS"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML settings instead of configs/live.toml"
    )
