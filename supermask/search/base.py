"""A mask search is an optimizer: what every search algorithm shares.

The model's parameters hold the effective weights W ⊙ M, so to autograd the model is an ordinary dense
one. Frozen weights W, scores and masks live in the optimizer's state. `step()` turns dL/dW_eff into score
gradients, lets a base rule (any `torch.optim` class) move the scores, selects the masks and writes W ⊙ M
back. An algorithm says what a score gradient is and which mask follows from the scores.
docs/new-search.md shows how to write one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask import masks, ops
from supermask.checks import is_number
from supermask.search import claims, construction
from supermask.search import state as states
from supermask.search.protocol import Algorithm
from supermask.search.relative_steps import first_sizes, in_units_of_layers, settle_rule
from supermask.search.showing import Shown
from supermask.tickets.entry import check_storable
from supermask.tickets.ticket import Ticket
from supermask.weights.init import check_seed
from supermask.weights.names import owned_parameters, unwrap
from supermask.weights.roles import check_usable, classify, masked


class Search(Shown, Algorithm, Optimizer):
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
            `relative_steps`. Without an `lr` it is 0.02 (in deep networks less), without batch norms 0.005.
            By default the first where there is an `lr`, the second where there is none.
        distribution: How the density spreads over layers: `uniform`, `global`, `erk`, `epl`, or N:M such
            as `2:4`: N of every M weights along the input dimension (`ops.select_n_of_m`).
        density_schedule: `constant`, or `cubic`: from `initial_density` to `density` by (1 - t/T)³, see
            `masks.scheduled_density`.
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
        TypeError: `model` is no module, or `scores` no mapping.
        ValueError: A value out of range, an option the base rule refuses, or nothing to mask.
    """

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
        self.check_allocation(distribution, density_schedule)
        masks.check_distribution(distribution, density)
        construction.check_schedule(density_schedule, schedule_steps, distribution, density, initial_density)
        construction.check_score_init(score_init, None if self.accepts_score_init else self.method)
        said = (lr, base, step_size, base_options)
        lr, base, self.step_size, base_options = settle_rule(self, model, *said, include, exclude)
        check_usable(classify(model, include, exclude))
        check_storable(model, values=False)
        infos = masked(model, include, exclude)
        norms = construction.norm_parameters(model, exclude) if train_norms else {}
        self.masked_parameters: dict[str, nn.Parameter] = {info.name: info.tensor for info in infos}
        moved = {**self.masked_parameters, **norms}
        claims.check_free(moved)
        construction.tell_of_weights(model, infos, density, self.rescale_density(density))
        construction.freeze_the_rest(model, moved, infos, exclude)
        self.model, self.density, self.distribution = unwrap(model), density, distribution
        self.density_schedule, self.schedule_steps, self.seed = density_schedule, schedule_steps, seed
        self.initial_density, self.score_init, self.train_norms = initial_density, score_init, train_norms
        self.steps, self._horizon, self.group = 0, schedule_steps, masks.group_of(distribution)
        self._owners = {name: module for name, _, module in owned_parameters(model) if name in moved}
        self.input_axes = {info.name: info.inputs for info in infos}
        self.zero_rows = {info.name: info.zero_row for info in infos if info.zero_row is not None}
        weights = {info.name: construction.frozen_weight(info) for info in infos}
        first = {info.name: self.initial_scores(info, weights[info.name]) for info in infos}
        construction.replace_scores(first, {} if scores is None else scores)
        self.base = construction.make_base(base, [*first.values(), *norms.values()], lr, base_options)
        group = {key: value for key, value in self.base.param_groups[0].items() if key != "params"}
        super().__init__([{"params": list(moved.values()), **group}], self.base.defaults)
        for name, parameter in self.masked_parameters.items():
            own = {"score": first[name], "weight": weights[name]}
            self.state[parameter] = own | first_sizes(self.step_size, **own)
        self.keep = self.counts(self.current_density)
        self.threshold_hints = ops.new_cuts(list(first.values()), together=distribution == "global")
        self.prepare()
        self.advance()
        self.write(self.select())
        claims.claim(self, moved.values())
        masks.warn_of_collapse(self.mask)

    # Its length, and what it is.

    def plan(self, steps: int, steps_per_epoch: int) -> None:
        """Learn how long the search will be, before its first step; what has no schedule ignores it.

        The same numbers must be given again to a search that goes on from a `state_dict`. An algorithm
        with periods of its own overrides this and calls it.

        Raises:
            ValueError: A number below 1, or the search ends before `schedule_steps` have brought it to its
                density.
        """
        if not all(is_number(value) and value >= 1 for value in (steps, steps_per_epoch)):
            raise ValueError(
                f"plan takes the steps of the search and of an epoch, both at least 1, not {steps!r} and "
                f"{steps_per_epoch!r}"
            )
        if self.schedule_steps is None:
            self._horizon = max(1, steps // 2)
        elif self.schedule_steps > steps:
            raise ValueError(
                f"schedule_steps={self.schedule_steps} is more than the {steps} steps of the search, which "
                "would end before it reaches its density; take fewer, or more epochs"
            )

    def identity(self) -> dict[str, Any]:
        """What a state must agree with to be continued here; a key that is absent has its default."""
        return states.identity_of(self)

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
        """Hand the present options to the base rule, count the step and what is to be kept after it.

        Raises:
            RuntimeError: The model has another parameter in the place of a masked one.
        """
        claims.check_owners(self._owners, self.masked_parameters)
        states.share_options(self.param_groups, self.base.param_groups)
        self.steps += 1
        if self.density_schedule != "constant":
            self.keep = self.counts(self.current_density)

    def move(self) -> None:
        """Move the scores, select the masks and write W ⊙ M."""
        if self.fused is None or not self.fused.step([self], self.threshold_hints):
            self._move_in_parts()

    def end_step(self) -> None:
        """Look at the masks once they have reached a scheduled density."""
        if self.density_schedule != "constant" and self.steps == self._horizon:
            masks.warn_of_collapse(self.mask)

    @property
    def current_density(self) -> float:
        """Fraction of weights kept at present: `density`, but on the way there under a schedule.

        Raises:
            ValueError: A schedule without a length has begun.
        """
        if self.density_schedule == "constant":
            return self.density
        if self.steps and self._horizon is None:
            raise ValueError(
                f"density_schedule={self.density_schedule!r} needs a length: give schedule_steps=, or call "
                "plan(steps, steps_per_epoch) before the first step"
            )
        initial = 1.0 if self.initial_density is None else self.initial_density
        horizon = self._horizon or 1
        return masks.scheduled_density(self.density, self.steps, horizon, self.density_schedule, initial)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Parameter name → scores, contiguous, in at least float32."""
        return {name: self.state[p]["score"] for name, p in self.masked_parameters.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameter name → frozen weights W, contiguous."""
        return {name: self.state[p]["weight"] for name, p in self.masked_parameters.items()}

    @property
    def mask(self) -> masks.Mask:
        """Parameter name → bool mask, True where the weight is kept."""
        masks.check_cuts(self.scores, self.threshold_hints)
        return {name: self.state[p]["mask"] for name, p in self.masked_parameters.items()}

    def gradients(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """dL/dW_eff of parameters that have one, dense, in units of their layers where steps are relative."""
        given = [(p, p.grad) for p in parameters if p.grad is not None]
        grads = [grad if grad.layout == torch.strided else grad.to_dense() for _, grad in given]
        if self.step_size == "absolute":
            return grads
        return in_units_of_layers(grads, [self.state[p]["sizes"] for p, _ in given])

    @torch.no_grad()
    def write(self, mask: masks.Mask) -> None:
        """Put a mask in place: write the effective weights under it, in the parameters' present dtypes."""
        weights = list(self.effective(mask).values())
        ops.write_masked(list(self.masked_parameters.values()), weights, list(mask.values()))
        for name, parameter in self.masked_parameters.items():
            self.state[parameter]["mask"] = mask[name]

    @contextmanager
    def holding(self, mask: masks.Mask) -> Iterator[None]:
        """Inside this context the model has the weights under another mask."""
        training = self.mask
        self.write(mask)
        try:
            yield
        finally:
            self.write(training)

    def ticket(self, provenance: Mapping[str, Any] | None = None) -> Ticket:
        """The final network: a seed and at most one bit per weight, where the weights follow from a seed.

        Where training sees another network (a sample, open gates), the ticket is that of `evaluating`.

        Args:
            provenance: JSON-able facts to record in the file (the method and density are recorded).
        """
        facts = {"method": self.method, "density": self.current_density, "distribution": self.distribution}
        with self.evaluating():
            return Ticket.from_model(self.model, self.mask, provenance={**facts, **(provenance or {})})

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
        masks.check_cuts(self.scores, self.threshold_hints)
        own = {"base": self.base.state_dict(), "search": self.identity(), "steps": self.steps}
        return states.gathered(self, super().state_dict, {**own, **self.get_extra_state()})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit: copies into the existing tensors, then writes W ⊙ M.

        Raises:
            ValueError: The state is of another search: other parameters, shapes, groups, options or frozen
                weights. The search is as it was.
        """
        state_dict = states.announced(self, state_dict)
        own = {name: self.state[parameter] for name, parameter in self.masked_parameters.items()}
        identity, groups = self.identity(), self.param_groups
        entries = states.check_state(state_dict, identity, own, groups, weights_move=self.redraws_weights)
        self.base.load_state_dict(state_dict["base"])
        for name, entry in entries.items():
            for key, tensor in own[name].items():
                tensor.copy_(entry[key])
        states.share_options(state_dict["param_groups"], groups)
        self.threshold_hints.zero_()
        self.steps = state_dict["steps"]
        self.set_extra_state(state_dict)
        self.write(self.mask)
        for done in self._optimizer_load_state_dict_post_hooks.values():
            done(self)

    def __getstate__(self) -> dict[str, Any]:
        # Optimizer's own list of attributes is closed; a deep copy needs ours too.
        return {**super().__getstate__(), **states.own_attributes(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        claims.claim(self, self.param_groups[0]["params"])

    # Plumbing.

    def _move_in_parts(self) -> None:
        moving = [p for p in self.masked_parameters.values() if p.grad is not None]
        scores = [self.state[p]["score"] for p in moving]
        weights = [self.state[p]["weight"] for p in moving]
        gradients = self.score_gradients(self.gradients(moving), weights, scores)
        for score, gradient in zip(scores, gradients, strict=True):
            score.grad = gradient
        self.base.step()
        for score in scores:
            score.grad = None
        self.advance()
        self.write(self.select())
