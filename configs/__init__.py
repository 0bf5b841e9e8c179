"""Presets and the one loader of settings: TOML plus `--set a.b=c` into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import logging
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

__project__ = "anchorface"
__all__ = ["ConfigError", "dump", "load", "preset", "toml_value"]

T = TypeVar("T")
_DEFAULT = object()


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


def preset(name: str) -> Path:
    """Path of a preset shipped with the package, for example `preset("default")`."""
    path = Path(__file__).with_name(f"{name}.toml")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise ConfigError(f"no preset {name!r}; there are: {known}")
    return path


def load(kind: type[T], path: Path | None = None, changes: Sequence[str] = ()) -> T:
    """Settings of the frozen dataclass `kind`: its defaults, then the TOML file, then `a.b=c` changes.

    `kind` may have a class variable `renamed`, which maps earlier full names of settings to their present ones; an
    earlier name is accepted with a warning. Raises `ConfigError` that names the setting, what was got and what was
    expected.
    """
    renamed: Mapping[str, tuple[str, ...]] = getattr(kind, "renamed", {})
    values: dict[str, Any] = {}
    if path is not None:
        try:
            for names, value in _leaves(tomllib.loads(path.read_text(encoding="utf-8")), ()):
                _put(values, names, value, renamed)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file ({error})") from error
    for change in changes:
        _apply(values, change, renamed)
    return _build(kind, values, "")


def dump(config: Any) -> str:
    """Settings of a frozen dataclass as TOML that `load` reads back to the same; None is written as "none"."""
    return "\n".join(_lines(config, ()))


def _lines(config: Any, where: tuple[str, ...]) -> list[str]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    groups = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    lines = [f"{name} = {toml_value(value)}" for name, value in values.items() if name not in groups]
    for name, group in groups.items():
        lines += ["", f"[{'.'.join((*where, name))}]", *_lines(group, (*where, name))]
    return lines


def toml_value(value: Any) -> str:
    """`value` as TOML, None as "none"; for these types JSON is written the same way."""
    if value is None:
        return '"none"'
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _leaves(values: Mapping[str, Any], where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Names and values of all settings; an empty group is its own value."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*where, name))
        else:
            yield (*where, name), value


def _put(
    values: dict[str, Any], names: Sequence[str], value: Any, renamed: Mapping[str, tuple[str, ...]]
) -> None:
    """Sets one value, under its present names."""
    name = ".".join(names)
    if name not in renamed or isinstance(value, dict):
        _set(values, names, value)
        return
    _warn_of(name, renamed[name])
    for present in renamed[name]:
        # Where the earlier setting accepted "none", the default of the present one is meant.
        _set(values, present.split("."), _DEFAULT if value == "none" else value)


def _set(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    *groups, leaf = names
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(names)}: {group} is a setting, not a group")
    if value is _DEFAULT:
        values.pop(leaf, None)
    else:
        values[leaf] = value


@functools.cache
def _warn_of(name: str, present: tuple[str, ...]) -> None:
    """Warns once in a process."""
    logging.getLogger(__name__).warning("the setting %s is now named %s", name, " and ".join(present))


def _apply(values: dict[str, Any], change: str, renamed: Mapping[str, tuple[str, ...]]) -> None:
    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"a change must look like restore.batch_size=4, got {change!r}")
    _put(values, name.strip().split("."), _scalar(text.strip()), renamed)


def _scalar(text: str) -> Any:
    """A TOML value; what is not one (a path, a word) is the string itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    types_by_name = typing.get_type_hints(kind)
    hints = {each.name: types_by_name[each.name] for each in dataclasses.fields(typing.cast(Any, kind))}
    for name in values:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            hint = f"; did you mean {where}{close[0]}?" if close else f"; there are: {', '.join(hints)}"
            raise ConfigError(f"unknown setting {where}{name}{hint}")
    built = {name: _convert(hints[name], value, where + name) for name, value in values.items()}
    try:
        return kind(**built)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where.rstrip('.') or 'settings'}: {error}") from error


def _convert(expected: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a group of settings, got {value!r}")
        return _build(expected, value, f"{name}.")
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        if value in (None, "none") and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _convert(inner[0], value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{name} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], item, name) for item in value)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{name} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if expected is Path and isinstance(value, str):
        return Path(value)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} must be {getattr(expected, '__name__', expected)}, got {value!r}")
    return value
