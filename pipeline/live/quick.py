"""Quicker restorers, which take the place of the chosen one where time is short."""

from __future__ import annotations

from dataclasses import replace

from models.fast.restorer import CROP_SIZES, SMALLER, FastRestorer
from models.protocols import Restorer
from pipeline.build import build_restorer
from pipeline.config import PipelineConfig
from pipeline.stages.effort import Quick


def quick_beside(restorer: Restorer | None, config: PipelineConfig) -> Quick:
    """`fast` in place of a slower `restorer`, which `config` made, and `fast` for smaller crops."""
    if restorer is None or restorer.needs.crop_size not in CROP_SIZES:
        return Quick()
    own = config.restorer
    is_fast = isinstance(restorer, FastRestorer) or own.kind == "fast"
    if not is_fast:
        own = own.instead("fast")
    # Building engines takes minutes, and the call waits.
    own = replace(own, fast=replace(own.fast, engine=replace(own.fast.engine, backend="eager")))
    light = None if is_fast else build_restorer(replace(own, crop_size=restorer.needs.crop_size))
    side = SMALLER.get(restorer.needs.crop_size)
    return Quick(light, None if side is None else build_restorer(replace(own, crop_size=side)))
