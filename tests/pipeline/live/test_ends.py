"""Sources and sinks of live runs: recognition, reading, writing and errors."""

from __future__ import annotations

import io
import sys
import threading
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from configs import ConfigError
from pipeline.errors import SinkError, SourceError
from pipeline.live.addresses import Camera, find_camera, library, sink_address, source_address
from pipeline.live.settings import LiveConfig
from pipeline.live.sinks import EncodedSink, NullSink, Outlet, PipeSink, VirtualCamera, open_sink
from pipeline.live.sources import Opened
from pipeline.media.coding import planes_of
from pipeline.media.encode import EncodeConfig
from support.clips import native_frame, write_clip

RATE = Fraction(25)
TWO = [Camera("/dev/video0", "Desk Camera"), Camera("/dev/video2", "Desk Camera HD")]


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("camera:0", "camera", "0"),
        ("camera:Desk Camera", "camera", "Desk Camera"),
        ("Desk Camera", "camera", "Desk Camera"),
        ("rtsp://host/stream", "network", "rtsp://host/stream"),
        ("HTTPS://host/a.ts", "network", "HTTPS://host/a.ts"),
        ("udp://@:5000", "network", "udp://@:5000"),
        ("film.mp4", "file", "film.mp4"),
        ("/no/such/film", "file", "/no/such/film"),
        ("/dev/null", "camera", "/dev/null"),
        ("/dev/video9", "camera", "/dev/video9"),
        (300 * "x", "camera", 300 * "x"),
        ("-", "pipe", "-"),
    ],
)
def test_sources_are_told_apart_by_their_form(text: str, kind: str, place: str) -> None:
    address = source_address(text)
    assert (address.kind, address.place) == (kind, place)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("vcam:", "virtual"),
        ("null:", "null"),
        ("-", "pipe"),
        ("out.mkv", "file"),
        ("rtmp://host/key", "network"),
    ],
)
def test_sinks_are_told_apart_by_their_form(text: str, kind: str) -> None:
    assert sink_address(text).kind == kind


@pytest.mark.parametrize("text", ["ftp://host/a.mp4", "camera:"])
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        source_address(text)


def test_other_sinks_are_refused() -> None:
    with pytest.raises(ConfigError, match="http:// is not written"):
        sink_address("http://host/a.mp4")


def test_a_password_is_not_shown() -> None:
    assert source_address("rtsp://me:secret@host/a").shown == "rtsp://me:***@host/a"


def test_cameras_are_found_by_number_and_by_name() -> None:
    assert find_camera("2", [], "linux") == "/dev/video2"
    assert find_camera("/dev/video7", [], "linux") == "/dev/video7"
    assert find_camera("desk camera", TWO, "linux") == "/dev/video0"  # all of the name wins
    assert find_camera("hd", TWO, "linux") == "/dev/video2"
    assert find_camera("1", TWO, "win32") == "video=/dev/video2"


@pytest.mark.parametrize(
    ("wanted", "present", "sentence"),
    [("Desk", TWO, "several cameras"), ("Other", TWO, "Desk Camera HD"), ("Other", [], "has no camera")],
)
def test_cameras_that_are_not_there_are_one_sentence(
    wanted: str, present: list[Camera], sentence: str
) -> None:
    with pytest.raises(SourceError, match=sentence):
        find_camera(wanted, present, "linux")
    with pytest.raises(SourceError, match="camera 9"):
        find_camera("9", present, "darwin")
    with pytest.raises(SourceError, match="plan9"):
        library("plan9")


def test_a_file_gives_its_frames_planar_and_its_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", frames=5, pixel_format="yuv420p")
    with Opened(source_address(str(path)), 1) as source:
        assert source.info.paced
        assert source.info.ends
        assert source.info.rate == Fraction(30000, 1001)
        times = [source.seconds(native) for native in source]
    assert len(times) == 5
    assert times == sorted(times)


def test_a_pipe_gives_back_what_was_written_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for pixel_format in ("yuv420p", "yuv422p", "yuv444p", "gray"):
        frames = [native_frame(index, pixel_format=pixel_format) for index in range(3)]
        file = io.BytesIO()
        with PipeSink(frames[0], RATE, file) as sink:
            for index, frame in enumerate(frames):
                sink.write(frame, index)
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
        with Opened(source_address("-"), 1) as source:
            assert source.info.rate == 25
            read = list(source)
        assert [native.format.name for native in read] == [pixel_format] * 3
        for native, frame in zip(read, frames, strict=True):
            for ours, theirs in zip(planes_of(native), planes_of(frame), strict=True):
                assert np.array_equal(ours, theirs)


def test_a_file_keeps_the_times_and_takes_another_size_too(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    first = native_frame(0)
    with open_sink(sink_address(str(path)), first, RATE, EncodeConfig(), overwrite=False) as sink:
        for index, pts in enumerate((0, 40_000, 95_000)):
            sink.write(native_frame(index), pts)
        sink.write(native_frame(3, 64, 48), 130_000)  # the camera came back with another size
        assert not path.exists()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [round(float(frame.pts * frame.time_base), 3) for frame in frames] == [0, 0.04, 0.095, 0.13]
    assert {(frame.width, frame.height) for frame in frames} == {(160, 120)}


def test_after_an_error_no_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    sink = open_sink(sink_address(str(path)), native_frame(), RATE, EncodeConfig(), overwrite=False)
    with pytest.raises(ZeroDivisionError), sink:
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_files_that_must_not_be_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "there.mp4"
    path.touch()
    for name, sentence in (("there.mp4", "--overwrite"), ("a.gif", "not written"), ("no/a.mp4", "folder")):
        with pytest.raises(SinkError, match=sentence):
            EncodedSink(sink_address(str(tmp_path / name)), native_frame(), RATE, EncodeConfig())


def test_an_address_where_nobody_listens_is_one_sentence_at_once() -> None:
    sink = EncodedSink(sink_address("rtmp://127.0.0.1:1/key"), native_frame(), RATE, EncodeConfig())
    with pytest.raises(SinkError, match=r"rtmp://127\.0\.0\.1:1/key: cannot be written"), sink:
        pass


def test_pictures_reach_a_listener_over_udp_through_an_outlet() -> None:
    address = sink_address("udp://127.0.0.1:45871?pkt_size=1316")
    received: list[tuple[int, int]] = []

    def listen() -> None:
        with av.open("udp://127.0.0.1:45871", format="mpegts", timeout=(10, 10)) as container:
            frame = next(container.decode(video=0))
            assert isinstance(frame, av.VideoFrame)
            received.append((frame.width, frame.height))

    listener = threading.Thread(target=listen)
    listener.start()
    with Outlet(lambda: EncodedSink(address, native_frame(), RATE, EncodeConfig()), LiveConfig()) as outlet:
        index = 0
        while listener.is_alive() and index < 2000:
            outlet.write(native_frame(index % 50), 40_000 * index)
            index += 1
            listener.join(0.01)
    listener.join(20)
    assert received == [(160, 120)]


class FlakySink(NullSink):
    """Fails at its third picture."""

    made: list[FlakySink]

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.written, self.left = refuses, [], False
        self.made.append(self)

    def __enter__(self) -> FlakySink:
        if self.refuses:
            raise SinkError("nobody listens")
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        if len(self.written) == 2:
            raise SinkError("the line is cut")
        self.written.append(pts)

    def __exit__(self, *error: object) -> None:
        self.left = True


def test_a_lost_sink_is_reopened_without_delaying_frames() -> None:
    FlakySink.made = []
    told: list[str] = []
    config = LiveConfig(shortest_retry_seconds=0.01, longest_retry_seconds=0.02)
    refusals = iter([False, True, True, False])
    back = threading.Event()

    def tell(sentence: str) -> None:
        told.append(sentence)
        if sentence == "the sink is back":
            back.set()

    with Outlet(lambda: FlakySink(next(refusals)), config, tell) as outlet:
        index = 0
        while not back.wait(0.005) and index < 4000:
            outlet.write(native_frame(), index)
            index += 1
    assert back.is_set(), told
    assert outlet.lost == 1
    assert len(FlakySink.made) == 4
    assert FlakySink.made[0].left
    assert FlakySink.made[3].left
    assert not [thread for thread in threading.enumerate() if thread.name == "outlet"]


def test_an_outlet_that_cannot_begin_says_so_at_once() -> None:
    FlakySink.made = []
    with pytest.raises(SinkError, match="nobody listens"), Outlet(lambda: FlakySink(True), LiveConfig()):
        pass


def test_without_its_package_the_virtual_camera_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(ConfigError, match=r"pip install anchorface\[live\]"):
        VirtualCamera(sink_address("vcam:"), native_frame(), RATE)


class FakeLibrary(types.ModuleType):
    """The parts of pyvirtualcam's interface that are used."""

    PixelFormat = types.SimpleNamespace(I420="I420")

    def __init__(self, error: str = "") -> None:
        super().__init__("pyvirtualcam")
        self.error, self.sent, self.closed, self.asked = error, [], False, {}

    def Camera(self, **asked: Any) -> FakeLibrary:  # noqa: N802
        if self.error:
            raise RuntimeError(self.error)
        self.asked = asked
        return self

    def send(self, picture: Any) -> None:
        self.sent.append(picture)

    def close(self) -> None:
        self.closed = True


def test_the_virtual_camera_gets_planes_of_the_size_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "pyvirtualcam", library)
    frame = native_frame(0, 160, 120)
    with VirtualCamera(sink_address("vcam:/dev/video10"), frame, RATE) as camera:
        camera.write(frame, 0)
        camera.write(native_frame(0, 64, 48, "yuv444p"), 1)
    assert library.asked == {
        "width": 160,
        "height": 120,
        "fps": 25.0,
        "fmt": "I420",
        "device": "/dev/video10",
    }
    assert [picture.shape for picture in library.sent] == [(180, 160)] * 2
    assert np.array_equal(library.sent[0][:120], planes_of(frame)[0])
    assert library.closed


def test_without_a_device_the_virtual_camera_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", FakeLibrary("no device found\nmore"))
    camera = VirtualCamera(sink_address("vcam:"), native_frame(), RATE)
    with (
        pytest.raises(SinkError, match=r"vcam:: no virtual camera \(no device found\).*v4l2loopback"),
        camera,
    ):
        pass
