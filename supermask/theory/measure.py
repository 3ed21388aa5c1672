"""How near a pruned random network comes to its target: in weights, in outputs, in accuracy."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from supermask.theory.attention import Attention, merged
from supermask.theory.network import Block, masked_layers
from supermask.theory.target import Target

ROWS = 64
"""Images at a time: the hidden layers of a pruned network are wide."""


@torch.no_grad()
def measure(target: Target, network: nn.Module) -> dict[str, Any]:
    """Errors and sizes of `network`, a construction's result for `target`; the network is left as it was.

    The output of a perceptron is its logits. Of attention it is what it says to each token, and the error on
    an image is that of the token it fails most.

    Returns:
        `max_weight_error`, `mean_weight_error`: between the target's weights and those that the pruned layers
        stand for (for attention: entries of the merged matrices);
        `max_output_error`, `mean_output_error`: Euclidean, over the target's inputs, in float64;
        `max_output_error_float32`: the same with the pruned network run in float32;
        `mean_output_norm`: of the target's outputs, to judge these by;
        `target_weights`, `random_weights`, `kept_weights`: counts;
        `target_accuracy`, `accuracy`: on the target's inputs, in float64.
    """
    double = copy.deepcopy(network).double()
    weight_errors = torch.cat([error.abs().flatten() for error in _weight_errors(target.network, double)])
    wanted = _run(_measured(target.network), target.inputs)
    given = _run(_measured(double), target.inputs)
    single = _run(_measured(copy.deepcopy(network).float()), target.inputs.float()).double()
    errors, single_errors = _worst(given - wanted), _worst(single - wanted)
    layers = list(masked_layers(network))
    return {
        "max_weight_error": float(weight_errors.max()),
        "mean_weight_error": float(weight_errors.mean()),
        "max_output_error": float(errors.max()),
        "mean_output_error": float(errors.mean()),
        "max_output_error_float32": float(single_errors.max()),
        "mean_output_norm": float(_worst(wanted).mean()),
        "target_weights": sum(p.numel() for p in _measured(target.network).parameters()),
        "random_weights": sum(layer.weight.numel() for layer in layers),
        "kept_weights": sum(int(layer.mask.sum()) for layer in layers),
        "target_accuracy": _accuracy(target.network, target),
        "accuracy": _accuracy(double, target),
    }


def _measured(network: nn.Module) -> nn.Module:
    """The part that a construction prunes."""
    first = next(network.children())
    return first if isinstance(first, Attention) else network


def _weight_errors(target: nn.Sequential, network: nn.Module) -> list[Tensor]:
    part = _measured(target)
    if isinstance(part, Attention):
        pruned = _measured(network)
        assert isinstance(pruned, Attention)
        return [a - b for a, b in zip(merged(pruned), merged(part), strict=True)]
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    return [
        side - weight
        for block, weight in zip(blocks, target.parameters(), strict=True)
        for side in block.effective()
    ]


def _run(network: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([network(rows) for rows in inputs.split(ROWS)])


def _worst(outputs: Tensor) -> Tensor:
    """(M, …, d) → (M,): norm over the last dimension, the largest of an image."""
    return outputs.norm(dim=-1).flatten(1).amax(dim=1) if outputs.ndim > 2 else outputs.norm(dim=-1)


def _accuracy(network: nn.Module, target: Target) -> float:
    return float((_run(network, target.inputs).argmax(dim=1) == target.labels).double().mean())
