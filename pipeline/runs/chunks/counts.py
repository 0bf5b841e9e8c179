"""Counts of a chunk, kept as JSON and added up to those of the film."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline.report.counts import Report


def to_json(report: Report) -> dict[str, Any]:
    """All counts of `report`; keys of tables need not be words, so these become lists of pairs."""
    found: dict[str, Any] = {}
    for field in fields(report):
        value = getattr(report, field.name)
        if isinstance(value, dict):
            found[field.name] = [[key, count] for key, count in value.items()]
        elif isinstance(value, set):
            found[field.name] = sorted(value)
        elif not isinstance(value, str):
            found[field.name] = value
    return found


def add(report: Report, counts: dict[str, Any]) -> None:
    """Adds the `counts` of a chunk to those of the film."""
    for name, value in counts.items():
        known = getattr(report, name)
        if isinstance(known, dict):
            for key, count in value:
                known[key] = known.get(key, 0) + count
        elif isinstance(known, set):
            known.update(value)
        elif isinstance(known, bool):
            setattr(report, name, known and value)
        else:
            setattr(report, name, known + value)
