"""`python -m pipeline serve`: a local page that restores a camera in real time, and uploaded files.

access.py authorises requests, site.py answers them, peer.py and call.py pass a camera's pictures through a live run,
jobs.py restores files with the ordinary command. asyncio stays inside this folder.
"""
