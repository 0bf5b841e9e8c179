"""The command line. Exit codes: 0 done, 2 a wrong option or setting, 3 a wrong checkpoint, 4 a file that cannot be
read or written, 5 done but the input was damaged, 130 interrupted, 1 a bug in anchorface."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import configs
from configs import ConfigError
from pipeline import __version__
from pipeline.errors import DAMAGED, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig
    from pipeline.report.counts import Report
    from pipeline.report.progress import Watcher
    from pipeline.runs.film import Summary
    from pipeline.runs.trial import Trial


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # File names may hold characters that the terminal cannot encode.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        # `docker stop` and systemd send it; clean up as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_packages()
        logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
        command = _COMMANDS.get(arguments[0]) if arguments else None
        return command(arguments[1:]) if command else _restore(_parser().parse_args(arguments))
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except BrokenPipeError:
        # The reader of our output has exited (`... | head`); exit silently.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if behind := _interrupt_behind(error):
            return _interrupted(behind)
        code: int | None = 2 if isinstance(error, ModuleNotFoundError) else getattr(error, "exit_code", None)
        if code is None:
            print("this is a bug in anchorface; please report it with the following lines", file=sys.stderr)
            raise
        print(f"anchorface: {error}", file=sys.stderr)
        return code


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    print(str(interrupt) or "interrupted; no unfinished file was left", file=sys.stderr)
    return INTERRUPTED


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that caused `error`: libraries turn an interrupt during their import into other errors."""
    seen: set[int] = set()
    # An error can be its own cause.
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _restore(options: argparse.Namespace) -> int:
    from pipeline.config import PipelineConfig
    from pipeline.people.cast import check_steps, read_cast
    from pipeline.report.progress import progress
    from pipeline.report.provenance import settings_hash
    from pipeline.runs.assembly import open_source
    from pipeline.runs.film import files_of, is_queue, restore_video

    config = configs.load(PipelineConfig, options.config, _changes(options))
    if options.tries:
        return _try(options)
    check_steps(options.steps, config)
    if options.dry_run:
        print(configs.dump(config))
        print(f"# settings sha256: {settings_hash(config)}")
        for path in files_of(options.inputs):
            read_cast(config.input, path.name)
            print("# input")
            for name, value in open_source(path, config).info.as_dict().items():
                print(f"#   {name}: {value}")
        return 0
    if is_queue(options.inputs):
        return _restore_several(options, config)
    with progress(options.progress) as watch:
        report = restore_video(
            options.inputs[0], options.output, config, opened=watch.opened, watch=watch.update
        )
    _print_result(options, report)
    return DAMAGED if report.damage else 0


def _try(options: argparse.Namespace) -> int:
    """A trial of several settings."""
    from pipeline.runs.film import is_queue
    from pipeline.runs.trial import Try, make_tries, run_trial

    tries = make_tries(options.tries, options.config, _changes(options))
    if is_queue(options.inputs):
        raise ConfigError("--try is for one video; give one input")
    if options.dry_run:
        print("\n".join(each.name for each in tries))
        return 0

    def watching(each: Try) -> AbstractContextManager[Watcher]:
        return _titled_progress(options, f"{each.name} ({each.place} of {each.of})")

    trial = run_trial(options.inputs[0], options.output, tries, watching)
    _print_result(options, trial)
    return DAMAGED if any(report.damage for _, report in trial.tries) else 0


def _restore_several(options: argparse.Namespace, config: PipelineConfig) -> int:
    """Several inputs in turn."""
    from pipeline.runs.film import Item, Summary, make_queue, run_queue

    if config.output.report is not None:
        raise ConfigError("--report is for one film; give one input")

    def watching(item: Item) -> AbstractContextManager[Watcher]:
        return _titled_progress(options, f"{item.input} ({item.place} of {item.of})")

    summary = Summary()
    items = make_queue(options.inputs, options.output)
    try:
        run_queue(items, config, watching, summary)
    finally:
        _print_result(options, summary)
    if summary.failed:
        return FAILED
    return DAMAGED if any(report.damage for _, report in summary.done) else 0


def _titled_progress(options: argparse.Namespace, title: str) -> AbstractContextManager[Watcher]:
    from pipeline.report.progress import progress

    if options.progress in ("bar", "plain"):
        print(title, file=sys.stderr, flush=True)
    return progress(options.progress)


def _print_result(options: argparse.Namespace, result: Report | Trial | Summary) -> None:
    if options.progress == "json":
        print(json.dumps({"event": "done", **result.as_dict()}))
    else:
        print(result.summary())


def _demo(arguments: Sequence[str]) -> int:
    from pipeline.runs.demo import demo

    parser = _Parser("demo", "Makes a degraded clip, restores it, and writes before | after.")
    parser.add_argument("output", metavar="OUT", type=Path, help="the video to write, for example demo.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    options = parser.parse_args(arguments)
    print(demo(options.output, overwrite=options.overwrite).summary())
    return 0


def _live(arguments: Sequence[str]) -> int:
    from pipeline.live.command import add_arguments, command

    parser = _Parser("live", "Restores faces in live video in real time.")
    add_arguments(parser)
    _add_common(parser)
    shown = "progress: lines, JSON, or none (default: plain)"
    parser.add_argument("--progress", choices=["plain", "json", "none"], default="plain", help=shown)
    options = parser.parse_args(arguments)
    return command(options, _changes(options))


def _serve(arguments: Sequence[str]) -> int:
    try:
        from pipeline.serve.command import add_arguments, command
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serve needs the package {error.name}; install it with `pip install anchorface[serve]`"
        ) from error

    parser = _Parser("serve", "Serves a local page that restores a camera, and files.")
    add_arguments(parser)
    _add_common(parser)
    options = parser.parse_args(arguments)
    return command(options, _changes(options))


def _scan(arguments: Sequence[str]) -> int:
    from pipeline.people.command import add_arguments, command

    parser = _Parser("scan", "Finds the people of films, and makes a gallery of them.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return FAILED if command(options, _changes(options)).failed else 0


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": _demo, "live": _live, "serve": _serve, "scan": _scan
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"python -m pipeline {command}".rstrip(), description=description, epilog=epilog
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "",
        "Restores faces in video, anchored to each person's own best frames.",
        "Other commands: `python -m pipeline demo OUT.mp4` makes a degraded clip and restores it; "
        "`python -m pipeline live SOURCE SINK` restores cameras and streams in real time; "
        "`python -m pipeline serve` does so on a page in the browser; "
        "`python -m pipeline scan FILM ... --people FOLDER` finds the people of films. "
        "Each has its own --help.",
    )
    add = parser.add_argument
    inputs = "a video, a photo, a folder of photos or of videos; several inputs are restored in turn"
    add("inputs", metavar="IN", type=Path, nargs="+", help=inputs)
    output = "the result: a file or folder like IN; for several inputs a folder"
    add("output", metavar="OUT", type=Path, help=output)
    _add_common(parser)
    compare = "write before | after side by side"
    add("--compare", dest="output.compare", action="store_const", const=True, help=compare)
    page = "also write a self-contained page about each person and the restoration"
    add("--report", dest="output.report", metavar="FILE.html", help=page)
    signed = "sign a C2PA manifest with this PEM file of certificates and key (extra `provenance`)"
    add("--c2pa", dest="output.c2pa", metavar="CERT_AND_KEY", help=signed)
    passes = "scan the whole film first, so that views of later scenes serve earlier ones"
    add("--two-passes", dest="input.two_passes", action="store_const", const=True, help=passes)
    log = "also write the views that each face was restored with, as JSON lines"
    add("--references-log", dest="output.references_log", metavar="FILE", help=log)
    add(
        "--start",
        dest="input.start_seconds",
        type=float,
        metavar="SECONDS",
        help="start of the range to restore",
    )
    length = "length of the range to restore"
    add("--duration", dest="input.duration_seconds", type=float, metavar="SECONDS", help=length)
    tried = (
        "write one video and a page that compare several values of a setting; repeatable: all combinations"
    )
    add("--try", metavar="NAME=A,B", action="append", default=[], dest="tries", help=tried)
    woven = "deinterlace: one progressive frame per frame (frame, the default) or per field (field)"
    modes = ["frame", "field"]
    add("--deinterlace", dest="input.deinterlace", nargs="?", const="frame", choices=modes, help=woven)
    codec = "video encoder: auto, h264, h265, av1, vp9, ffv1, h264_nvenc, ..."
    add("--codec", dest="encode.codec", metavar="NAME", help=codec)
    add("--crf", dest="encode.crf", type=float, metavar="N", help="quality of the encoder, lower is better")
    speed = "speed of the encoder, for example fast, medium, slow"
    add("--preset", dest="encode.preset", metavar="NAME", help=speed)
    add("--config", type=Path, metavar="FILE", help="settings as TOML (see configs/default.toml)")
    default = "bar" if sys.stderr.isatty() else "plain"
    shown = "progress: bar, lines, JSON, or none (default: bar on a terminal, else plain)"
    add("--progress", choices=["bar", "plain", "json", "none"], default=default, help=shown)
    resume = "keep finished chunks in OUT.parts, so that the same command continues after an interruption"
    add("--resume", dest="chunks.resume", action="store_const", const=True, help=resume)
    workers = "restore chunks in N processes"
    add("--workers", dest="chunks.workers", type=int, metavar="N", help=workers)
    cluster = (
        "restore chunks on a Ray cluster, one worker per GPU; without ADDRESS on this machine (extra `scale`)"
    )
    add("--ray", dest="chunks.ray", metavar="ADDRESS", nargs="?", const="auto", help=cluster)
    strict = "fail on damaged input instead of keeping the rest"
    add("--strict", dest="input.strict", action="store_const", const=True, help=strict)
    add("--dry-run", action="store_true", help="print all settings and facts about IN, and stop")
    add("--version", action="version", version=f"anchorface {__version__}")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options for files and live video."""
    add = parser.add_argument
    kinds = "restorer (default: auto); PATH: a checkpoint of anchorface, GFPGAN, RestoreFormer or CodeFormer"
    add("--restorer", dest="restorer.kind", metavar="auto|aligned|fast|iconface|klein|none|PATH", help=kinds)
    reference = "a clear photo, a folder of photos, or a clip of a person in the film; repeatable"
    add("--reference", dest="input.references", metavar="PHOTO|FOLDER|CLIP", action="append", help=reference)
    gallery = "gallery of the people in the film: a folder made by `python -m pipeline scan`"
    add("--people", dest="input.people", metavar="FOLDER", help=gallery)
    only = "restore only this person of the gallery; repeatable"
    add("--only", dest="input.only", metavar="NAME", action="append", help=only)
    skip = "do not restore this person of the gallery; repeatable"
    add("--skip", dest="input.skip", metavar="NAME", action="append", help=skip)
    steps = "sampling steps of iconface or klein per face (default: that of the model)"
    add("--steps", type=int, metavar="N", help=steps)
    strength = "0 changes nothing, 1 restores fully (default: 1)"
    add("--strength", dest="blend.strength", type=float, metavar="N", help=strength)
    device = "device of the restorer (default: auto)"
    add("--device", dest="restorer.device", metavar="auto|cpu|cuda", help=device)
    add("--seed", type=int, metavar="N", help="seed of grain and of sampling")
    change = "change one setting, for example track.lookahead=48; repeatable"
    add("--set", metavar="A.B=C", action="append", default=[], dest="changes", help=change)
    replace = "replace OUT if it exists"
    add("--overwrite", dest="output.overwrite", action="store_const", const=True, help=replace)


def _changes(options: argparse.Namespace) -> list[str]:
    """The options as changes of settings: they override the file, and `--set` overrides them.

    An option whose `dest` is the full name of a setting changes that one.
    """
    settings = {name: value for name, value in vars(options).items() if "." in name and value is not None}
    if vars(options).get("steps") is not None:
        settings |= {"restorer.iconface.steps": options.steps, "restorer.klein.steps": options.steps}
    if vars(options).get("seed") is not None:
        settings |= {"restorer.seed": options.seed, "blend.seed": options.seed}
    # A JSON scalar or list of strings is valid TOML; Python's inf and nan are, too.
    written = {n: repr(v) if isinstance(v, float) else json.dumps(v) for n, v in settings.items()}
    return [f"{name}={text}" for name, text in written.items()] + list(options.changes)


def _check_packages() -> None:
    """Refuses to run where another distribution has overwritten one of the four packages.

    pip merges folders of the same name silently; a path check cannot see it, the mark in each package can.
    """
    for name in ("configs", "models", "trackers", "pipeline"):
        if getattr(importlib.import_module(name), "__project__", None) == "anchorface":
            continue
        owners = importlib.metadata.packages_distributions().get(name, [])
        others = ", ".join(sorted(set(owners) - {"anchorface"})) or "an unknown distribution"
        raise ConfigError(
            f"the package {name!r} here belongs to {others}; install anchorface into an environment of its own"
        )
