"""decord and PyAV each bring an FFmpeg; neither may meet the other's."""

from __future__ import annotations

import subprocess
import sys

OPEN_VP9 = """
encoder = av.CodecContext.create("libvpx-vp9", "w")
encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuv420p", Fraction(1, 25)
encoder.open()
print("opened")
"""


def test_vp9_opens_after_decord() -> None:
    """In a process of its own: what is bound once stays bound."""
    program = f"""
from fractions import Fraction
from models.decord_library import load_decord
load_decord()
import av
{OPEN_VP9}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "opened", done.stderr
