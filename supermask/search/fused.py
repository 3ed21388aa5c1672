"""The fused step: a search with plain SGD in one pass over gradients, scores and weights.

It leaves the same bits as the step in parts (gradients of the scores, `torch.optim.SGD`, selection, masked
write), so which of the two ran is a matter of speed alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supermask import masks, ops
from supermask.search.base import Search
from supermask.search.relative_steps import BETA2


class FusedSgd:
    """A step with plain SGD, of one search or several, as `FusedStep`.

    Args:
        operator: That of `supermask.ops` which makes it: `edge_popup_sgd` or `signed_supermask_sgd`.
        leaves_weights: Whether one that finds a score not finite has written no weight yet.
    """

    def __init__(self, operator: str, leaves_weights: bool) -> None:
        self.operator, self.leaves_weights = operator, leaves_weights

    def step(self, searches: Sequence[Search], threshold_hints: Tensor) -> bool:
        """Run the step of all searches in one call if they, their base rules and their gradients allow it.

        Args:
            searches: One or several, of networks on one device; several must have the same options.
            threshold_hints: Those of all searches, one after another.

        Returns:
            Whether it ran.

        Raises:
            NonFiniteScoreError: A score is no longer finite; the models keep their last good weights. (On
                CUDA `Search.mask` raises it.)
        """
        if not all(map(_plain, searches)):
            return False
        given = [{name: search.base.param_groups[0][name] for name in _OPTIONS} for search in searches]
        together = any(isinstance(search.keep, int) for search in searches)
        if given.count(given[0]) < len(given) or (together and len(searches) > 1):
            return False
        parameters = [p for search in searches for p in search.masked_parameters.values()]
        states = [search.state[p] for search in searches for p in search.masked_parameters.values()]
        scores = [state["score"] for state in states]
        velocities: list[Tensor] | None = []
        if given[0]["momentum"] != 0:
            velocities = _velocities(searches)
        if velocities is None or not all(
            _fits(self.operator, state["score"], p.grad) for state, p in zip(states, parameters, strict=True)
        ):
            return False
        # A cut over all tensors needs a kernel that knows of it, as that of rank_into does.
        if together and not ops.is_native("rank_into", scores[0].device):
            return False
        keep = [count for search in searches for count in _counts(search)]
        weights = [state["weight"] for state in states]
        grads, units = _gradients(searches)
        try:
            selected = getattr(ops, self.operator)(
                parameters,
                scores,
                velocities,
                grads,
                weights,
                keep,
                threshold_hints,
                **given[0],
                units=units,
            )
        except ValueError:
            for search in () if self.leaves_weights else searches:
                search.write(search.mask)
            for search in searches:
                masks.check_finite(search.scores)
            raise
        for state, mask in zip(states, selected, strict=True):
            state["mask"] = mask
        for search in searches:
            if len(search.base.param_groups[0]["params"]) > len(search.masked_parameters):
                search.base.step()  # norms: the scores have no .grad, so it passes them by
        return True


EDGE_POPUP_SGD = FusedSgd("edge_popup_sgd", leaves_weights=False)
SIGNED_SUPERMASK_SGD = FusedSgd("signed_supermask_sgd", leaves_weights=True)


def _gradients(searches: Sequence[Search]) -> tuple[list[Tensor], Tensor | None]:
    """dL/dW_eff of all, and factors for the kernel to multiply them by; None if they are in units already."""
    masked = [search.masked_parameters.values() for search in searches]
    relative = all(search.step_size == "relative" for search in searches)
    if not relative or not ops.is_native("units_of_layers", next(iter(masked[0])).device):
        return [
            grad for search, own in zip(searches, masked, strict=True) for grad in search.gradients(own)
        ], None
    grads = [p.grad for own in masked for p in own if p.grad is not None]
    sizes = [search.state[p]["sizes"] for search, own in zip(searches, masked, strict=True) for p in own]
    return grads, ops.units_of_layers(grads, sizes, BETA2)


def _plain(search: Search) -> bool:
    return _plain_sgd(search.base) and not search.group and search.ranking == "magnitude"


def _counts(search: Search) -> list[int]:
    return [search.keep] if isinstance(search.keep, int) else list(search.keep.values())


_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


def _plain_sgd(base: torch.optim.Optimizer) -> bool:
    """Whether `base` is torch's SGD, with nothing that the fused arithmetic does not have."""
    if type(base) is not torch.optim.SGD or len(base.param_groups) != 1:
        return False
    options: dict[str, Any] = base.param_groups[0]
    # For a CUDA graph the rule is torch's fused one with lr on the device, where the kernel can read it too.
    on_device = isinstance(options["lr"], Tensor) and options["lr"].is_cuda
    unusual = ("maximize", "foreach", "differentiable", *(() if on_device else ("fused",)))
    hooks = (base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks)
    numbers = all(isinstance(options[name], int | float) for name in _OPTIONS[1:])
    numbers = numbers and isinstance(options["lr"], int | float | Tensor)
    return numbers and not any(options[name] for name in unusual) and not any(hooks)


def _velocities(searches: Sequence[Search]) -> list[Tensor] | None:
    """SGD's momentum buffers, or None before its first step, which makes them."""
    buffers = []
    for search in searches:
        moved = search.base.state
        for score in search.scores.values():
            buffer = moved[score].get("momentum_buffer") if score in moved else None
            if buffer is None:
                return None
            buffers.append(buffer)
    return buffers


def _fits(operator: str, score: Tensor, grad: Tensor | None) -> bool:
    return (
        grad is not None
        and grad.layout == torch.strided
        and score.dtype == torch.float32
        and grad.device == score.device
        and ops.is_native(operator, score.device)
    )
