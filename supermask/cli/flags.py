"""Dataclasses as flags and configuration files: the names are the same everywhere."""

import argparse
import contextlib
import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class FlagError(ValueError):
    """A flag or a configuration key is wrong; the message names it, the value and the remedy."""


def add_flags(parser: argparse.ArgumentParser, config_type: type[Any]) -> None:
    """Add `--config` and a flag for each field of a dataclass made with `option`.

    A flag that is not given leaves no trace, so that a configuration file can come between.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML or TOML file with the same names; flags win")
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        default = field.default if field.default is not dataclasses.MISSING else None
        kind = hints[field.name]
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        shown = "auto" if kind == bool | None else _shown(default)
        options["help"] = f"{field.metadata['help']} (default: {shown})".replace("%", "%%")
        if kind in (bool, bool | None):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= _value_options(kind, field.metadata["choices"])
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options)


def read_config(config_type: type[T], options: argparse.Namespace) -> T:
    """Defaults, then those of the chosen method, then the configuration file, then flags.

    Raises:
        FlagError: The file is missing or not readable, or has an unknown key or a wrong value.
    """
    names = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    values = _read_file(Path(options.config), config_type) if options.config else {}
    values |= {name: value for name, value in vars(options).items() if name in names}
    for name, value in values.items():
        if isinstance(value, list):
            pairs = all(isinstance(item, tuple) for item in value) and _is_mapping(config_type, name)
            values[name] = dict(value) if pairs else tuple(value)
    if callable(defaults := getattr(config_type, "defaults", None)):
        values = {**defaults(values), **values}
    return config_type(**values)


def _shown(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return "none"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _value_options(kind: Any, choices: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {"choices": choices} if choices else {}
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        kind = next(member for member in members if member is not type(None))
        origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return {"nargs": "*", "type": _pair, "metavar": "KEY=VALUE"}
    if origin is tuple:
        return {**options, "nargs": "+", "type": members[0]}
    return {**options, "type": kind}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.*?\[\]-]+", key):
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def _is_mapping(config_type: type[Any], name: str) -> bool:
    return typing.get_origin(typing.get_type_hints(config_type)[name]) is dict


def _read_file(path: Path, config_type: type[Any]) -> dict[str, Any]:
    readers: Mapping[str, Callable[[str], Any]] = {
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    if path.suffix not in readers:
        raise FlagError(f"--config {path}: name a .toml, .yaml or .yml file")
    try:
        values = readers[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlagError(f"--config {path}: {error.strerror}; give the path of a readable file") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise FlagError(f"--config {path} is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(values, dict):
        raise FlagError(f"--config {path} holds no key-value pairs")
    hints = typing.get_type_hints(config_type)
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FlagError(f"--config {path}: unknown key {key!r}{hint}")
        checked[name] = _checked(path, name, value, hints[name], config_type)
    return checked


def _checked(path: Path, name: str, value: Any, kind: Any, config_type: type[Any]) -> Any:
    """`value` as the type of its field, or FlagError."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(member for member in members if member is not type(None))
        origin, members = typing.get_origin(kind), typing.get_args(kind)
    choices = {f.name: f.metadata["choices"] for f in dataclasses.fields(config_type)}[name]
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_scalar(path, name, item, members[0], choices) for item in items)
    if origin is dict:
        if not isinstance(value, dict):
            raise FlagError(f"--config {path}: {name} takes key-value pairs, not {value!r}")
        return value
    return _scalar(path, name, value, kind, choices)


def _scalar(path: Path, name: str, value: Any, kind: type[Any], choices: tuple[str, ...]) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if kind is float and type(value) is str and path.suffix != ".toml":
        with contextlib.suppress(ValueError):
            value = float(value)  # PyYAML reads 5e-4 as text
    if type(value) is not kind:
        raise FlagError(f"--config {path}: {name} takes a {kind.__name__}, not {value!r}")
    if choices and value not in choices:
        raise FlagError(f"--config {path}: {name} {value!r}: choose from {', '.join(choices)}")
    return value
