"""Live pictures: from a camera or the network to a virtual camera or a stream, never later than promised.

capture.py takes the newest frame, faces.py restores it at the step that ladder.py allows, run.py writes it in time.
"""
