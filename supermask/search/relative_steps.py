"""Steps of scores that do not feel the scale of the loss: one step size for each layer.

The gradient of a score is W · dL/dW_eff. It is as large as the loss, the logits and the weights make it, and
no norm layer takes that out, while a mask depends on the order of scores whose size was fixed at the start.
So a learning rate with which plain SGD finds a subnetwork of one network lets the scores of another stand
still.

With relative steps the gradient of each layer is divided by its own running size and multiplied by the size
of the layer's first scores. A learning rate is then a share of the scores' first size per step, in any
network, under any loss and at any batch size.

Sources. Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
Networks" (NovoGrad, arXiv:1905.11286), algorithm 1: a second moment that is one number a layer, and momentum
over gradients divided by its root. You et al., "Large Batch Training of Convolutional Networks" (LARS,
arXiv:1708.03888), equation 6: a step in proportion to the size of the layer.

Deviations. The size of a layer is that of its first scores and not of the present ones: scores grow in a
search, and steps that grow with them never settle. The second moment is a mean over entries; it starts from
0 and is divided by 1 - β₂ᵗ, as in Adam, where NovoGrad's starts at the first gradient. The size of
W · dL/dW_eff is taken as the root mean square of W times that of dL/dW_eff, which is exact for signed
constants and spares a pass over the weights.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask import ops
from supermask.weights.names import unwrap
from supermask.weights.roles import classify

STEP_SIZES = ("absolute", "relative")
"""The base rule moves scores by their gradients, or by gradients in units of the layer."""
RATE, RATE_WITH_BATCH_NORMS = 0.005, 0.02
"""Learning rates of a search that is given none. Behind a batch norm the outputs of a layer keep their scale,
however much of its mask changes; without one, large steps silence units or let outputs grow, and do harm."""
SHALLOW = 7
"""Up to how many masked layers a network with batch norms takes the whole rate; it falls as one over more."""
DEFAULT_MOMENTUM: dict[str, Any] = {"momentum": 0.9, "nesterov": True}
"""What a search takes that is given no learning rate."""
BETA2 = 0.95


class RateOwner(Protocol):
    """What a search says of its learning rate."""

    method: str
    has_default_rate: bool


def default_rate(model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> float:
    """The learning rate of relative steps on a network, by whether it has batch norms, and how many layers.

    What a step does to the outputs of a network is a product over its layers, so the deeper it is, the
    smaller the share of each that may change in a step (Bernstein et al., "On the distance between two neural
    networks and the stability of learning", arXiv:2002.03432). `benchmarks/score_steps.py` measured the rates
    on validation data.

    Args:
        model: The network.
        include, exclude: Patterns of names that a search masks besides, or leaves; see `classify`.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in unwrap(model).modules()):
        return RATE
    layers = sum(info.role == "masked" for info in classify(model, include, exclude))
    return RATE_WITH_BATCH_NORMS * SHALLOW / max(layers, SHALLOW)


def settle_rule(
    search: RateOwner,
    model: nn.Module,
    lr: float | None,
    base: str | Callable[..., Optimizer] | None,
    step_size: str | None,
    options: dict[str, Any],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> tuple[float, Any, str, dict[str, Any]]:
    """Learning rate, base rule, step size and options of the rule, from what a search was given.

    A learning rate alone means plain SGD by it, as published. No learning rate means relative steps at
    `default_rate(model, include, exclude)`.

    Args:
        search: Says whether the defaults were measured for it.
        model: The network that is searched.
        lr, base, step_size, options, include, exclude: What the user said; None for nothing.

    Raises:
        ValueError: Nothing stands in for the missing learning rate, or an unknown step size.
    """
    if step_size is not None and step_size not in STEP_SIZES:
        raise ValueError(f"step_size must be one of {', '.join(STEP_SIZES)}, not {step_size!r}")
    if lr is not None:
        return lr, base or "sgd", step_size or "absolute", options
    if not search.has_default_rate:
        raise ValueError(f"{search.method} has no default learning rate; give lr=")
    if step_size == "absolute" or base not in (None, "sgd", torch.optim.SGD):
        raise ValueError(
            "without lr= a search takes relative steps of SGD; give lr= with another base or with "
            "step_size='absolute'"
        )
    given = {**DEFAULT_MOMENTUM, **options}
    if not given["momentum"] and "nesterov" not in options:
        given["nesterov"] = False
    return default_rate(model, include, exclude), "sgd", "relative", given


def first_sizes(step_size: str, score: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """What relative steps remember of a layer, as a part of its state: `sizes`, float32, (4,).

    The size of its first scores; that of its weights; the running sum of squared gradients; the sum of
    its coefficients. Scores that all start at 0 count as of size 1.
    """
    if step_size == "absolute":
        return {}
    sizes = [float(t.double().square().mean().sqrt()) if t.numel() else 0.0 for t in (score, weight)]
    known = [sizes[0] or 1.0, sizes[1], 0.0, 0.0]
    return {"sizes": torch.tensor(known, dtype=torch.float32, device=score.device)}


def in_units_of_layers(grads: Sequence[Tensor], sizes: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in units of their layers, such that those of the scores are about as large as first scores.

    Args:
        grads: dL/dW_eff of some layers.
        sizes: What `first_sizes` made of each; this step is counted in them.
    """
    if len({grad.device for grad in grads}) > 1:
        pairs = zip(grads, sizes, strict=True)
        return [one for grad, size in pairs for one in in_units_of_layers([grad], [size])]
    return ops.in_units(grads, ops.units_of_layers(grads, sizes, BETA2)) if grads else []
