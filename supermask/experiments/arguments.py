"""Values of `key=value` flags, and which of them a search takes."""

import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from supermask.experiments.errors import ConfigError
from supermask.search import BASES, SEARCHES
from supermask.suggest import ending

FLAGS = ("density", "lr", "base", "distribution", "seed", "momentum", "nesterov", "weight_decay")
INTERNAL = ("params", "foreach", "maximize", "capturable", "differentiable", "fused")
"""Arguments of rules that change their implementation, or their sense."""
PLAIN = (bool, int, float, str)
"""Classes whose values a command can write; what is declared as another comes from a subclass."""
PYTHON = ("model", "scores", "include", "exclude", "train_norms")


def parse_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `key=value` flags: numbers and booleans as such, the rest as text."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return value

    return {key: parse(value) for key, value in arguments.items()}


def search_arguments(method: str, given: Mapping[str, Any], flag: str, optimizer: str) -> dict[str, Any]:
    """What `--method-args` or `--search-args` hands to a search, of the names and types that it declares.

    Arguments of the rule that moves the scores are among them.

    Raises:
        ConfigError: An unknown name, one that is not for commands, or a value of another type; `no` for a
            switch would otherwise count as true.
    """
    if not given:
        return {}
    own, rules = _declared(*SEARCHES[method].__mro__), _declared(BASES[optimizer])
    declared = {name: kind for name, kind in {**own, **rules}.items() if name not in (*INTERNAL, *FLAGS)}
    found = parse_arguments(given)
    for name, value in found.items():
        pair = f"{name}={given[name]}"
        if name in FLAGS:
            raise ConfigError(flag, pair, f"{name} has a flag of its own; see --help")
        if name in PYTHON:
            raise ConfigError(
                flag, pair, f"{name} is for the library in Python, not for a command; leave it out"
            )
        if name not in declared:
            known = [key for key in declared if key not in PYTHON]
            has = ", ".join(known)
            raise ConfigError(
                flag, pair, f"{method} with {optimizer} has no {name}; it has {has}{ending(name, known)}"
            )
        _check_type(declared[name], name, value, flag, pair)
    return found


def _declared(*classes: type) -> dict[str, Any]:
    """Argument → its type, of the constructors of searches, or of a rule."""
    declared: dict[str, Any] = {}
    for cls in classes:
        if "__init__" not in vars(cls) or cls.__module__ == "torch.optim.optimizer" or cls is object:
            continue
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
        named = inspect.signature(cls).parameters.values()
        own = {p.name: hints.get(p.name) for p in named if p.kind is not p.VAR_KEYWORD}
        declared = {**own, **declared}
    return {name: kind for name, kind in declared.items() if kind in PLAIN or not isinstance(kind, type)}


def _check_type(declared: Any, name: str, value: Any, flag: str, pair: str) -> None:
    kinds = typing.get_args(declared) or (declared,)
    for kind, wanted in ((bool, "true or false"), (float, "a number"), (int, "a whole number")):
        fits = type(value) is kind or (kind is float and type(value) is int)
        if kind in kinds and not fits and not (str in kinds and isinstance(value, str)):
            raise ConfigError(flag, pair, f"{name} takes {wanted}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(flag, pair, f"{name} takes a finite number")
