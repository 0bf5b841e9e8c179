"""Reading a live source: pacing, loss, reopening and cleanup."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.live import capture as capture_module
from pipeline.live.addresses import source_address
from pipeline.live.capture import Capture
from pipeline.live.settings import LiveConfig
from pipeline.live.sources import Opened
from support.clips import write_clip
from support.live import FakeSource

QUICK = LiveConfig(shortest_retry_seconds=0.01, longest_retry_seconds=0.04, stall_seconds=1)


def take_all(capture: Capture) -> list[Frame]:
    frames = []
    with capture:
        while True:
            try:
                frame = capture.get(5)
            except StopIteration:
                return frames
            if frame is not None:
                frames.append(frame)


def never() -> FakeSource:
    raise AssertionError("must not be reopened")


def test_a_file_is_paced_by_its_own_times_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    source, waits = FakeSource(6, paced=True, ends=True), []
    capture = Capture(source, never, QUICK)
    monkeypatch.setattr(capture, "now", lambda: 7.0)
    monkeypatch.setattr(capture.stop, "wait", lambda seconds: waits.append(round(seconds, 3)))
    take_all(capture)
    assert waits == [0, 0.04, 0.08, 0.12, 0.16, 0.2]
    assert capture.received == 6
    assert source.closed


def test_a_camera_is_not_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(FakeSource(6, ends=True), never, QUICK)
    monkeypatch.setattr(capture.stop, "wait", never)
    take_all(capture)
    assert capture.received == 6


def test_a_lost_camera_is_reopened_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = FakeSource(2, error="the camera is unplugged"), FakeSource(3)
    told: list[str] = []
    answers: list[Any] = [SourceError("no"), SourceError("no"), SourceError("no"), SourceError("no"), second]
    waits: list[float] = []

    def reopen() -> FakeSource:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    capture = Capture(first, reopen, QUICK, told.append)
    wait = capture.stop.wait

    def counted(seconds: float = 0) -> bool:
        waits.append(seconds)
        return not answers or wait(0)

    monkeypatch.setattr(capture.stop, "wait", counted)
    take_all(capture)
    assert waits[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]
    assert capture.lost == 2  # and the second ended too
    assert capture.received == 5
    assert told[0].startswith("the camera is unplugged")
    assert told[1] == "the source is back"
    assert first.closed
    assert second.closed


def test_leaving_joins_the_thread_and_closes_the_source() -> None:
    source = FakeSource(10**6)
    with Capture(source, never, QUICK) as capture:
        assert capture.get(5) is not None
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "capture"]


def test_an_error_that_is_no_loss_reaches_the_caller() -> None:
    with pytest.raises(SourceError, match="changed"):
        take_all(Capture(FakeSource(1, ends=True, error="changed"), never, QUICK))


class _Stream(BaseHTTPRequestHandler):
    """Sends a transport stream repeatedly, like a network camera."""

    data = b""
    alive = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        while type(self).alive:
            try:
                self.wfile.write(self.data)
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def streaming(port: int = 0) -> Iterator[int]:
    _Stream.alive = True
    server = ThreadingHTTPServer(("127.0.0.1", port), _Stream)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        _Stream.alive = False
        server.shutdown()
        thread.join()
        server.server_close()


def open_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts file handles as Linux does")
def test_a_stream_that_is_killed_and_restarted_goes_on_and_leaks_nothing(tmp_path: Path) -> None:
    _Stream.data = write_clip(tmp_path / "clip.ts", frames=25).read_bytes()
    told: list[str] = []
    handles, threads = open_handles(), threading.active_count()
    with streaming() as port:
        address = source_address(f"http://127.0.0.1:{port}/live.ts")
        first = Opened(address, QUICK.stall_seconds)
        assert not first.info.ends
        capture = Capture(first, lambda: Opened(address, QUICK.stall_seconds), QUICK, told.append)
        capture.__enter__()
        assert capture.get(10) is not None
    for _ in range(3):
        deadline, lost = time.monotonic() + 20, capture.lost
        while capture.lost == lost and time.monotonic() < deadline:
            capture.get(0.02)
        before = capture.received
        with streaming(port):
            while capture.received == before and time.monotonic() < deadline:
                capture.get(0.02)
            assert capture.received > before, told
    capture.__exit__()
    assert capture.lost >= 3
    # The server's own threads may need a moment to see that nobody listens.
    deadline = time.monotonic() + 20
    while (threading.active_count(), open_handles()) != (threads, handles) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == threads
    assert open_handles() == handles


def test_an_address_where_nobody_answers_is_one_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(SourceError, match=f"http://me:\\*\\*\\*@127.0.0.1:{port}/: cannot be read"):
        Opened(source_address(f"http://me:secret@127.0.0.1:{port}/"), 1)


def test_what_answers_with_no_video_is_one_sentence(tmp_path: Path) -> None:
    _Stream.data = b"<html>no video here</html>" * 1000
    with streaming() as port, pytest.raises(SourceError, match=r"127\.0\.0\.1"):
        Opened(source_address(f"http://127.0.0.1:{port}/"), 1)


def test_frames_carry_the_moment_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr(capture_module.time, "monotonic", lambda: float(next(clock)))
    with Capture(FakeSource(1, ends=True), never, QUICK) as capture:
        frame = capture.get(5)
    assert capture.zero == 101
    assert frame is not None
    assert frame.pts * frame.time_base == 1
    assert frame.native.pts == frame.pts
