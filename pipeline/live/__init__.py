"""Restoration in real time: from a camera or stream to a virtual camera or stream, within `live.most_delay_ms`.

capture.py takes the newest frame, faces.py restores it at the step of ladder.py, run.py writes it in time.
"""
