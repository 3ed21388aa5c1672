"""What a comparison asks of a search: its own recipe, where it has one and the user wants it."""

from collections.abc import Mapping
from typing import Any

from supermask.experiments.arguments import search_arguments
from supermask.experiments.compare.options import CompareOptions
from supermask.experiments.errors import ConfigError
from supermask.experiments.searches import rule_and_mask
from supermask.experiments.spec import MaskSource, OptimizerSpec
from supermask.masks import group_of
from supermask.search import SEARCHES
from supermask.search.description import DESCRIPTIONS

FROZEN_CONTROL = "random-mask-frozen"


def rule_and_mask_for(
    config: CompareOptions, method: str, density: float, default_lr: float
) -> tuple[OptimizerSpec, MaskSource]:
    """Rule and mask of a search of `compare`: its own recipe, where it has one and the user wants it.

    A distribution that the user chose goes before the recipe's.

    Args:
        config: What the user said.
        method: The search.
        density: Fraction of weights kept.
        default_lr: Of relative steps on the network; see `default_rate`.

    Raises:
        ConfigError: An argument that the method does not have, or of another type, or no learning rate where
            there is no default.
    """
    recipe = recipe_of(config, method)
    own = recipe.get("distribution", "uniform")
    given = _search_args(config, method, config.search_args)
    return rule_and_mask(
        method,
        optimizer=recipe.get("optimizer", config.search_optimizer),
        lr=recipe.get("lr", config.search_lr),
        momentum=recipe.get("momentum", config.momentum),
        nesterov=recipe.get("nesterov", config.nesterov),
        weight_decay=recipe.get("weight_decay", config.search_weight_decay),
        density=density,
        distribution=own if config.distribution == "uniform" else config.distribution,
        arguments={**recipe.get("method_args", {}), **given},
        default_lr=default_lr,
        prefix="search_",
    )


def check_used(config: CompareOptions) -> None:
    """Refuse an argument that none of the searches of `compare` has.

    Raises:
        ConfigError: With what the last of them says.
    """
    searches = [search for method in config.methods if (search := search_of_method(method))]
    for name, value in config.search_args.items():
        refused = ConfigError("search_args", f"{name}={value}", "leave it out: none of --methods is a search")
        for search in searches:
            try:
                _search_args(config, search, {name: value})
                break
            except ConfigError as error:
                refused = error
        else:
            raise refused


def recipe_of(config: CompareOptions, method: str) -> Mapping[str, Any]:
    """A search's own recipe, where the user wants it."""
    return SEARCHES[method].recipe if config.own_recipes else {}


def _search_args(config: CompareOptions, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `--search-args` hands to one of the searches."""
    optimizer = recipe_of(config, method).get("optimizer", config.search_optimizer)
    return search_arguments(method, given, "search_args", optimizer)


def densities_of(config: CompareOptions, method: str) -> tuple[float, ...]:
    """Those of the comparison, or the one of the search's recipe: there it is where the scores start.

    N of every M weights are a density of their own, which goes before the recipe's.
    """
    own = recipe_of(config, method).get("density")
    return config.densities if own is None or group_of(config.distribution) else (own,)


def search_of_method(method: str) -> str | None:
    """The search that a method of `compare` needs, if it needs one."""
    description = DESCRIPTIONS.get(method)
    return None if description is None else description.search


def fine_tuned_name(search: str) -> str:
    """The method that trains the weights under the mask that a search found."""
    return f"{search}-fine-tuned"
