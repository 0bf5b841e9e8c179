"""A small RTSP server on loopback (RFC 2326): one stream of MPEG-TS in RTP (RFC 2250), interleaved with the answers."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import struct
import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
    "c=IN IP4 0.0.0.0\r\na=rtpmap:33 MP2T/90000\r\na=control:track1\r\n"
)
_CELLS = 7 * 188
"""Bytes of MPEG-TS in one packet."""


def transport_stream(seconds: int, *, sound: bool = False) -> bytes:
    """A moving square, 160x120 at 25 frames per second, as MPEG-TS; with a tone where `sound`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        video: Any = container.add_stream(
            "libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
        )
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for index in range(25 * seconds):
            image = np.full((120, 160, 3), 60, np.uint8)
            image[40:80, index % 120 : index % 120 + 40] = 200
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
            if audio is not None:
                wave = np.sin(2 * np.pi * 440 * (np.arange(1920) + 1920 * index) / 48000)
                tone = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
                tone.pts, tone.sample_rate, tone.time_base = 1920 * index, 48000, Fraction(1, 48000)
                container.mux(audio.encode(tone))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return buffer.getvalue()


class RtspServer:
    """Serves `stream`, `seconds` long, in real time to every client; can be killed and started again."""

    def __init__(self, stream: bytes, seconds: int) -> None:
        self._stream, self._seconds = stream, seconds
        self._port = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        self._stop = threading.Event()
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._sockets = [listener]
        self._go(self._accept, listener)

    def kill(self) -> None:
        self._stop.set()
        for one in self._sockets:
            # Closing alone does not wake a thread that waits on it.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)
        self._threads = []

    def _go(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            self._go(self._serve, connection, self._stop)

    def _serve(self, connection: socket.socket, stop: threading.Event) -> None:
        with connection, connection.makefile("rb") as requests:
            try:
                while line := requests.readline():
                    method = line.split(b" ")[0].decode()
                    headers = b""
                    while (header := requests.readline()) not in (b"\r\n", b""):
                        headers += header
                    match = re.search(rb"CSeq:\s*(\d+)", headers, re.I)
                    connection.sendall(self._answer(method, match[1].decode() if match else "0"))
                    if method == "PLAY":
                        self._play(connection, stop)
                        return
            except OSError:
                return

    def _answer(self, method: str, number: str) -> bytes:
        lines = ["RTSP/1.0 200 OK", f"CSeq: {number}"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = _SDP
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        elif method == "PLAY":
            lines += ["Session: 1", "Range: npt=0-"]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def _play(self, connection: socket.socket, stop: threading.Event) -> None:
        pause = self._seconds * _CELLS / len(self._stream)
        for number, start in enumerate(range(0, len(self._stream), _CELLS)):
            payload = self._stream[start : start + _CELLS]
            ticks = int(number * pause * 90000) & 0xFFFFFFFF
            header = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, ticks, 1)
            connection.sendall(struct.pack(">cBH", b"$", 0, len(header) + len(payload)) + header + payload)
            if stop.wait(pause):
                return
