"""Streams: files in, files out, stages and threads between, and the command line.

from pipeline import restore_video
report = restore_video("in.mp4", "out.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import models  # noqa: F401  # sets how OpenMP's threads wait, which must come before any import of torch

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig
    from pipeline.report.counts import Report
    from pipeline.runs.film import restore_video

__project__ = "anchorface"
__version__ = "0.2.0"
__all__ = ["PipelineConfig", "Report", "restore_video"]

_HOMES = {
    "PipelineConfig": "pipeline.config",
    "Report": "pipeline.report.counts",
    "restore_video": "pipeline.runs.film",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `--version`, `--help` and a refused option must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
