"""Command lines from recorded configurations: the same call with something changed."""

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from supermask.experiments import EXPERIMENTS
from supermask.experiments.config import TaskConfig
from supermask.report.advice.cases import Case
from supermask.search import SEARCHES

WHERE = ("data_root", "cache", "stream", "device", "jobs", "threads")
"""Flags that say where a command runs, and are taken over from the line that was given."""
OF_SEARCHES = {
    "search_init": "init",
    "search_optimizer": "optimizer",
    "search_lr": "lr",
    "search_weight_decay": "weight_decay",
    "search_args": "method_args",
}
"""Field of `compare` → the field of `search` that means the same."""


def search_again(document: Mapping[str, Any], case: Case, tag: str, **changes: Any) -> str:
    """The search of a case by itself, with changes.

    Args:
        document: Where the case is from.
        case: A search.
        tag: End of the name of the new folder.
        changes: Fields of `SearchConfig`.
    """
    return _line(document, "search", _search_fields(case) | changes, tag)


def is_relative(case: Case) -> bool:
    """Whether the scores of a search took relative steps, whose rates are shares of their first size."""
    return bool(case.row.get("step_size") == "relative")


def at_rates(case: Case, **rates: Any) -> dict[str, Any]:
    """Changes of `search_again` to other rates, in the units in which the search of a case moved."""
    if not is_relative(case):
        return rates
    given = case.asked("args" if case.command != "search" else "method_args") or {}
    # Without a learning rate the steps had Nesterov momentum.
    momentum = {"nesterov": True} if case.asked("lr") is None else {}
    return {**rates, **momentum, "method_args": {**given, "step_size": "relative"}}


def train_again(document: Mapping[str, Any], case: Case, tag: str, **changes: Any) -> str:
    """The command of a case that trains weights with changes; of a comparison only this method and seed."""
    values = {**case.config, "seeds": [case.row["seed"]]}
    if case.command != "imp":
        values["methods"] = [case.method.name]
        if case.has_density:
            values["densities"] = [case.row["density"]]
    return _line(document, case.command, values | changes, tag)


def _search_fields(case: Case) -> dict[str, Any]:
    if case.command == "search":
        return {name: value for name, value in case.config.items() if name != "lr_sweep"}
    method = case.method.name
    fields = {name: value for name, value in case.config.items() if name not in OF_SEARCHES.values()}
    fields |= {ours: case.config[name] for name, ours in OF_SEARCHES.items() if name in case.config}
    if case.config.get("own_recipes", True):
        own = dict(SEARCHES[method].recipe) if method in SEARCHES else {}
        if case.config.get("distribution", "uniform") != "uniform":
            own.pop("distribution", None)  # what was chosen went before it, as arguments do
        arguments = {**own.pop("method_args", {}), **fields.get("method_args", {})}
        fields |= own | {"method_args": arguments}
    return {**fields, "method": method, "density": case.row["density"], "seed": case.row["seed"]}


def _line(document: Mapping[str, Any], command: str, values: Mapping[str, Any], tag: str) -> str:
    given = _given(document.get("command"))
    out = f"{given['out'][0] if given.get('out') else f'runs/{command}'}-{tag}"
    words = ["supermask", command]
    config = EXPERIMENTS[command].config
    for name, default in _defaults(config, values):
        if name in values and name not in WHERE and _plain(values[name]) != _plain(default):
            words += _flag(name, values[name])
    for name in WHERE:
        if name in given:
            words += [f"--{name.replace('_', '-')}", *given[name]]
    return shlex.join([*words, "--out", out])


def _defaults(config: type[TaskConfig], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Fields with what they are where no flag says otherwise."""
    recipe = config.defaults(values) if hasattr(config, "defaults") else {}
    for field in dataclasses.fields(config):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        yield field.name, recipe.get(field.name, default)


def _given(line: Any) -> dict[str, list[str]]:
    """Flag → its values, of a command line that was recorded."""
    try:
        words = shlex.split(line or "")
    except ValueError:
        return {}
    found: dict[str, list[str]] = {}
    name = None
    for word in words:
        if match := re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word, re.DOTALL):
            name = match[1].replace("-", "_")
            found[name] = [] if match[2] is None else [match[2]]
        elif name is not None:
            found[name].append(word)
    return found


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [flag, *(f"{key}={_text(item)}" for key, item in value.items())]
    if isinstance(value, list | tuple):
        return [flag, *map(_text, value)]
    return [flag, _text(value)]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """What JSON makes of a value, so that both sides compare."""
    if isinstance(value, Mapping):
        return {str(key): _text(item) for key, item in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
