"""Cameras on the page of `serve`, with aiortc in the browser's place."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiortc", reason="needs the extra `serve`")

import av
from aiortc.jitterbuffer import JitterBuffer
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket

from pipeline.media.coding import planes_of
from pipeline.serve import wire
from pipeline.serve.call import mixed
from pipeline.serve.peer import NewestPictures
from pipeline.serve.wire import PromptBuffer, QuickH264Encoder, prepare, widen
from support.calling import Caller
from support.clips import native_frame
from support.fakes import gray_frame
from support.films import environment
from support.serving import UNHURRIED, Served, served

SILENT = 8
"""Seconds, longer than any wait on a busy machine."""


def calls() -> int:
    """Cameras with a running thread."""
    return sum(one.name == "call" for one in threading.enumerate())


def new(page: Served) -> Caller:
    caller = Caller()
    page.closing.push_async_callback(caller.close)
    return caller


async def joined(page: Served, **wish: object) -> Caller:
    caller = new(page)
    assert await caller.call(page.client, page.site, page.token, **wish) == 200, caller.answer
    await caller.until(lambda one: len(one.came) > 3)
    return caller


def test_one_of_two_is_killed_and_the_other_is_undisturbed_and_the_place_is_free(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, [f"serve.silent_seconds={SILENT}", "restorer.kind=none"]) as page:
            stays = await joined(page)
            leaves = subprocess.Popen(
                [sys.executable, "-m", "support.calling", page.site, page.token],
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            assert leaves.stdout is not None
            assert await asyncio.to_thread(leaves.stdout.readline) == "pictures come\n"
            third = new(page)
            assert await third.call(page.client, page.site, page.token) == 503
            assert "2 cameras are restored here already" in third.answer["error"]
            assert calls() == 2
            leaves.kill()
            leaves.communicate()
            killed = time.monotonic()
            third = new(page)
            while await third.call(page.client, page.site, page.token, restorer="none") == 503:
                assert time.monotonic() - killed < 100
                third = new(page)
                await asyncio.sleep(0.2)
            await third.until(lambda one: len(one.came) > 3)
            # The other's pictures went on all the time.
            came = len(stays.came)
            await stays.until(lambda one: len(one.came) > came + 5)
            assert np.diff([killed, *(moment for moment in stays.came if moment > killed)]).max() < SILENT
            while calls() > 2:
                assert time.monotonic() - killed < 100
                await asyncio.sleep(0.1)
            # Who says goodbye frees the place at once.
            assert (await page.ask("DELETE", f"/api/peers/{third.answer['peer']}"))[0] == 200
            assert (await page.ask("DELETE", f"/api/peers/{third.answer['peer']}"))[0] == 404
        assert calls() == 0

    asyncio.run(go())


def test_a_camera_that_falls_silent_has_left(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, ["serve.silent_seconds=0.6", "restorer.kind=none"]) as page:
            caller = await joined(page)
            caller.camera.holds.set()
            await caller.until(lambda one: one.connection.connectionState == "closed", 20)

    asyncio.run(go())


def test_wishes_take_effect_while_the_camera_runs(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, UNHURRIED) as page:
            caller = await joined(page, strength=0.5, restorer="none")
            await caller.until(lambda one: one.status.get("ready"))
            assert (caller.status["restorer"], caller.status["strength"]) == ("none", 0.5)
            caller.wish(strength=0.25, bypass=True, restorer="fast")
            await caller.until(lambda one: one.status["restorer"] == "fast" and one.status["ready"])
            assert (caller.status["strength"], caller.status["bypass"]) == (0.25, True)
            await caller.until(lambda one: one.status["restored_share"] > 0)
            for wrong, words in (
                ({"strength": 7}, "strength must be"),
                ({"restorer": "/etc/passwd"}, "restorer must be one of"),
                ({"photo": "../me.jpg"}, "upload it again"),
            ):
                caller.wish(**wrong)
                await caller.until(lambda one, words=words: words in one.status["problem"])
            caller.channel.send("x" * 5000)
            await caller.until(lambda one: "small JSON object" in one.status["problem"])
            assert caller.status["strength"] == 0.25
            came = len(caller.came)
            await caller.until(lambda one: len(one.came) > came)

    asyncio.run(go())


def test_an_offer_with_sound_or_without_a_picture_is_refused(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path) as page:
            caller = new(page)
            caller.connection.addTransceiver("audio")
            assert await caller.call(page.client, page.site, page.token) == 400
            assert "one picture and no sound" in caller.answer["error"]

    asyncio.run(go())


def test_the_answer_gives_leave_for_the_bits_that_a_face_needs(tmp_path: Path) -> None:
    async def go() -> str:
        changes = ["restorer.kind=none", "serve.most_kilobits=7000"]
        async with served(tmp_path, changes) as page:
            caller = await joined(page)
            return str(caller.answer["sdp"])

    sdp = asyncio.run(go())
    assert "\r\nb=AS:7000\r\n" in sdp
    # Between a browser and a program of one machine lies no network that could give less.
    assert "x-google-min-bitrate=7000" in sdp
    candidates = [line.split()[4] for line in sdp.splitlines() if line.startswith("a=candidate")]
    assert "127.0.0.1" in candidates


def test_a_widened_answer_keeps_the_rest_and_names_vp8_first() -> None:
    answer = (
        "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 102 103 96\r\nc=IN IP4 127.0.0.1\r\na=rtpmap:102 H264/90000\r\n"
        "a=fmtp:102 packetization-mode=1\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n"
        "a=rtpmap:96 VP8/90000\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 127.0.0.1\r\n"
    )
    bits = "x-google-min-bitrate=2;x-google-start-bitrate=8;x-google-max-bitrate=8"
    assert widen(answer, least_kilobits=2, most_kilobits=8) == (
        "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 102 103\r\nc=IN IP4 127.0.0.1\r\nb=AS:8\r\na=rtpmap:102 H264/90000\r\n"
        f"a=fmtp:102 packetization-mode=1;{bits}\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n"
        f"a=rtpmap:96 VP8/90000\r\na=fmtp:96 {bits}\r\n"
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 127.0.0.1\r\n"
    )


def test_what_goes_back_is_as_sharp_as_what_went_in(tmp_path: Path) -> None:
    """Compares the received picture with the sent one, encoded both ways."""

    async def go() -> av.VideoFrame:
        async with served(tmp_path, ["restorer.kind=none"]) as page:
            caller = await joined(page)
            caller.camera.frames = caller.camera.frames[:1]
            await caller.until(lambda one: len(one.came) > 30)
            assert caller.last is not None
            return caller.last

    back, sent = asyncio.run(go()), native_frame(0, 320, 240)
    error = planes_of(back)[0].astype(float) - planes_of(sent)[0]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 38


def kind(payload: bytes) -> int:
    """The type of the first NAL unit in a payload of H.264 (RFC 6184): 5 and 7 begin a key frame."""
    place = {24: 3, 28: 1}.get(payload[0] & 31, 0)
    return payload[place] & 31


def test_the_quick_encoder_follows_size_and_bits_and_gives_key_frames() -> None:
    prepare(least_kilobits=1000, most_kilobits=8000, local_only=True)
    encoder = QuickH264Encoder()
    times = itertools.count()

    def is_key(width: int, *, key: bool = False) -> bool:
        frame = native_frame(0, width, 240)
        frame.pts, frame.time_base = next(times), Fraction(1, 30)
        return kind(encoder.encode(frame, key)[0][0]) in (5, 7)

    widths = (320, 320, 160, 160)
    assert [is_key(width) for width in widths] == [True, False, True, False]
    assert is_key(160, key=True)
    before = encoder.codec
    encoder.target_bitrate = 4_000_000
    is_key(160)
    assert encoder.codec is not before
    assert encoder.codec is not None
    assert encoder.codec.bit_rate == 4_000_000


def packet(number: int, timestamp: int, *, last: bool) -> RtpPacket:
    one = RtpPacket(sequence_number=number, timestamp=timestamp, marker=int(last))
    one._data = bytes([number])  # type: ignore[attr-defined]
    return one


def test_a_picture_does_not_wait_for_the_next_one() -> None:
    ours, theirs = PromptBuffer(16, is_video=True), JitterBuffer(16, is_video=True)
    order = [(0, 10, False), (1, 10, True), (3, 20, True), (2, 20, False), (4, 30, True), (5, 40, True)]
    given = []
    for number, timestamp, last in order:
        frame = ours.add(packet(number, timestamp, last=last))[1]
        theirs.add(packet(number, timestamp, last=last))
        given.append(None if frame is None else (frame.timestamp, frame.data))
    assert given == [None, (10, b"\0\1"), None, (20, b"\2\3"), (30, b"\4"), (40, b"\5")]


def test_the_track_sends_the_newest_picture_with_times_that_grow() -> None:
    async def go() -> None:
        track = NewestPictures()
        track.put(gray_frame(0).native, 5.0)
        track.put(newest := gray_frame(1).native, 5.04)
        assert await track.recv() is newest
        assert track.replaced == 1
        track.put(gray_frame(2).native, 5.02)
        track.put(gray_frame(3).native, 5.02)
        first = (await track.recv()).pts
        track.put(gray_frame(4).native, 5.14)
        assert (newest.pts, first, (await track.recv()).pts) == (0, 1, 9000)
        waiting = asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        track.stop()
        with pytest.raises(MediaStreamError):
            await waiting

        assert track.sent_ms is not None
        assert track.sent_ms >= 0

    asyncio.run(go())


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0])
def test_strength_is_taken_back_sample_by_sample(strength: float) -> None:
    before, after = native_frame(0, 64, 48), native_frame(0, 64, 48)
    old = [plane.astype(int).copy() for plane in planes_of(before)]
    planes_of(after)[0][10:20, 10:20] ^= 0x30
    full = [plane.astype(int).copy() for plane in planes_of(after)]
    result = mixed(before, after, strength)
    assert (planes_of(after)[0] == full[0]).all()
    for was, whole, plane in zip(old, full, planes_of(result), strict=True):
        assert np.abs(plane - (was + strength * (whole - was))).max() <= 0.5
        assert (plane[was == whole] == was[was == whole]).all()
    assert (planes_of(before)[0] == old[0]).all()


def test_only_this_machine_is_heard_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    import aioice.ice

    heard: list[bytes] = []
    monkeypatch.setattr(wire._Protocol, "datagram_received", lambda self, data, addr: heard.append(data))
    prepare(least_kilobits=1, most_kilobits=1, local_only=True)

    async def go(kind: type) -> None:
        one = kind(None)
        one.datagram_received(b"near", ("127.0.0.1", 5))
        one.datagram_received(b"far", ("198.51.100.7", 5))

    asyncio.run(go(aioice.ice.StunProtocol))
    assert heard == [b"near"]
    prepare(least_kilobits=1, most_kilobits=1, local_only=False)
    asyncio.run(go(aioice.ice.StunProtocol))
    assert heard == [b"near", b"near", b"far"]


def test_a_library_that_has_changed_is_not_set_up_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    import aiortc.rtcrtpsender

    monkeypatch.delattr(aiortc.rtcrtpsender, "get_encoder")
    with pytest.raises(AttributeError, match="must follow"):
        prepare(least_kilobits=1, most_kilobits=1, local_only=True)
