"""Makes small clips of every kind, from the astronaut picture of scikit-image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from skimage import data

if TYPE_CHECKING:
    from av.container.core import Chapter

NTSC = Fraction(30000, 1001)


@dataclass(frozen=True)
class Tags:
    """Range, primaries, transfer and matrix in FFmpeg's numbers."""

    range: int = 1
    primaries: int = 1
    transfer: int = 1
    matrix: int = 1


@lru_cache(maxsize=1)
def astronaut() -> NDArray[np.uint8]:
    """uint8 (512, 512, 3) RGB."""
    return np.asarray(data.astronaut(), np.uint8)


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A view of the astronaut that drifts with `index`, and begins again after 100: uint8 (height, width, 3) RGB."""
    index %= 100
    view = astronaut()[index : index + 400, 20 + 2 * index : 420 + 2 * index]
    return np.asarray(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def native_frame(
    index: int = 0,
    width: int = 160,
    height: int = 120,
    pixel_format: str = "yuv420p",
    tags: Tags | None = None,
) -> av.VideoFrame:
    """One frame as a decoder would give it."""
    tags = tags or Tags()
    frame = av.VideoFrame.from_ndarray(picture(index, width, height), "rgb24")
    frame = frame.reformat(
        format=pixel_format,
        dst_colorspace=tags.matrix,
        src_color_range=2,
        dst_color_range=2 if pixel_format.startswith("yuvj") else tags.range,
    )
    frame.color_range, frame.color_primaries = tags.range, tags.primaries
    frame.color_trc, frame.colorspace = tags.transfer, tags.matrix
    return frame


def write_clip(
    path: Path,
    *,
    frames: int = 12,
    width: int = 160,
    height: int = 120,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = NTSC,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    hidden: int = 0,
    options: dict[str, str] | None = None,
    flags: int = 0,
    tags: Tags | None = None,
    rotation: int = 0,
    display_matrix: tuple[int, ...] | None = None,
    aspect: Fraction | None = None,
    sound: Sequence[str] = (),
    subtitles: str = "",
    cover: bool = False,
    second_video: bool = False,
    attachment: bytes = b"",
    metadata: dict[str, str] | None = None,
    chapters: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes a clip. `times` are ticks of `time_base`; an edit list hides the first `hidden` frames."""
    time_base = time_base or 1 / rate
    times = times if times is not None else range(frames)
    with av.open(str(path), "w", container_options=container_options or {}) as output:
        video = _video_stream(output, codec, rate, options)
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.codec_context.time_base = video.time_base = time_base
        video.codec_context.flags |= flags
        if tags:
            context = video.codec_context
            context.color_range, context.color_primaries = tags.range, tags.primaries
            context.color_trc, context.colorspace = tags.transfer, tags.matrix
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        if display_matrix:
            video.set_display_matrix(display_matrix)
        video.metadata["language"] = "fre"
        voices = [_sound_stream(output, name) for name in sound]
        text = output.add_mux_stream(subtitles) if subtitles else None
        if text is not None:
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = "ger"
            text.disposition = av.stream.Disposition.forced
        second = _video_stream(output, codec, rate, options) if second_video else None
        if second is not None:
            second.width, second.height, second.pix_fmt = 64, 64, "yuv420p"
        art = _cover_stream(output) if cover else None
        if attachment:
            output.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        output.metadata.update(metadata or {})
        if chapters:
            ends = ((0, 200, "one"), (200, 400, "two"))
            output.set_chapters([_chapter(*values) for values in ends])
        output.start_encoding()
        if art is not None:
            output.mux(_cover_packet(art))
        for stream in voices:
            output.mux(_sound(stream))
        if text is not None:
            output.mux(_subtitle(text, subtitles))
        if second is not None:
            for index in range(len(times)):
                output.mux(second.encode(_timed(native_frame(index, 64, 64), index, 1 / rate)))
            output.mux(second.encode())
        shift = times[hidden] if hidden else 0
        for index, tick in enumerate(times):
            frame = _timed(native_frame(index, width, height, pixel_format, tags), tick, time_base)
            output.mux(_moved(video.encode(frame), shift))
        output.mux(_moved(video.encode(), shift))
    return path


def write_sound(path: Path) -> Path:
    """Half a second of sound without pictures."""
    with av.open(str(path), "w", format="matroska") as output:
        output.mux(_sound(_sound_stream(output, "pcm_s16le")))
    return path


def packets(
    path: Path, kinds: Iterable[str] = ("audio", "subtitle")
) -> list[list[tuple[Fraction | None, str]]]:
    """Time and hash of every packet of the streams of `kinds`, stream by stream."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type in kinds]
        found: dict[int, list[tuple[Fraction | None, str]]] = {stream.index: [] for stream in streams}
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                time = None if packet.pts is None else packet.pts * packet.time_base
                found[packet.stream_index].append((time, hashlib.md5(bytes(packet)).hexdigest()))
    return list(found.values())


def shown_times(path: Path) -> list[Fraction]:
    """Presentation times of the video, as plain PyAV decodes them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.pts * frame.time_base for frame in container.decode(stream)]


def truncate(path: Path, share: float) -> Path:
    """Keeps the first `share` of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _video_stream(
    output: OutputContainer, codec: str, rate: Fraction, options: dict[str, str] | None
) -> VideoStream:
    quick = {"preset": "ultrafast", "qp": "12"} if codec == "libx264" else {}
    stream = output.add_stream(codec, rate=rate, options=options if options is not None else quick)
    assert isinstance(stream, VideoStream)
    return stream


def _chapter(start: int, end: int, title: str) -> Chapter:
    base = Fraction(1, 1000)
    return {"id": start + 1, "start": start, "end": end, "time_base": base, "metadata": {"title": title}}


def _timed(frame: av.VideoFrame, tick: int, time_base: Fraction) -> av.VideoFrame:
    frame.pts, frame.time_base = tick, time_base
    return frame


def _moved(encoded: list[av.Packet], ticks: int) -> list[av.Packet]:
    for packet in encoded:
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
    return encoded


def _sound_stream(output: OutputContainer, codec: str) -> av.audio.stream.AudioStream:
    stream = output.add_stream(codec, rate=48000)
    stream.metadata["language"] = "eng"
    stream.metadata["title"] = "voice"
    return stream


def _sound(stream: av.audio.stream.AudioStream) -> list[av.Packet]:
    """Half a second of a tone."""
    stream.codec_context.open(strict=False)
    wave = (8000 * np.sin(np.arange(24000) / 16)).astype(np.int16)
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, stream.layout, 48000, context.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "s16", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    encoded = []
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        encoded += stream.encode(part)
    return encoded + stream.encode(None)


def _subtitle(stream: av.stream.Stream, codec: str) -> list[av.Packet]:
    encoded = []
    for start, words in ((50, b"hello"), (250, b"world")):
        packet = av.Packet(len(words).to_bytes(2, "big") + words if codec == "mov_text" else words)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = 100
        encoded.append(packet)
    return encoded


def _cover_stream(output: OutputContainer) -> VideoStream:
    stream = output.add_stream("mjpeg", rate=25)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _cover_packet(stream: VideoStream) -> list[av.Packet]:
    return [
        *stream.encode(_timed(native_frame(0, 64, 64, "yuvj420p", Tags(range=2)), 0, Fraction(1, 25))),
        *stream.encode(),
    ]
