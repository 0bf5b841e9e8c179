"""Frames that are woven of two moments: whether a video is interlaced or telecined, and one moment out of two.

A field is every other line of a frame. FFmpeg's `idet` measures in which order neighbouring fields fit together best,
whatever the file says of itself; its `bwdif` makes whole frames of fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import av
from av.filter import Graph

from pipeline.errors import SourceError

MODES = ("none", "frame", "field")

_FEWEST = 12
"""Combed frames below which nothing is claimed: noise and heavy compression comb a frame now and then."""
_SHARE = 0.25
"""Share of the frames that move, from which a video is interlaced."""
_AGREEMENT = 4
"""So many times more frames must be combed in one order of fields than in the other."""
_CYCLE = 5
"""Frames after which 3:2 pulldown repeats: four of film on five of video."""
_PHASE = 0.8
"""Share of the frames at one place of the cycle that must be alike."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What was seen of a video's fields in some stretches of it."""

    frames: int = 0
    """Frames that were looked at."""
    flagged: int = 0
    """Those that the file marks as interlaced."""
    combed: int = 0
    """Those in which the two fields show different moments, in the order `first`."""
    moving: int = 0
    """Frames of which can be said what they are; nothing is known of a still picture."""
    first: Literal["top", "bottom"] | None = None
    """The field that was seen to come first; None where that is not clear."""
    telecined: bool = False
    """Whole and combed frames take turns as in 3:2 pulldown: film at 24 frames a second on video at 30."""


def look_at_fields(stretches: Iterable[Iterable[av.VideoFrame]]) -> Fields:
    """What the frames of `stretches`, each of frames that follow each other, are woven of."""
    frames = flagged = 0
    seen: Counter[str] = Counter()
    telecined = []
    for stretch in stretches:
        kinds = []
        for marked, kind in _kinds(stretch):
            frames += 1
            flagged += marked
            kinds.append(kind)
        seen.update(kinds)
        telecined.append(_is_pulldown(kinds))
    order, other = ("tff", "bff") if seen["tff"] >= seen["bff"] else ("bff", "tff")
    combed, moving = seen[order], seen["tff"] + seen["bff"] + seen["progressive"]
    clear = combed >= max(_FEWEST, _SHARE * moving, _AGREEMENT * seen[other])
    return Fields(
        frames=frames,
        flagged=flagged,
        combed=combed,
        moving=moving,
        first=({"tff": "top", "bff": "bottom"}[order] if clear else None),  # type: ignore[arg-type]
        telecined=clear and 2 * sum(telecined) > len(telecined),
    )


def deinterlaced(
    path: Path, frames: Iterable[av.VideoFrame], time_base: Fraction, mode: str, first: str | None
) -> Iterator[av.VideoFrame]:
    """Whole frames out of the fields of `frames` of the file `path`, whose times are ticks of `time_base` and grow.

    `mode`: "frame" gives one for each, of the moment of its first field, at its time; "field" two, the second in the
    middle to the next frame; their times are ticks of half of `time_base`. `first`: the field that comes first, None
    for what the frames say (top, where they say nothing). Each result depends on three frames: its own and the two
    beside it. Raises SourceError for frames that the filter does not take.
    """
    parity = {"top": "tff", "bottom": "bff", None: "auto"}[first]
    graph: Graph | None = None
    for native in frames:
        if graph is None:
            kind = f"{path}: frames of {native.width}x{native.height} {native.format.name}"
            try:
                graph = _graph(native, time_base, "bwdif", f"mode=send_{mode}:parity={parity}:deint=all")
            except av.error.FFmpegError as error:
                raise _refusal(kind) from error
        native.time_base = time_base
        graph.push(native)
        for whole in _pull(graph, time_base, mode):
            if whole.format.name != native.format.name:
                # Converted on the way, with a loss.
                raise _refusal(kind)
            yield whole
    if graph is not None:
        graph.push(None)
        yield from _pull(graph, time_base, mode)


def _refusal(kind: str) -> SourceError:
    return SourceError(
        f"frames of {kind} cannot be deinterlaced; convert the video first, or leave it interlaced"
    )


def on_fields(fields: Fields, marked: bool, mode: str) -> list[str]:
    """What to say of a video with these fields, which the file marks as interlaced or not, in sentences."""
    if fields.telecined:
        remedy = "undo it first by an inverse telecine (FFmpeg: -vf fieldmatch,decimate)"
        woven = "the video is film at 24 frames a second woven into 30 (3:2 pulldown)"
        if mode == "none":
            return [f"{woven}: faces are restored as they are, two of five frames combed; {remedy}"]
        return [f"{woven}: --deinterlace blurs it; {remedy}, and leave --deinterlace out"]
    if mode != "none":
        if fields.first is None and not marked:
            return ["no interlacing was seen: leave --deinterlace out, it only softens whole frames"]
        return []
    if fields.first is not None:
        unsaid = "" if marked else ", though its file does not say so"
        return [
            f"the video is interlaced{unsaid} ({fields.combed} of {fields.moving} moving frames show two moments): "
            "faces are restored as they are; --deinterlace makes whole frames first"
        ]
    if marked and fields.moving >= _FEWEST and not fields.combed:
        return ["the video is marked as interlaced, but its frames look whole: nothing needs to be done"]
    if marked:
        return [
            "the video is marked as interlaced; if it looks combed, --deinterlace makes whole frames first"
        ]
    return []


def _pull(graph: Graph, time_base: Fraction, mode: str) -> Iterator[av.VideoFrame]:
    base = time_base / 2 if mode == "field" else time_base
    for native in _ready(graph):
        assert native.pts is not None
        assert native.time_base is not None
        native.pts = round(native.pts * native.time_base / base)
        native.time_base = base
        yield native


def _kinds(frames: Iterable[av.VideoFrame]) -> Iterator[tuple[bool, str]]:
    """Of each frame whether it is marked as interlaced, and idet's word for it: progressive, tff, bff or
    undetermined."""
    graph: Graph | None = None
    # Noted here, as idet marks the frames anew.
    marks: list[bool] = []
    seen: list[str] = []
    for number, native in enumerate(frames):
        marks.append(native.interlaced_frame)
        if graph is None:
            graph = _graph(native, Fraction(1, 25), "idet")
        native.pts, native.time_base = number, Fraction(1, 25)
        graph.push(native)
        seen += [each.metadata["lavfi.idet.single.current_frame"] for each in _ready(graph)]
    if graph is not None:
        graph.push(None)
        seen += [each.metadata["lavfi.idet.single.current_frame"] for each in _ready(graph)]
    return zip(marks, seen, strict=False)


def _graph(like: av.VideoFrame, time_base: Fraction, name: str, arguments: str | None = None) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=time_base)
    middle, end = graph.add(name, arguments), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(end)
    graph.configure()
    return graph


def _ready(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            native = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(native, av.VideoFrame)
        yield native


def _is_pulldown(kinds: list[str]) -> bool:
    """Whether whole and combed frames take turns in a cycle of five."""
    if len(kinds) < 2 * _CYCLE:
        return False
    whole = combed = 0
    for place in range(_CYCLE):
        here = Counter(islice(kinds, place, None, _CYCLE))
        known = here["tff"] + here["bff"] + here["progressive"]
        if known:
            whole += here["progressive"] >= _PHASE * known
            combed += here["tff"] + here["bff"] >= _PHASE * known
    return whole >= 1 and combed >= 2 and whole + combed == _CYCLE
