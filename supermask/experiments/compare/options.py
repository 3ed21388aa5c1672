"""What a user says to `supermask compare`."""

from dataclasses import dataclass

from supermask.experiments.config import RuleConfig, option
from supermask.prune.magnitude import SCOPES
from supermask.search import BASES
from supermask.weights.init import INITS

DEFAULT_METHODS = (
    "dense",
    "edge-popup",
    "random-mask-frozen",
    "imp",
    "imp-rewind",
    "one-shot",
    "reinit",
    "random-mask",
    "shuffled-mask",
)
"""What is compared unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(RuleConfig):
    """Fields of `supermask compare`; `CompareConfig` checks them."""

    epochs: float = option(30.0, "passes over the training split")
    batch_size: int = option(64, "images per step, of all ranks together")
    jobs: int = option(0, "runs at a time; 0 means one per core, on GPUs one per GPU")
    methods: tuple[str, ...] = option(DEFAULT_METHODS, "what to compare; all for everything there is")
    densities: tuple[float, ...] = option((0.5, 0.3, 0.1, 0.03), "fractions of weights kept")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds; every method runs once per seed")
    init: str = option("kaiming_normal", "distribution of weights that are trained", choices=INITS)
    search_init: str = option("signed_constant", "distribution of frozen weights", choices=INITS)
    rescale: bool = option(True, "scale the frozen weights by 1/√density")
    distribution: str = option(
        "uniform",
        "uniform, global, erk, epl or N:M: how a search's density spreads, if its recipe has no other for "
        "uniform",
    )
    search_optimizer: str = option("sgd", "rule that moves the scores", choices=tuple(BASES))
    search_lr: float | None = option(
        None, "learning rate of the scores; without one they take relative steps"
    )
    search_weight_decay: float | None = option(
        None, "weight decay of the scores; by default 5e-4, and 0 for relative steps"
    )
    own_recipes: bool = option(True, "searches that have a recipe of their own take it instead of these")
    search_args: dict[str, str] = option({}, "further arguments of the searches, as key=value")  # noqa: RUF009
    filters: dict[str, str] = option(  # noqa: RUF009
        {}, "fraction of filters that layers keep, as pattern=fraction; by default one for all, by density"
    )
    rate: float = option(0.2, "IMP prunes about this fraction of the survivors per round")
    scope: str = option("layerwise", "rank weights per layer or over the network", choices=SCOPES)
    rewind_to: int | None = option(None, "early step of imp-rewind; by default 5% of the steps")

    @property
    def filter_fractions(self) -> dict[str, float]:
        """`filters` as numbers: pattern of layers → fraction of their filters that they keep.

        Raises:
            ValueError: A fraction is not a number.
        """
        return {pattern: float(share) for pattern, share in self.filters.items()}
