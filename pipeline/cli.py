"""The command line. Exit codes: 0 done, 2 a wrong option or setting, 3 a wrong checkpoint, 4 a file that cannot be
read or written, 5 done but the input was damaged, 130 interrupted, 1 a bug of ours."""

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
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import configs
from configs import ConfigError
from pipeline import __version__
from pipeline.errors import DAMAGED, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Names of files need not be text that the terminal can show.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        # `docker stop` and systemd ask this way; what Ctrl-C cleans up is cleaned up here too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_packages()
        logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
        if arguments[:1] == ["demo"]:
            return _demo(_demo_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["live"]:
            return _live(arguments[1:])
        if arguments[:1] == ["serve"]:
            return _serve(arguments[1:])
        if arguments[:1] == ["scan"]:
            return _scan(arguments[1:])
        return _restore(_parser().parse_args(arguments))
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except (ConfigError, ModuleNotFoundError) as error:
        return _refuse(error, 2)
    except BrokenPipeError:
        # Whoever read our output has left (`... | head`); so do we, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if asked := _interrupt_behind(error):
            return _interrupted(asked)
        from models.weights import CheckpointError
        from pipeline.errors import MediaError

        if isinstance(error, CheckpointError):
            return _refuse(error, 3)
        if isinstance(error, MediaError):
            return _refuse(error, 4)
        print("this is a bug in anchorface; please report it with the following lines", file=sys.stderr)
        raise


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    print(str(interrupt) or "interrupted; no unfinished file was left", file=sys.stderr)
    return INTERRUPTED


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that `error` came of: libraries turn one that they meet while they load into errors of theirs."""
    seen: set[int] = set()
    # An error can be its own cause.
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _refuse(error: Exception, code: int) -> int:
    print(f"anchorface: {error}", file=sys.stderr)
    return code


def _restore(options: argparse.Namespace) -> int:
    from pipeline.config import PipelineConfig
    from pipeline.people.cast import read_cast
    from pipeline.report.progress import progress
    from pipeline.report.provenance import settings_hash
    from pipeline.runs.assembly import open_source
    from pipeline.runs.film import files_of, is_queue, restore_video

    config = configs.load(PipelineConfig, options.config, _changes(options))
    if options.tries:
        return _try(options)
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
    if options.progress == "json":
        print(json.dumps({"event": "done", **report.as_dict()}))
    else:
        print(report.summary())
    return DAMAGED if report.damage else 0


def _try(options: argparse.Namespace) -> int:
    """Several settings on a stretch, beside each other."""
    from pipeline.report.progress import Watcher, progress
    from pipeline.runs.film import is_queue
    from pipeline.runs.trial import Try, make_tries, run_trial

    tries = make_tries(options.tries, options.config, _changes(options))
    if is_queue(options.inputs):
        raise ConfigError("--try is for one video; give one input")
    if options.dry_run:
        print("\n".join(each.name for each in tries))
        return 0

    def watching(each: Try) -> AbstractContextManager[Watcher]:
        if options.progress in ("bar", "plain"):
            print(f"{each.name} ({each.place} of {each.of})", file=sys.stderr, flush=True)
        return progress(options.progress)

    trial = run_trial(options.inputs[0], options.output, tries, watching)
    if options.progress == "json":
        print(json.dumps({"event": "done", **trial.as_dict()}))
    else:
        print(trial.summary())
    return DAMAGED if any(report.damage for _, report in trial.tries) else 0


def _restore_several(options: argparse.Namespace, config: PipelineConfig) -> int:
    """A queue: one summary, and the code of the first thing that went wrong."""
    from pipeline.report.progress import Watcher, progress
    from pipeline.runs.film import Item, Summary, make_queue, run_queue

    if config.output.report is not None:
        raise ConfigError("--report is a page about one film; give one input")

    def watching(item: Item) -> AbstractContextManager[Watcher]:
        if options.progress in ("bar", "plain"):
            print(f"{item.input} ({item.place} of {item.of})", file=sys.stderr, flush=True)
        return progress(options.progress)

    summary = Summary()
    items = make_queue(options.inputs, options.output)
    try:
        run_queue(items, config, watching, summary)
    finally:
        if options.progress == "json":
            print(json.dumps({"event": "done", **summary.as_dict()}))
        else:
            print(summary.text())
    if summary.failed:
        return FAILED
    return DAMAGED if any(report.damage for _, report in summary.done) else 0


def _demo(options: argparse.Namespace) -> int:
    from pipeline.runs.demo import demo

    print(demo(options.output, overwrite=options.overwrite).summary())
    return 0


def _live(arguments: Sequence[str]) -> int:
    from pipeline.live.command import add_arguments, command

    parser = _Parser(prog="python -m pipeline live", description="Restores faces in live pictures, in time.")
    add_arguments(parser)
    _add_common(parser)
    parser.add_argument("--progress", choices=["plain", "json", "none"], default="plain")
    options = parser.parse_args(arguments)
    return command(options, _changes(options))


def _serve(arguments: Sequence[str]) -> int:
    try:
        from pipeline.serve.command import add_arguments, command
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serve needs the package {error.name}; install it with `pip install anchorface[serve]`"
        ) from error

    parser = _Parser(
        prog="python -m pipeline serve", description="A local page that restores a camera, and files."
    )
    add_arguments(parser)
    _add_common(parser)
    options = parser.parse_args(arguments)
    return command(options, _changes(options))


def _scan(arguments: Sequence[str]) -> int:
    from pipeline.people.command import add_arguments, command

    parser = _Parser(prog="python -m pipeline scan", description="Finds out who is in films.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return FAILED if command(options, _changes(options)).failed else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pipeline",
        description="Restores faces in video, anchored to each person's own best frames.",
        epilog="`python -m pipeline demo OUT.mp4` makes a short damaged clip, restores it and writes before | after; "
        "`python -m pipeline live SOURCE SINK` restores cameras and streams as they come; "
        "`python -m pipeline serve` does so on a page in the browser; "
        "`python -m pipeline scan FILM ... --people FOLDER` finds out who is in films.",
    )
    inputs = "a video, a photo, a folder of photos or of videos; several are restored one after the other"
    parser.add_argument("inputs", metavar="IN", type=Path, nargs="+", help=inputs)
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="where the result goes: the kind of IN, or a folder for several",
    )
    _add_common(parser)
    parser.add_argument("--compare", action="store_true", help="write before | after side by side")
    page = "also write what was done to whom as a page that needs nothing else"
    parser.add_argument("--report", type=Path, metavar="FILE.html", help=page)
    signed = "sign a C2PA manifest of what was done: a PEM file of certificates and key (extra `provenance`)"
    parser.add_argument("--c2pa", type=Path, metavar="CERT_AND_KEY", help=signed)
    passes = "look through the whole film first, so that views of later scenes serve earlier ones"
    parser.add_argument("--two-passes", action="store_true", help=passes)
    log = "also write which views each face was restored with, as lines of JSON"
    parser.add_argument("--references-log", type=Path, metavar="FILE", help=log)
    parser.add_argument("--start", type=float, metavar="SECONDS", help="begin here (a trial)")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after this much (a trial)")
    tried = "one video that shows several settings beside each other, and a page; may be repeated: all combinations"
    parser.add_argument("--try", metavar="NAME=A,B", action="append", default=[], dest="tries", help=tried)
    woven = "make whole frames of interlaced ones: one for each (frame, the default), or one for each field (field)"
    parser.add_argument("--deinterlace", nargs="?", const="frame", choices=["frame", "field"], help=woven)
    parser.add_argument("--codec", help="video encoder: auto, h264, h265, av1, vp9, ffv1, h264_nvenc, ...")
    parser.add_argument("--crf", type=float, help="quality of the encoder, lower is better")
    parser.add_argument("--preset", help="speed of the encoder, for example fast, medium, slow")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings as TOML (see configs/default.toml)"
    )
    shown = "bar" if sys.stderr.isatty() else "plain"
    parser.add_argument("--progress", choices=["bar", "plain", "json", "none"], default=shown)
    resume = "keep finished chunks in OUT.parts, so that the same command goes on after an interruption"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--workers", type=int, metavar="N", help="restore chunks in N processes")
    cluster = (
        "restore chunks on a Ray cluster, one worker a GPU; without ADDRESS on this machine's (extra `scale`)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto", help=cluster)
    parser.add_argument(
        "--strict", action="store_true", help="fail on damaged input instead of keeping the rest"
    )
    parser.add_argument("--dry-run", action="store_true", help="print all settings and facts of IN, and stop")
    parser.add_argument("--version", action="version", version=f"anchorface {__version__}")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """What files and live pictures share."""
    parser.add_argument(
        "--restorer",
        metavar="auto|fast|iconface|klein|none|PATH",
        help="what restores faces (default: auto); PATH: a checkpoint of ours, GFPGAN, RestoreFormer or CodeFormer",
    )
    reference = "a clear photo, a folder of photos, or a clip of a person in the film; may be repeated"
    parser.add_argument(
        "--reference", metavar="PHOTO|FOLDER|CLIP", action="append", default=[], help=reference
    )
    gallery = "the people of the film, by name: a folder made by `python -m pipeline scan`"
    parser.add_argument("--people", type=Path, metavar="FOLDER", help=gallery)
    only = "restore this person of the gallery and nobody else; may be repeated"
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help=only)
    skip = "leave this person of the gallery as he or she is; may be repeated"
    parser.add_argument("--skip", metavar="NAME", action="append", default=[], help=skip)
    steps = "passes of iconface or klein for each face (default: as many as the model was made for)"
    parser.add_argument("--steps", type=int, metavar="N", help=steps)
    parser.add_argument("--strength", type=float, help="0 changes nothing, 1 restores fully (default: 1)")
    parser.add_argument("--device", metavar="auto|cpu|cuda", help="where faces are restored (default: auto)")
    parser.add_argument(
        "--seed", type=int, help="seed of everything random: of grain and of what restorers draw"
    )
    change = "change one setting, for example track.lookahead=48; may be repeated"
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="changes", help=change)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _demo_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pipeline demo", description="Shows before | after on a clip made here.")
    parser.add_argument("output", metavar="OUT", type=Path, help="the video to write, for example demo.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def _changes(options: argparse.Namespace) -> list[str]:
    """The options as settings; they come last, so they win over the file, and `--set` wins over them."""
    given = vars(options).get
    settings = {
        "restorer.kind": given("restorer"),
        "restorer.device": given("device"),
        "restorer.steps": given("steps"),
        "restorer.seed": given("seed"),
        "input.references": given("reference") or None,
        "input.people": str(options.people) if given("people") else None,
        "input.only": given("only") or None,
        "input.skip": given("skip") or None,
        "input.two_passes": given("two_passes") or None,
        "input.start_seconds": given("start"),
        "input.duration_seconds": given("duration"),
        "input.strict": given("strict") or None,
        "input.deinterlace": given("deinterlace"),
        "blend.strength": given("strength"),
        "blend.seed": given("seed"),
        "encode.codec": given("codec"),
        "encode.crf": given("crf"),
        "encode.preset": given("preset"),
        "output.compare": given("compare") or None,
        "output.overwrite": given("overwrite") or None,
        "output.report": str(options.report) if given("report") else None,
        "output.c2pa": str(options.c2pa) if given("c2pa") else None,
        "output.references_log": str(options.references_log) if given("references_log") else None,
        "scan.every_seconds": given("every"),
        "chunks.resume": given("resume") or None,
        "chunks.workers": given("workers"),
        "chunks.ray": given("ray"),
    }
    # A JSON scalar or list of strings is a TOML value too, and Python writes inf and nan as TOML does.
    written = {
        n: repr(v) if isinstance(v, float) else json.dumps(v) for n, v in settings.items() if v is not None
    }
    return [f"{name}={text}" for name, text in written.items()] + list(options.changes)


def _check_packages() -> None:
    """Refuses to run where another distribution has put its files over one of our four packages.

    pip merges folders of the same name without a word, so a path check cannot see it; the mark in each can.
    """
    for name in ("configs", "models", "trackers", "pipeline"):
        if getattr(importlib.import_module(name), "__project__", None) == "anchorface":
            continue
        owners = importlib.metadata.packages_distributions().get(name, [])
        others = ", ".join(sorted(set(owners) - {"anchorface"})) or "an unknown distribution"
        raise ConfigError(
            f"the package {name!r} here belongs to {others}; install anchorface into an environment of its own"
        )
