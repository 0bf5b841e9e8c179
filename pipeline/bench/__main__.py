"""Measurements as commands: `python -m pipeline.bench table`, `overhead|flicker|memory|landmarks CLIP ...`,
`live|serve|long CLIP`, `calls CLIP [CLIP]`, `networks` or `pixels`.

Exit codes: 0 done, 2 wrong option or setting, 3 wrong checkpoint, 4 unreadable or unwritable file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import configs
from configs import ConfigError
from models.weights import CheckpointError
from pipeline.bench.live import Form, calls, chosen_calls, live, read_rate, read_size
from pipeline.bench.memory import long, memory
from pipeline.bench.pixels import pixels
from pipeline.bench.speed import networks
from pipeline.bench.steadiness import flicker, landmarks
from pipeline.bench.throughput import overhead, table, ways
from pipeline.config import PipelineConfig
from pipeline.media.decode import open_input


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement, prints its figures and returns the exit code."""
    options = _parser().parse_args(arguments)
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
        # The measured command has printed the reason.
        return int(error.returncode)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses wrong settings and clips before the measurement, which may use them late or in another process."""
    if "changes" in options:
        _config(options)
    for clip in [*getattr(options, "clips", ()), *([options.clip] if "clip" in options else ())]:
        open_input(clip).close()


def _refuse(error: Exception, code: int) -> int:
    print(f"anchorface: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        measure: Callable[..., object],
        run: Callable[[argparse.Namespace], object],
        name: str = "",
        clips: str | None = None,
        settings: bool = True,
    ) -> argparse.ArgumentParser:
        """A word for `measure`. `clips`: number of clips as in argparse, "" = one."""
        command = commands.add_parser(
            name or measure.__name__, help=(measure.__doc__ or "").partition("\n")[0]
        )
        if clips == "":
            command.add_argument("clip", metavar="CLIP", type=Path)
        elif clips is not None:
            command.add_argument("clips", metavar="CLIP", nargs=clips, type=Path)
        if settings:
            command.add_argument("--set", dest="changes", metavar="A.B=C", action="append", default=[])
        command.set_defaults(run=run)
        return command

    command = add(networks, lambda o: networks(o.rounds, o.iconface), settings=False)
    _add_rounds(command, 40)
    command.add_argument(
        "--iconface", type=Path, metavar="CHECKPOINT", help="weights of iconface instead of the shipped ones"
    )
    command = add(overhead, lambda o: overhead(o.clips, _config(o), o.runs), clips="*")
    command.add_argument("--runs", type=int, default=3, help="number of runs for the medians")
    add(flicker, lambda o: flicker(o.clips, _config(o)), clips="+")
    add(memory, lambda o: memory(o.clips, o.changes), clips="+")
    add(landmarks, lambda o: landmarks(o.clips, _config(o)), clips="+")
    command = add(live, _live, clips="")
    command.add_argument("--seconds", type=float, default=60.0, help="length of the run")
    command.add_argument("--size", type=read_size, metavar="WxH", help="scale and crop the clip to this size")
    command.add_argument(
        "--rate", type=read_rate, metavar="N", help="frames per second instead of the clip's own"
    )
    _add_json(command)
    command = add(calls, _calls, clips="+")
    command.add_argument("--seconds", type=float, default=60.0, help="length of each call")
    _add_only(command)
    _add_json(command)
    command = add(long, lambda o: long(o.clip, o.frames, o.changes), clips="")
    command.add_argument("--frames", type=int, default=10_000, help="minimum length of the film")
    add(_codings, lambda o: _codings(o.clip, _config(o)), name="serve", clips="")
    _add_rounds(add(pixels, lambda o: pixels(_config(o), o.rounds)), 20)
    command = add(table, _table)
    _add_rounds(command, 3)
    command.add_argument("--frames", type=int, default=50, help="length of the generated clips")
    _add_only(command)
    _add_json(command)
    return parser


def _add_rounds(command: argparse.ArgumentParser, default: int) -> None:
    command.add_argument("--rounds", type=int, default=default, help="number of rounds for the medians")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")


def _add_only(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="only rows whose name contains one of the comma-separated WORDS",
    )


def _config(options: argparse.Namespace, preset: str | None = None) -> PipelineConfig:
    return configs.load(PipelineConfig, configs.preset(preset) if preset else None, options.changes)


def _live(options: argparse.Namespace) -> None:
    form = Form(options.size, options.rate)
    live(options.clip, _config(options, "live"), options.seconds, form, options.json)


def _calls(options: argparse.Namespace) -> None:
    calls(options.clips, options.seconds, chosen_calls(options.only), options.changes, options.json)


def _table(options: argparse.Namespace) -> None:
    words = options.only.split(",")
    chosen = [way for way in ways() if any(word in way.name for word in words)]
    table(options.rounds, options.frames, options.changes, options.json, chosen)


def _codings(clip: Path, config: PipelineConfig) -> None:
    """Loss of faces in the video encoding of the page, for both codecs."""
    from pipeline.bench.serve import codings  # needs the extra `serve`

    codings(clip, config)


if __name__ == "__main__":
    sys.exit(main())
