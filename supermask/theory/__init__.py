"""Strong tickets by construction: a trained network, met by pruning a random, wider one.

`subset_sum` holds the combinatorics, `per_input`, `orseau` and `attention` the constructions,
`constructions` all of them by name, `run` the experiment.
"""

from supermask.theory.constructions import CONSTRUCTIONS as CONSTRUCTIONS
from supermask.theory.constructions import Construction as Construction
from supermask.theory.run import TheoryConfig as TheoryConfig
from supermask.theory.run import run_theory as run_theory
from supermask.theory.subset_sum import best_subset as best_subset
from supermask.theory.subset_sum import exact_subset as exact_subset
from supermask.theory.subset_sum import greedy_subset as greedy_subset
