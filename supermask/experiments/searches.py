"""How the search of a run is made, and what it refuses: tried on a stand-in, before there are data.

Every search checks its own arguments when it is made, so a command makes one of a tiny network first. What
depends on the layers of the real network, or on the number of steps, is asked of that same search again when
the runs are planned.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from supermask.experiments.errors import ConfigError, RefusedError
from supermask.experiments.spec import MaskSource, OptimizerSpec, canonical_hash, specified
from supermask.masks import LayerCollapseWarning
from supermask.search import SEARCHES, Search, create_search
from supermask.weights.init import randomize_

WIDTH = 32
"""Inputs and outputs of both layers of the stand-in. Over two layers of one shape every distribution is the
same, so that nothing is refused for the stand-in's sake."""
WEIGHT_DECAY = 5e-4
"""Of scores that move by a given learning rate."""
UNKNOWN_STEPS_PER_EPOCH = 10**9
"""Stands for the steps of an epoch before data are read: so many that only the epochs matter."""


def search_of(model: nn.Module, method: str, rule: OptimizerSpec, source: MaskSource, seed: int) -> Search:
    """The search of a run, on a network whose weights are drawn."""
    return create_search(
        method,
        model,
        density=source.density,
        distribution=source.distribution,
        base=rule.optimizer,
        seed=seed,
        **rule.options(),
        **source.options,
    )


def rule_and_mask(
    method: str,
    *,
    optimizer: str,
    lr: float | None,
    momentum: float,
    nesterov: bool,
    weight_decay: float | None,
    density: float,
    distribution: str,
    arguments: Mapping[str, Any],
    default_lr: float,
    prefix: str = "",
) -> tuple[OptimizerSpec, MaskSource]:
    """How the scores of a run move and what it looks for; without a learning rate they take relative steps.

    Args:
        method: One of `SEARCHES`.
        optimizer, lr, momentum, nesterov, weight_decay: Of the rule, as the user or a recipe has them; None
            for nothing said.
        density, distribution: What is kept.
        arguments: Further ones of the search.
        default_lr: Learning rate of relative steps on the network.
        prefix: Of the fields that say how scores move, where they have one: `search_`.

    Raises:
        ConfigError: There is no learning rate, and none stands in for it.
    """
    options = dict(arguments)
    if lr is None:
        flag = f"--{prefix}lr".replace("_", "-")
        if not SEARCHES[method].has_default_rate:
            field = "methods" if prefix else "method"
            raise ConfigError(field, method, f"give {flag} with it: it has no default learning rate")
        needs = f"give {flag} with it: without a learning rate scores take relative steps of sgd"
        if optimizer != "sgd":
            raise ConfigError(f"{prefix}optimizer", optimizer, needs)
        if options.setdefault("step_size", "relative") != "relative":
            field = "search_args" if prefix else "method_args"
            raise ConfigError(field, f"step_size={options['step_size']}", needs)
        lr, nesterov = default_lr, momentum > 0
    if weight_decay is None:
        weight_decay = 0.0 if options.get("step_size") == "relative" else WEIGHT_DECAY
    rule = OptimizerSpec(
        optimizer=optimizer, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    mask = MaskSource(kind="search", density=density, distribution=distribution, options=options)
    return rule, mask


def check_search(
    method: str,
    rule: OptimizerSpec,
    source: MaskSource,
    *,
    steps: int,
    steps_per_epoch: int,
    label_smoothing: float = 0.0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Refuse what the search of a run would refuse.

    A command calls this with what it knows before data are read, and again once its runs are planned.

    Args:
        method: One of `SEARCHES`.
        rule: How its scores move.
        source: What it is to find.
        steps: Length of the search.
        steps_per_epoch: Of that length; `UNKNOWN_STEPS_PER_EPOCH` where only the epochs are known.
        label_smoothing: Of the loss.
        shapes: Name → shape of the masked layers, where the network is known.

    Raises:
        RefusedError: With the search's own words.
    """

    def complaint(source: MaskSource) -> str | None:
        try:
            search = _trial_of(method, rule, source)
            if objective := search.objective:
                labels = torch.zeros(1, dtype=torch.long)
                objective(search.model, torch.zeros(1, WIDTH), labels, label_smoothing=label_smoothing)
            search.plan(steps, steps_per_epoch)
            if shapes is not None:
                search.check_layers(shapes)
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    message = complaint(source)
    if message is not None:
        for field, value, without in _alternatives(source):
            if complaint(without) is None:
                raise RefusedError(field, value, message)
        raise RefusedError("method", method, message)


_trials: dict[tuple[type[Search], str], Search] = {}


def _trial_of(method: str, rule: OptimizerSpec, source: MaskSource) -> Search:
    """The search on the stand-in; made once, however often it is asked."""
    key = SEARCHES[method], canonical_hash([specified(rule), specified(source)])
    if key not in _trials:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LayerCollapseWarning)
            _trials[key] = search_of(_stand_in(), method, rule, source, seed=0)
    return _trials[key]


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


def length_without_data(epochs: float, label_smoothing: float) -> dict[str, Any]:
    """How long a search is, as far as that is known without data."""
    steps = max(1, round(epochs * UNKNOWN_STEPS_PER_EPOCH))
    return {"steps": steps, "steps_per_epoch": UNKNOWN_STEPS_PER_EPOCH, "label_smoothing": label_smoothing}
