"""The settings of frozen dataclasses as a TOML file with their sentences, taken from the docstrings in the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

from configs import toml_value

_WIDTH = 118


def documented(config: Any) -> str:
    """`config` as TOML: over each group the first paragraph of its class, over each setting its docstring.

    Raises `ValueError` for a setting without a docstring.
    """
    return "\n".join(_group(config, ())) + "\n"


def _group(config: Any, where: tuple[str, ...]) -> list[str]:
    sentences = _sentences(type(config))
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    lines = []
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            continue
        if name not in sentences:
            raise ValueError(f"{'.'.join((*where, name))} has no docstring")
        lines += [*_comment(sentences[name]), f"{name} = {toml_value(value)}"]
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            what = inspect.cleandoc(type(value).__doc__ or "").partition("\n\n")[0]
            lines += ["", *_comment(sentences.get(name, what)), f"[{'.'.join((*where, name))}]"]
            lines += _group(value, (*where, name))
    return lines


def _sentences(kind: type) -> dict[str, str]:
    """The docstring that follows each field in the source of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = str(after.value.value)
    return found


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
