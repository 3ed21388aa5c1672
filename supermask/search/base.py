"""A mask search is an optimizer: what every search algorithm shares.

The model's parameters hold the effective weights W ⊙ M, so to autograd the model is an ordinary dense
one. Frozen weights W, scores and masks live in the optimizer's state. `step()` turns dL/dW_eff into score
gradients, lets a base rule (any `torch.optim` class) move the scores, selects the masks and writes W ⊙ M
back. An algorithm says what a score gradient is and which mask follows from the scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask import masks, ops
from supermask.search.construction import (
    check_schedule,
    check_score_init,
    draw_scores,
    freeze_the_rest,
    make_base,
    norm_parameters,
    replace_scores,
    spread_of,
)
from supermask.search.description import describe
from supermask.search.relative_steps import first_sizes, in_units_of_layers, settle_rule
from supermask.tickets.ticket import Ticket
from supermask.weights.init import check_seed
from supermask.weights.roles import ParameterInfo, masked, unwrap

SEARCHES: dict[str, type["Search"]] = {}


def register_search(name: str, **description: Any) -> Callable[[type["Search"]], type["Search"]]:
    """Class decorator: make a search known by name to commands, `compare`, reports and contract tests.

    Args:
        name: As in commands and results.
        description: Fields of `Description`: label, sentence and look. By default a search is a strong ticket
            called by its name.
    """

    def register(cls: type["Search"]) -> type["Search"]:
        SEARCHES[name] = cls
        cls.method = name
        about = "A mask searched over frozen random weights; the weights are never trained."
        describe(name, **{"about": about, "group": "strong", "search": name, **description})
        for call in _watchers:
            call(name)
        return cls

    return register


def for_every_search(call: Callable[[str], object]) -> None:
    """Call with the name of every search: those there are now, and those that are registered later."""
    for name in SEARCHES:
        call(name)
    _watchers.append(call)


_watchers: list[Callable[[str], object]] = []


class Search(Optimizer):
    """Base of all searches: frozen weights, one score per masked weight, an exact mask.

    `param_groups` hold the model's parameters and the base rule's options, so that learning-rate
    schedulers, `GradScaler`, gradient clipping and `zero_grad` work on a search as on any optimizer.

    Args:
        model: The network; its masked weights at this moment are the frozen W. Call `randomize_` first
            if the ticket is to be a seed and one bit per weight.
        density: Fraction of weights kept, in (0, 1].
        lr: Learning rate of the scores. Without it they take relative steps by SGD with Nesterov momentum,
            where that was measured for the method.
        base: `sgd` (the default), `adam`, `adamw` or any `torch.optim.Optimizer` class; it moves the scores.
        step_size: `absolute`, the published rule: the base rule moves scores by their gradients. `relative`:
            by gradients in units of each layer's first scores, of which `lr` is a share; see
            `relative_steps`. By default the first where there is an `lr`, the second where there is none.
        distribution: How the density spreads over layers: `uniform`, `global`, `erk`, `epl`, or N:M such
            as `2:4`: N of every M weights along the input dimension (`ops.select_n_of_m`).
        density_schedule: `constant`, or `cubic`: from `initial_density` to `density` by (1 - t/T)³, see
            `mask.scheduled_density`.
        schedule_steps: T, the steps until a scheduled density is reached; by default half of the steps
            that `plan` is told of.
        initial_density: Where a scheduled density starts, in [density, 1]; None for 1, a dense network.
            Multi-Prize Tickets' code starts at 0.5.
        seed: Seed of the initial scores.
        score_init: Distribution of the initial scores, one of `SCORE_INITS`: by default U(±1/√fan_in),
            Kaiming uniform with a = √5, as in the authors' code of edge-popup.
        scores: Parameter name → scores to start from, such as those of an earlier search on another task
            (`search.scores`); the others are drawn.
        include: Patterns of parameter names to mask although the default would not.
        exclude: Patterns of parameter names to leave unmasked.
        train_norms: Train the scales and shifts of norms as well, by the same base rule. The ticket
            then stores them.
        base_options: Further arguments of the base rule (`momentum`, `nesterov`, `weight_decay`,
            `betas`, …). Weight decay acts on the scores.

    Raises:
        ValueError: A value out of range, an option the base rule refuses, or nothing to mask.
    """

    method = "search"
    ranking = "magnitude"
    """What scores are ranked by; see `ops.select`."""
    exact_density: bool = True
    """Whether every mask keeps exactly `keep` weights; otherwise the density emerges from the scores."""
    has_default_rate: bool = False
    """Whether relative steps without a learning rate were measured for it; otherwise `lr` is required."""
    graphable: bool = False
    """Whether a step launches the same kernels with the same arguments every time; see `graph_obstacle`."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Fields of `SearchConfig` for which the method does better with other values than the defaults."""

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        lr: float | None = None,
        base: str | type[Optimizer] | None = None,
        step_size: str | None = None,
        distribution: str = "uniform",
        density_schedule: str = "constant",
        schedule_steps: int | None = None,
        initial_density: float | None = None,
        seed: int = 0,
        score_init: str = "kaiming_uniform_sqrt5",
        scores: Mapping[str, Tensor] | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        train_norms: bool = False,
        **base_options: Any,
    ) -> None:
        masks.check_density(density)
        check_seed(seed)
        self.check_spread(distribution, density_schedule)
        masks.check_distribution(distribution, density)
        check_schedule(density_schedule, schedule_steps, distribution, density, initial_density)
        draws_like_all = type(self).initial_scores is Search.initial_scores
        check_score_init(score_init, None if draws_like_all else self.method)
        rule = (lr, base, step_size, base_options)
        lr, base, self.step_size, base_options = settle_rule(self.method, self.has_default_rate, *rule)
        infos = masked(model, include, exclude)
        norms = norm_parameters(model) if train_norms else []
        freeze_the_rest(model, [info.tensor for info in infos], norms)
        self.model = unwrap(model)
        self.density = density
        self.distribution = distribution
        self.density_schedule = density_schedule
        self.schedule_steps, self.initial_density = schedule_steps, initial_density
        self.seed, self.score_init = seed, score_init
        self._group = masks.group_of(distribution)
        self._steps, self._horizon = 0, schedule_steps
        self._names = {info.name: info.tensor for info in infos}
        weights = {info.name: self._frozen_weight(info) for info in infos}
        first = {info.name: self.initial_scores(info, weights[info.name]) for info in infos}
        replace_scores(first, scores or {})
        self.base = make_base(base, [*first.values(), *norms], lr, base_options)
        group = {key: value for key, value in self.base.param_groups[0].items() if key != "params"}
        super().__init__([{"params": [*self._names.values(), *norms], **group}], self.base.defaults)
        for name, parameter in self._names.items():
            self.state[parameter] = {"score": first[name], "weight": weights[name]}
            if self.step_size == "relative":
                self.state[parameter]["sizes"] = first_sizes(first[name], weights[name])
        self.keep = self._counts(self.current_density)
        self._cuts = ops.new_cuts(list(first.values()), together=distribution == "global")
        self._write(self.select())
        masks.warn_of_collapse(self.mask)

    # What an algorithm decides.

    def check_spread(self, distribution: str, density_schedule: str) -> None:
        """Refuse a distribution over layers or a schedule that the algorithm cannot keep."""
        if not self.exact_density and (distribution, density_schedule) != ("uniform", "constant"):
            raise ValueError(
                f"the density of {self.method} emerges from its scores, so that "
                f"{spread_of(distribution, density_schedule)} cannot hold; leave it out"
            )

    @classmethod
    def scaled_for(cls, density: float) -> float | None:
        """The density d for which commands scale the frozen weights by 1/√d; None where it has no meaning."""
        return density

    def check_layers(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse, before there is a network, one whose masked layers have these shapes; raises ValueError."""

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        """Scores to start from, shaped, typed and placed like `weight`, from the seed; see `score_init`."""
        return draw_scores(self.score_init, info, weight, self.seed)

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        """dL/ds from dL/dW_eff; each list has one tensor per layer that received a gradient."""
        raise NotImplementedError

    def select(self) -> masks.Mask:
        """The masks that follow from `self.scores`; exactly `self.keep` weights."""
        if self._group:
            return masks.select_n_of_m(self.scores, *self._group, self.ranking, self._cuts)
        return masks.select(self.scores, self.keep, self._cuts, self.ranking)

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        """The weights that stand under `mask`, by name: W, unless an algorithm scales or flips it."""
        return self.weights

    def plan(self, steps: int, steps_per_epoch: int) -> None:
        """Learn how long the search will be, before its first step; what has no schedule ignores it.

        The same numbers must be given again to a search that goes on from a `state_dict`. An algorithm
        with periods of its own overrides this and calls it.

        Raises:
            ValueError: The search ends before `schedule_steps` have brought it to its density.
        """
        if self.schedule_steps is None:
            self._horizon = max(1, steps // 2)
        elif self.schedule_steps > steps:
            raise ValueError(
                f"schedule_steps={self.schedule_steps} is more than the {steps} steps of the search, which "
                "would end before it reaches its density; take fewer, or more epochs"
            )

    def settle(self) -> None:
        """Put the final network in place after the last step, where training saw another (a sample)."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this context the model computes what its ticket would; afterwards it trains on."""
        yield

    @property
    def fusable(self) -> bool:
        """Whether a step is that of edge-popup, which `fused.sgd_steps` makes in one pass."""
        return False

    def fused_step(self) -> bool:
        """Do everything that `step` does in one pass if that is possible; whether it was done."""
        return False

    # The optimizer.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the scores by `p.grad` = dL/dW_eff, select the masks and write W ⊙ M.

        Raises:
            NonFiniteScoreError: A score is no longer finite. The model keeps its last good weights; the
                search itself is lost, and goes on from its last `state_dict`. On CUDA, where a step does not
                wait for the device, the next of `mask`, `ticket` and `state_dict` raises it instead.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.begin_step()
        self.move()
        self.end_step()
        return loss

    # The parts of a step, for those who make one over several searches.

    def begin_step(self) -> None:
        """Hand the present options to the base rule, count the step and what is to be kept after it."""
        self._share_options()
        self._follow_schedule()

    def move(self) -> None:
        """Move the scores, select the masks and write W ⊙ M."""
        if not self.fused_step():
            self._step_in_parts()

    def end_step(self) -> None:
        """Look at the masks once they have reached a scheduled density."""
        if self.density_schedule != "constant" and self._steps == self._horizon:
            masks.warn_of_collapse(self.mask)

    @property
    def current_density(self) -> float:
        """Fraction of weights kept at present: `density`, but on the way there under a schedule.

        Raises:
            ValueError: A schedule without a length has begun.
        """
        if self.density_schedule == "constant":
            return self.density
        if self._steps and self._horizon is None:
            raise ValueError(
                f"density_schedule={self.density_schedule!r} needs a length: give schedule_steps=, or call "
                "plan(steps, steps_per_epoch) before the first step"
            )
        initial = 1.0 if self.initial_density is None else self.initial_density
        horizon = self._horizon or 1
        return masks.scheduled_density(self.density, self._steps, horizon, self.density_schedule, initial)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Parameter name → scores, contiguous, in at least float32."""
        return {name: self.state[p]["score"] for name, p in self._names.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameter name → frozen weights W, contiguous."""
        return {name: self.state[p]["weight"] for name, p in self._names.items()}

    @property
    def mask(self) -> masks.Mask:
        """Parameter name → bool mask, True where the weight is kept."""
        masks.check_cuts(self.scores, self._cuts)
        return {name: self.state[p]["mask"] for name, p in self._names.items()}

    @property
    def masked_parameters(self) -> dict[str, Tensor]:
        """Parameter name → the model's masked parameter, which holds the effective weights."""
        return dict(self._names)

    def rewrite(self) -> None:
        """Write the effective weights under the present masks again, in the parameters' present dtypes."""
        self._write(self.mask)

    @property
    def steps(self) -> int:
        """Steps done."""
        return self._steps

    @steps.setter
    def steps(self, count: int) -> None:
        self._steps = count

    @property
    def graph_obstacle(self) -> str | None:
        """Why a CUDA graph cannot hold a step; None where all steps launch the same work and look at none."""
        # Not inherited: a subclass may have changed any part of the step.
        if not self.graphable or not ("graphable" in vars(self) or "graphable" in vars(type(self))):
            return f"{self.method} draws or decides something on the host in its steps"
        if self.density_schedule != "constant":
            return f"density_schedule={self.density_schedule!r} changes what a step keeps"
        device = next(iter(self.scores.values())).device
        kernel = "select_n_of_m_into" if self._group else "select_into"
        if self.distribution == "global":
            kernel = "rank_into"
        if not ops.is_native(kernel, device):
            return f"there are no compiled kernels for {device.type}, and the references wait for the device"
        return None

    def ticket(self, provenance: Mapping[str, Any] | None = None) -> Ticket:
        """The final network: a seed and one bit per weight, where the weights follow from a seed.

        Where training sees another network (a sample, open gates), the ticket is that of `evaluating`.

        Args:
            provenance: JSON-able facts to record in the file (the method and density are recorded).
        """
        facts = {"method": self.method, "density": self.current_density, "distribution": self.distribution}
        with self.evaluating():
            return Ticket.of(self.model, self.mask, provenance={**facts, **(provenance or {})})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the whole model, also of parameters that the search does not move."""
        self.model.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the search is made: its masks and scores are those of its one group."""
        if self.param_groups:
            raise ValueError(
                "a search has one group of parameters; to mask others too, make it with include="
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Scores, frozen weights, masks, options, steps done and the base rule's state."""
        masks.check_cuts(self.scores, self._cuts)
        own = {"base": self.base.state_dict(), "search": self._identity(), "steps": self._steps}
        return {**super().state_dict(), **own}

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with to be continued here."""
        return {
            "method": self.method,
            "base": type(self.base).__name__,
            "density": self.density,
            "distribution": self.distribution,
            "ranking": self.ranking,
            "density_schedule": [self.density_schedule, self.schedule_steps, *self._start()],
            "names": list(self._names),
            **({} if self.step_size == "absolute" else {"step_size": self.step_size}),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit: copies into the existing tensors, then writes W ⊙ M.

        Raises:
            ValueError: The state is of another search: other parameters, shapes or groups.
        """
        theirs, names = state_dict.get("search", {}), list(self._names)
        for key in {**self._identity(), **theirs}:
            if theirs.get(key) != (ours := self._identity().get(key)):
                what = "other parameters" if key == "names" else f"another {key}"
                raise ValueError(f"the state is of {what} ({theirs.get(key)}) than this search's ({ours})")
        entries = [state_dict["state"][index] for index in range(len(names))]
        for name, entry in zip(names, entries, strict=True):
            for key, tensor in self.state[self._names[name]].items():
                if key not in entry or entry[key].shape != tensor.shape:
                    raise ValueError(f"the state of {name} has no {key!r} of shape {tuple(tensor.shape)}")
        for name, entry in zip(names, entries, strict=True):
            for key, tensor in self.state[self._names[name]].items():
                tensor.copy_(entry[key])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self.base.load_state_dict(state_dict["base"])
        self._cuts.zero_()
        self._steps = state_dict["steps"]
        self._write(self.mask)

    def __getstate__(self) -> dict[str, Any]:
        # Optimizer's own list of attributes is closed; a deep copy needs ours too.
        own = {key: value for key, value in self.__dict__.items() if not key.startswith("_optimizer_")}
        return {**super().__getstate__(), **own}

    # Plumbing.

    @contextmanager
    def _in_place(self, mask: masks.Mask) -> Iterator[None]:
        """Inside this context the model has the weights under another mask."""
        training = self.mask
        self._write(mask)
        try:
            yield
        finally:
            self._write(training)

    def _step_in_parts(self) -> None:
        received = [self.state[p] for p in self._names.values() if p.grad is not None]
        grads = self.gradients([p for p in self._names.values() if p.grad is not None])
        scores = [state["score"] for state in received]
        weights = [state["weight"] for state in received]
        for score, grad in zip(scores, self.score_gradients(grads, weights, scores), strict=True):
            score.grad = grad
        self.base.step()
        for score in scores:
            score.grad = None
        self._write(self.select())

    def gradients(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """dL/dW_eff of parameters that have one, in units of their layers where steps are relative."""
        given = list(parameters)
        grads: list[Any] = [p.grad for p in given]
        if self.step_size == "absolute":
            return grads
        return in_units_of_layers(grads, [self.state[p]["sizes"] for p in given])

    def _frozen_weight(self, info: ParameterInfo) -> Tensor:
        dtype = torch.promote_types(info.tensor.dtype, torch.float32)
        weight = info.tensor.detach().to(dtype, copy=True).contiguous()
        if not torch.isfinite(weight).all():
            raise ValueError(
                f"the weights of {info.name} are not finite; a search needs finite frozen weights"
            )
        return weight

    def _start(self) -> list[float]:
        return [] if self.initial_density is None else [self.initial_density]

    def _counts(self, density: float) -> dict[str, int] | int:
        shapes = {name: tuple(p.shape) for name, p in self._names.items()}
        if self.distribution == "global":
            return masks.keep_count(sum(p.numel() for p in self._names.values()), density)
        return masks.allocate(shapes, density, self.distribution)

    def _follow_schedule(self) -> None:
        """Count the step, and the weights to keep after it."""
        self._steps += 1
        if self.density_schedule != "constant":
            self.keep = self._counts(self.current_density)

    def _share_options(self) -> None:
        """Hand lr and whatever else a scheduler changed to the base rule."""
        for group, base_group in zip(self.param_groups, self.base.param_groups, strict=True):
            base_group.update({key: value for key, value in group.items() if key != "params"})

    def _write(self, mask: masks.Mask) -> None:
        with torch.no_grad():
            weights = self.effective(mask)
            ops.write_masked(list(self._names.values()), list(weights.values()), list(mask.values()))
        for name, parameter in self._names.items():
            self.state[parameter]["mask"] = mask[name]
