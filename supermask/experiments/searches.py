"""How the search of a run is made, and what it refuses: tried on a stand-in, before there are data.

Every search checks its own arguments when it is made, so a command makes one of a tiny network first. What
depends on the layers of the real network, or on the number of steps, is asked of that search again when the
runs are planned.
"""

import dataclasses
import difflib
import inspect
import math
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from supermask.experiments.errors import ConfigError, RefusedError
from supermask.experiments.spec import MaskSource, Rule
from supermask.masks import LayerCollapseWarning
from supermask.search import BASES, SEARCHES, Search
from supermask.weights.init import randomize_

WIDTH = 32
"""Inputs and outputs of both layers of the stand-in. Over two layers of one shape every distribution is the
same, so that nothing is refused for the stand-in's sake."""
NOMINAL = 10**9
"""Steps of an epoch that nobody has counted yet: so many that only the epochs matter."""
FLAGS = ("density", "lr", "base", "distribution", "seed", "momentum", "nesterov", "weight_decay")
INTERNAL = ("params", "foreach", "maximize", "capturable", "differentiable", "fused")
"""Arguments of rules that change their implementation, or their sense."""
PLAIN = (bool, int, float, str)
"""Classes whose values a command can write; what is declared as another comes from a subclass."""
PYTHON = ("model", "scores", "include", "exclude", "train_norms")


def search_of(model: nn.Module, method: str, rule: Rule, source: MaskSource, seed: int) -> Search:
    """The search of a run, on a network whose weights are drawn."""
    return SEARCHES[method](
        model,
        density=source.density,
        distribution=source.distribution,
        base=rule.optimizer,
        seed=seed,
        **rule.options(),
        **source.options,
    )


def check_search(
    method: str,
    rule: Rule,
    source: MaskSource,
    *,
    steps: int,
    steps_per_epoch: int,
    label_smoothing: float = 0.0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Refuse what the search would refuse once it is made.

    Args:
        method: One of `SEARCHES`.
        rule: How its scores move.
        source: What it is to find.
        steps: Length of the search.
        steps_per_epoch: Of that length; `NOMINAL` where only the epochs are known.
        label_smoothing: Of the loss.
        shapes: Name → shape of the masked layers, where the network is known.

    Raises:
        RefusedError: With the search's own words.
    """

    def complaint(source: MaskSource) -> str | None:
        try:
            search = search_of(_stand_in(), method, rule, source, seed=0)
            if objective := search.objective:
                labels = torch.zeros(1, dtype=torch.long)
                objective(search.model, torch.zeros(1, WIDTH), labels, label_smoothing=label_smoothing)
            search.plan(steps, steps_per_epoch)
            if shapes is not None:
                search.check_layers(shapes)
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayerCollapseWarning)
        message = complaint(source)
        if message is not None:
            for field, value, without in _alternatives(source):
                if complaint(without) is None:
                    raise RefusedError(field, value, message)
            raise RefusedError("method", method, message)


def _alternatives(source: MaskSource) -> Iterator[tuple[str, Any, MaskSource]]:
    """What may be at fault, with the source that lacks it: options, the distribution, the density."""
    for name, value in source.options.items():
        others = {key: other for key, other in source.options.items() if key != name}
        yield "options", f"{name}={value}", dataclasses.replace(source, options=others)
    pairs = " ".join(f"{name}={value}" for name, value in source.options.items())
    yield "options", pairs, dataclasses.replace(source, options={})
    yield "distribution", source.distribution, dataclasses.replace(source, distribution="uniform")
    yield "density", source.density, dataclasses.replace(source, density=0.5)


def _stand_in() -> nn.Module:
    """A small drawn network; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    return randomize_(model)


@contextmanager
def refusals(arguments: str, method: str | None = None) -> Iterator[None]:
    """Turn what a search refuses inside this context into a ConfigError.

    Args:
        arguments: The field that holds further arguments of searches.
        method: The method of `compare` that needs the search.
    """
    try:
        yield
    except RefusedError as error:
        name = {"options": arguments, "density": "densities" if method else "density"}.get(
            error.field, error.field
        )
        if method is None:
            raise ConfigError(name, error.value, str(error)) from None
        if error.field == "method":
            raise ConfigError("methods", method, f"leave it out: {error}") from None
        raise ConfigError(name, error.value, f"{error}. Or leave {method} out of --methods") from None


def nominal_length(epochs: float, label_smoothing: float) -> dict[str, Any]:
    """How long a search is, as far as that is known without data."""
    steps = max(1, round(epochs * NOMINAL))
    return {"steps": steps, "steps_per_epoch": NOMINAL, "label_smoothing": label_smoothing}


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
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? It" if near else "it"
            raise ConfigError(
                flag, pair, f"{method} with {optimizer} has no {name}; {hint} has {', '.join(known)}"
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
