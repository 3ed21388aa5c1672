"""What a search algorithm decides: the members that one of its own declares, and what it may read.

Only `score_gradients` must be written; docs/new-search.md goes through the others. `Search` in `search.base`
is the optimizer around them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from supermask import masks
from supermask.search.construction import draw_scores, non_default_allocation
from supermask.weights.roles import ParameterInfo


class FusedStep(Protocol):
    """Makes the steps of one or several searches in one pass, with the bits of the step in parts."""

    def step(self, searches: Sequence[Any], threshold_hints: Tensor) -> bool:
        """Move the scores, select and write; whether it could, for these searches at this moment."""


Objective = Callable[..., Tensor]
"""A model, inputs, labels and `label_smoothing` → the loss to minimize, a scalar."""


class Algorithm(ABC):
    """The decisions of a search algorithm, each with a default where there is one.

    Attributes:
        model: The network, without wrappers.
        masked_parameters: Parameter name → the model's masked parameter, which holds the effective weights.
        input_axes: Name → the axes of its inputs; N:M masks have their groups along the first.
        density: Fraction of weights kept in the end.
        distribution: How it spreads over layers.
        group: (N, M) of an N:M distribution, or None.
        keep: How many weights to keep at present: of each layer, or of all ranked together.
        seed: Seed of whatever the search draws.
        score_init: Distribution of the first scores.
        steps: Steps done.
        threshold_hints: Where the last selections cut, which makes the next one faster, and whether scores
            have been finite.
    """

    model: nn.Module
    masked_parameters: dict[str, nn.Parameter]
    input_axes: dict[str, tuple[int, ...]]
    density: float
    distribution: str
    group: tuple[int, int] | None
    keep: dict[str, int] | int
    seed: int
    score_init: str
    steps: int
    threshold_hints: Tensor

    method = "search"
    ranking = "magnitude"
    """What scores are ranked by; see `ops.select`."""
    exact_density: bool = True
    """Whether every mask keeps exactly `keep` weights; otherwise the density emerges from the scores."""
    has_default_rate: bool = False
    """Whether relative steps without a learning rate were measured for it; otherwise `lr` is required."""
    accepts_score_init: bool = True
    """Whether first scores follow `score_init`; False where `initial_scores` has a way of its own."""
    redraws_weights: bool = False
    """Whether the frozen weights change in the search."""
    graphable: bool = False
    """Whether a step launches the same kernels with the same arguments every time, so that a CUDA graph can
    hold it. Said in the class line, `class Mine(Search, graphable=True)`, and not inherited: a subclass may
    have changed any part of the step."""
    fused: FusedStep | None = None
    """What makes the whole step in one pass. Said in the class line and not inherited, likewise."""
    in_steps: ClassVar[tuple[str, ...]] = ("schedule_steps",)
    in_epochs: ClassVar[tuple[str, ...]] = ()
    """Arguments that are lengths, in steps or in epochs: a short trial takes a share of them."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Fields of `SearchConfig` for which the method does better with other values than the defaults."""

    def __init_subclass__(
        cls, *, graphable: bool = False, fused: FusedStep | None = None, **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        cls.graphable, cls.fused = graphable, fused

    @property
    @abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """Parameter name → scores, contiguous, in at least float32."""

    @property
    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Parameter name → frozen weights W, contiguous."""

    def check_allocation(self, distribution: str, density_schedule: str) -> None:
        """Refuse a distribution over layers or a schedule that the algorithm cannot keep."""
        if not self.exact_density and (distribution, density_schedule) != ("uniform", "constant"):
            raise ValueError(
                f"the density of {self.method} emerges from its scores, so that "
                f"{non_default_allocation(distribution, density_schedule)} cannot hold; leave it out"
            )

    @classmethod
    def rescale_density(cls, density: float) -> float | None:
        """The density d for which commands scale the frozen weights by 1/√d; None where it has no meaning."""
        return density

    def check_layers(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse, before there is a network, one whose masked layers have these shapes; raises ValueError."""

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        """Scores to start from, shaped, typed and placed like `weight`, from the seed; see `score_init`."""
        return draw_scores(self.score_init, info, weight, self.seed)

    def counts(self, density: float) -> dict[str, int] | int:
        """How many weights to keep at a density: of each layer, or of all ranked together."""
        shapes = {name: tuple(p.shape) for name, p in self.masked_parameters.items()}
        if self.distribution == "global":
            return masks.keep_count(sum(p.numel() for p in self.masked_parameters.values()), density)
        return masks.allocate(shapes, density, self.distribution, self._grouped())

    def _grouped(self) -> dict[str, int]:
        return {name: axes[0] for name, axes in self.input_axes.items()}

    def prepare(self) -> None:
        """Put further tensors into `state`, once, when first scores and weights are there."""

    @abstractmethod
    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        """dL/ds from dL/dW_eff; each list has one tensor per layer that received a gradient."""

    def advance(self) -> None:
        """Do what follows a move of the scores and is no selection: project them, freeze some, draw noise."""

    def select(self) -> masks.Mask:
        """The masks that follow from `self.scores`, which it leaves alone; exactly `self.keep` weights."""
        hints = self.threshold_hints
        if self.group:
            return masks.select_n_of_m(self.scores, *self.group, self.ranking, hints, self._grouped())
        return masks.select(self.scores, self.keep, hints, self.ranking)

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        """The weights that stand under `mask`, by name: W, unless an algorithm scales or flips it."""
        return self.weights

    def settle(self) -> None:
        """Put the final network in place after the last step, where training saw another (a sample)."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this context the model computes what its ticket would; afterwards it trains on."""
        yield

    @property
    def objective(self) -> Objective | None:
        """The loss that a training loop has to minimize, of a method that has one of its own."""
        return None

    def further_metrics(self, accuracy: Callable[[], float]) -> dict[str, float]:
        """Numbers besides the accuracy of the final network; `accuracy` measures the model as it stands."""
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        """What a `state_dict` holds besides tensors of `state`; see `set_extra_state`."""
        return {}

    def set_extra_state(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `get_extra_state` put into a state; scores, masks and steps are in place."""
