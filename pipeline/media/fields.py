"""Detects interlaced and telecined video, and deinterlaces it.

A field is every other line of a frame. FFmpeg's `idet` measures the field order that fits best, whatever the file says;
its `bwdif` interpolates progressive frames.
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
"""Minimum combed frames: noise and heavy compression comb single frames."""
_SHARE = 0.25
"""Minimum share of combed frames among the moving ones."""
_AGREEMENT = 4
"""Minimum ratio of combed frames in one field order to the other."""
_CYCLE = 5
"""Period of 3:2 pulldown in frames: four of film on five of video."""
_PHASE = 0.8
"""Minimum share of equal frames at one phase of the cycle."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Field statistics of some samples of a video."""

    frames: int = 0
    """Frames examined."""
    flagged: int = 0
    """Frames marked as interlaced by the file."""
    combed: int = 0
    """Frames whose fields show different moments, in the order `first`."""
    moving: int = 0
    """Frames with enough motion to be classified."""
    first: Literal["top", "bottom"] | None = None
    """The field that comes first; None if unclear."""
    telecined: bool = False
    """Whether progressive and combed frames alternate as in 3:2 pulldown: film at 24 frames a second on video at 30."""


def look_at_fields(stretches: Iterable[Iterable[av.VideoFrame]]) -> Fields:
    """Statistics over `stretches`, each of successive frames."""
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
    """Progressive frames from `frames` of the file `path`, whose times are increasing ticks of `time_base`.

    `mode`: "frame" gives one per frame, of its first field, at its time; "field" gives two, the second halfway to the
    next frame, with times in ticks of half of `time_base`. `first`: the first field, None = as marked (else top).
    Each result depends on its frame and the two neighbours. Raises SourceError for frames that the filter refuses.
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
                # The filter converted them, with a loss.
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
    """Warnings for a video with these fields, which the file marks as interlaced or not."""
    if fields.telecined:
        remedy = "undo it first by an inverse telecine (FFmpeg: -vf fieldmatch,decimate)"
        woven = "the video is film at 24 frames a second telecined to 30 (3:2 pulldown)"
        if mode == "none":
            return [f"{woven}: faces are restored as they are, two of five frames combed; {remedy}"]
        return [f"{woven}: --deinterlace blurs it; {remedy}, and leave --deinterlace out"]
    if mode != "none":
        if fields.first is None and not marked:
            return ["no interlacing was found: leave --deinterlace out, it only softens progressive frames"]
        return []
    if fields.first is not None:
        unsaid = "" if marked else ", though its file does not say so"
        return [
            f"the video is interlaced{unsaid} ({fields.combed} of {fields.moving} moving frames show two moments): "
            "faces are restored as they are; --deinterlace makes progressive frames first"
        ]
    if marked and fields.moving >= _FEWEST and not fields.combed:
        return ["the video is marked as interlaced, but its frames are progressive: nothing needs to be done"]
    if marked:
        return [
            "the video is marked as interlaced; if it looks combed, --deinterlace makes progressive frames first"
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
    """For each frame whether it is marked as interlaced, and idet's class: progressive, tff, bff or undetermined."""
    graph: Graph | None = None
    # Read first: idet overwrites the mark.
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
    """Whether progressive and combed frames alternate in a cycle of five."""
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
