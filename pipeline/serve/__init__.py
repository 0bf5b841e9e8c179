"""`python -m pipeline serve`: a local page that restores a camera before one's eyes, and files that are given to it.

access.py decides who is heard, site.py answers, peer.py and call.py carry a camera's pictures through the parts of
live runs, jobs.py restores files by the ordinary command. asyncio stays inside this folder.
"""
