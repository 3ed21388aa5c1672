"""Dataclasses as flags and configuration files: the names are the same everywhere."""

import argparse
import contextlib
import dataclasses
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from supermask.suggest import ending

T = TypeVar("T")
FEW_CHOICES = 8
"""Values that help names one by one in front of a flag's text."""


class FlagError(ValueError):
    """A flag or a configuration key is wrong; the message names it, the value and the remedy."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of a configuration as a flag.

    Attributes:
        name: Of the field; the flag has hyphens where it has underscores.
        kind: `text`, `integer`, `number`, `switch` or `pairs` (key=value).
        many: Whether it takes several values; pairs always do.
        default: As help shows it.
        help: What it does.
        choices: The only values there are, or nothing.
    """

    name: str
    kind: str
    many: bool
    default: str
    help: str
    choices: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, about: dict[str, Any]) -> "Flag":
        """A flag from its fields as JSON gives them."""
        return cls(**{**about, "choices": tuple(about.get("choices", ()))})

    @property
    def spelled(self) -> str:
        """As it is written on the command line."""
        return f"--{self.name.replace('_', '-')}"


_KINDS: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "switch"}


def integer(text: str) -> int:
    """The whole number that a word is."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a whole number") from None


def number(text: str) -> float:
    """The number that a word is."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number") from None


_TYPES: dict[str, Callable[[str], Any]] = {"text": str, "integer": integer, "number": number}


def flags_of(config_type: type[Any]) -> tuple[Flag, ...]:
    """The flags of a dataclass whose fields are made with `option`."""
    hints = typing.get_type_hints(config_type)
    flags = []
    for field in dataclasses.fields(config_type):
        default = field.default if field.default is not dataclasses.MISSING else None
        origin, kind = _without_none(hints[field.name])
        shown = "auto" if hints[field.name] == bool | None else _shown(default)
        flags.append(
            Flag(
                name=field.name,
                kind="pairs" if origin is dict else _KINDS[kind],
                many=origin is tuple,
                default=shown,
                help=field.metadata["help"],
                choices=tuple(field.metadata["choices"]),
            )
        )
    return tuple(flags)


def add_flag(group: Any, flag: Flag, *, hidden: bool = False) -> None:
    """Add a flag to a parser or to a group of its flags.

    A flag that is not given leaves no trace, so that a configuration file can come between.
    """
    options: dict[str, Any] = {"dest": flag.name, "default": argparse.SUPPRESS}
    help = flag.help
    if len(flag.choices) > FEW_CHOICES:
        help += f"; `supermask list {flag.name}` lists them"
    options["help"] = f"{help} (default: {flag.default})".replace("%", "%%")
    if hidden:
        options["help"] = argparse.SUPPRESS
    if flag.kind == "switch":
        options["action"] = argparse.BooleanOptionalAction
    elif flag.kind == "pairs":
        options |= {"nargs": "*", "type": _pair, "metavar": "KEY=VALUE"}
    else:
        options |= {"type": _TYPES[flag.kind], "metavar": _metavar(flag)}
        options |= {"nargs": "+"} if flag.many else {}
        options |= {"choices": flag.choices} if flag.choices else {}
    group.add_argument(flag.spelled, **options)


def _metavar(flag: Flag) -> str:
    if not flag.choices:
        return {"text": "TEXT", "integer": "N", "number": "X"}[flag.kind]
    # Long lists are told in the text, or by `supermask list`.
    return "{" + ",".join(flag.choices) + "}" if len(flag.choices) <= FEW_CHOICES else "NAME"


def _without_none(kind: Any) -> tuple[Any, Any]:
    """The container of a type, if it is one, and the type of its items; None as a member is passed over."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _without_none(next(member for member in members if member is not type(None)))
    return (origin, members[0]) if members else (None, kind)


def read_config(config_type: type[T], options: argparse.Namespace) -> T:
    """Defaults, then those of the chosen method, then the configuration file, then flags.

    Raises:
        FlagError: The file is missing or not readable, or has an unknown key or a wrong value.
    """
    names = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    values = _read_file(Path(options.config), config_type) if options.config is not None else {}
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


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.*?\[\]-]+", key):
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def _is_mapping(config_type: type[Any], name: str) -> bool:
    return typing.get_origin(typing.get_type_hints(config_type)[name]) is dict


def _read_file(path: Path, config_type: type[Any]) -> dict[str, Any]:
    import yaml  # help needs none

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
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise FlagError(f"--config {path} is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(values, dict):
        raise FlagError(f"--config {path} holds no key-value pairs")
    hints = typing.get_type_hints(config_type)
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise FlagError(f"--config {path}: unknown key {key!r}{ending(name, hints)}")
        checked[name] = _checked(path, name, value, hints[name], config_type)
    return checked


def _checked(path: Path, name: str, value: Any, kind: Any, config_type: type[Any]) -> Any:
    """`value` as the type of its field, or FlagError."""
    if value is None and type(None) in typing.get_args(kind):
        return None
    origin, item_kind = _without_none(kind)
    choices = {f.name: f.metadata["choices"] for f in dataclasses.fields(config_type)}[name]
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_scalar(path, name, item, item_kind, choices) for item in items)
    if origin is dict:
        if not isinstance(value, dict):
            raise FlagError(f"--config {path}: {name} takes key-value pairs, not {_short(value)}")
        for key, item in value.items():
            for scalar in item if isinstance(item, list) else [item]:
                if not isinstance(key, str) or not isinstance(scalar, bool | int | float | str | None):
                    raise FlagError(
                        f"--config {path}: {name} takes names with numbers, text or lists of them, not "
                        f"{_short(key)} with {_short(item)}"
                    )
        return value
    return _scalar(path, name, value, item_kind, choices)


def _scalar(path: Path, name: str, value: Any, kind: type[Any], choices: tuple[str, ...]) -> Any:
    if kind is float and type(value) is int and abs(value) < 1 << 1023:
        value = float(value)
    if kind is float and type(value) is str and path.suffix != ".toml":
        with contextlib.suppress(ValueError):
            value = float(value)  # PyYAML reads 5e-4 as text
    if type(value) is not kind:
        raise FlagError(f"--config {path}: {name} takes a {kind.__name__}, not {_short(value)}")
    if choices and value not in choices:
        raise FlagError(f"--config {path}: {name} {_short(value)}: choose from {', '.join(choices)}")
    return value


def _short(value: Any) -> str:
    """A value for a message; a file of a few lines can hold one that takes gigabytes to print."""
    return reprlib.repr(value)
