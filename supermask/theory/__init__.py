"""Strong tickets by construction: a trained network, met by pruning a random, wider one.

`subset_sum` holds the combinatorics, `per_input`, `orseau` and `attention` the constructions,
`constructions` all of them by name. The experiment with them is `supermask.experiments.theory`.
"""

import warnings
from importlib import import_module

from supermask.theory.constructions import CONSTRUCTIONS as CONSTRUCTIONS
from supermask.theory.constructions import Construction as Construction
from supermask.theory.subset_sum import best_subset as best_subset
from supermask.theory.subset_sum import exact_subset as exact_subset
from supermask.theory.subset_sum import greedy_subset as greedy_subset


def __getattr__(name: str) -> object:
    """`TheoryConfig` and `run_theory`, which stood here in version 0.1."""
    if name in ("TheoryConfig", "run_theory"):
        warnings.warn(
            f"supermask.theory.{name} is now in supermask.experiments; the old path goes with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module("supermask.experiments.theory"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
