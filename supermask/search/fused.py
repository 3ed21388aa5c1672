"""The fused step: edge-popup with plain SGD in one pass over gradients, scores and weights.

It leaves the same bits as the step in parts (straight-through gradient, `torch.optim.SGD`, selection, masked
write), so which of the two ran is a matter of speed alone.
"""

from typing import Any

import torch
from torch import Tensor

from supermask import mask as masks
from supermask import ops
from supermask.search.base import Search


def sgd_step(search: Search) -> bool:
    """Run the fused step if this search, its base rule and its gradients allow it; whether it ran.

    Raises:
        NonFiniteScoreError: A score is no longer finite; the model keeps its last good weights. (On CUDA
            `Search.mask` raises it.)
    """
    together = isinstance(search.keep, int)
    if not _plain_sgd(search.base) or search._group or search.ranking != "magnitude":
        return False
    parameters, scores = list(search._names.values()), list(search.scores.values())
    grads = [parameter.grad for parameter in parameters]
    options = search.base.param_groups[0]
    velocities = _velocities(search.base, scores) if options["momentum"] != 0 else []
    if velocities is None or not all(map(_fits, scores, grads)):
        return False
    # A cut over all tensors needs a kernel that knows of it, as that of rank_into does.
    if together and not ops.is_native("rank_into", scores[0].device):
        return False
    try:
        selected = ops.edge_popup_sgd(
            parameters,
            scores,
            velocities,
            grads,  # type: ignore[arg-type]  # none is None: _fits
            list(search.weights.values()),
            [search.keep] if isinstance(search.keep, int) else list(search.keep.values()),
            search._cuts,
            **{name: options[name] for name in _OPTIONS},
        )
    except ValueError:
        search._write(search.mask)
        masks.check_finite(search.scores)
        raise
    for parameter, mask in zip(parameters, selected, strict=True):
        search.state[parameter]["mask"] = mask
    if len(options["params"]) > len(scores):
        search.base.step()  # norms: the scores have no .grad, so it passes them by
    return True


_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


def _plain_sgd(base: torch.optim.Optimizer) -> bool:
    """Whether `base` is torch's SGD, with nothing that the fused arithmetic does not have."""
    if type(base) is not torch.optim.SGD or len(base.param_groups) != 1:
        return False
    options: dict[str, Any] = base.param_groups[0]
    unusual = ("maximize", "foreach", "differentiable", "fused")
    hooks = (base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks)
    numbers = all(isinstance(options[name], int | float) for name in _OPTIONS[1:])
    numbers = numbers and isinstance(options["lr"], int | float | Tensor)
    return numbers and not any(options[name] for name in unusual) and not any(hooks)


def _velocities(base: torch.optim.Optimizer, scores: list[Tensor]) -> list[Tensor] | None:
    """SGD's momentum buffers, or None before its first step, which makes them."""
    buffers = []
    for score in scores:
        buffer = base.state[score].get("momentum_buffer") if score in base.state else None
        if buffer is None:
            return None
        buffers.append(buffer)
    return buffers


def _fits(score: Tensor, grad: Tensor | None) -> bool:
    return (
        grad is not None
        and grad.layout == torch.strided
        and score.dtype == torch.float32
        and grad.device == score.device
        and ops.is_native("edge_popup_sgd", score.device)
    )
