"""Live runs under failure: a source that is killed, a restorer that becomes slow."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

import configs
from pipeline.config import PipelineConfig
from pipeline.live.addresses import sink_address, source_address
from pipeline.live.command import restore_live
from pipeline.live.report import LiveReport
from support.live import SlowRestorer, write_square_clip
from support.rtsp import RtspServer, transport_stream

CONFIG = configs.load(PipelineConfig, configs.preset("live"), ["restorer.kind=none"])


def test_a_killed_rtsp_source_is_reopened_while_the_output_continues() -> None:
    server = RtspServer(transport_stream(20), 20)
    server.start()
    told: list[str] = []
    moments: dict[str, int] = {}
    deadline = time.monotonic() + 60

    def see(report: LiveReport) -> None:
        if "killed" not in moments and report.written >= 10:
            moments["killed"] = report.received
            server.kill()
        elif "restarted" not in moments and report.repeated >= 5:
            moments["restarted"] = report.written + report.repeated
            server.start()
        elif ("restarted" in moments and report.received >= moments["killed"] + 15) or (
            time.monotonic() > deadline
        ):
            raise KeyboardInterrupt

    # The first run also allocates what libraries keep for good, which is not a leak.
    for _ in range(2):
        moments.clear()
        threads, files = threading.active_count(), psutil.Process().num_fds()
        report = restore_live(
            source_address(server.address), sink_address("null:"), CONFIG, tell=told.append, watch=see
        )
        assert report.lost == 1, told
        assert report.repeated >= 5
        assert report.received >= moments["killed"] + 15
        assert "the source is back" in told
    server.kill()
    assert threading.active_count() <= threads
    assert psutil.Process().num_fds() <= files


def test_a_restorer_that_becomes_slow_is_bypassed_with_a_bounded_delay_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "square.mp4"
    write_square_clip(clip, 1500)
    changes = ["restorer.kind=support.live:SlowRestorer", "detector.kind=support.fakes:SquareDetector"]
    changes += ["recogniser.kind=support.fakes:ColourRecogniser", "gate.enabled=false", "restore.reuse=false"]
    config = configs.load(PipelineConfig, configs.preset("live"), [*changes, "live.ladder.patience=10"])
    monkeypatch.setattr(SlowRestorer, "seconds", 0.002)
    passed: list[str] = []
    restored_then = 0

    def see(report: LiveReport) -> None:
        nonlocal restored_then
        if not passed and report.restored >= 10:
            passed.append("quick")
            SlowRestorer.seconds = 0.2
        elif passed == ["quick"] and report.step == "bypass":
            passed.append("bypassed")
            SlowRestorer.seconds, restored_then = 0.002, report.restored
        elif passed[1:] == ["bypassed"] and report.step != "bypass" and report.restored >= restored_then + 10:
            passed.append("back")
            raise KeyboardInterrupt

    report = restore_live(source_address(str(clip)), sink_address("null:"), config, watch=see)
    assert passed == ["quick", "bypassed", "back"]
    # A queue would have grown by a fifth of a second with each slow frame.
    assert report.delays.quantile(0.99) < 500
    assert report.written + report.dropped >= report.received - 3
