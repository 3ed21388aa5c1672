"""Pruning at initialization: saliencies of the weights of a network that was never trained.

SNIP: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (ICLR 2019), equation
5. GraSP: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow" (ICLR 2020),
equation 8. SynFlow: Tanaka et al., "Pruning neural networks without any data by iteratively conserving
synaptic flow" (NeurIPS 2020), algorithm 1 and equation 5. All rank over the whole network.

Deviations: counts are exact, ties go to the lower index, and a layer never falls to nothing, which the papers
allow. SNIP and GraSP see the one batch that they are given, in `compare` the first of the training; GraSP's
authors take ten images of every class. SNIP's scores are not divided by their sum, which ranks nothing anew.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from supermask.checks import is_count
from supermask.masks import Mask, keep_count
from supermask.prune.criteria import best
from supermask.weights.names import plain_copy
from supermask.weights.roles import masked

Loss = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, Tensor]
TEMPERATURE = 200.0
"""GraSP divides the logits by this before the loss, in the authors' code."""
SYNFLOW_ROUNDS = 100


def snip(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss = nn.functional.cross_entropy
) -> Scores:
    """|w · dL/dw| of every masked weight: how much the loss depends on its connection.

    Lee et al. (ICLR 2019), equation 5; deviations: see the head of this module.

    Args:
        model: The network as initialized; it is not changed.
        inputs: A batch of inputs.
        labels: Their labels.
        loss: Loss of (outputs, labels).

    Returns:
        Name → scores, shaped like the weights; the largest stay.
    """
    weights, network = _copy(model)
    grads = torch.autograd.grad(loss(network(inputs), labels), list(weights.values()))
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), grads, strict=True)}


def grasp(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss = nn.functional.cross_entropy
) -> Scores:
    """w · (H g), with the Hessian H and the gradient g: how much the gradient's norm needs the weight.

    Wang et al. (ICLR 2020), equation 8; deviations: see the head of this module. The paper's score is
    -w · (H g), and it removes the largest. Arguments and result as in `snip`.
    """
    weights, network = _copy(model)
    value = loss(network(inputs) / TEMPERATURE, labels)
    grads = torch.autograd.grad(value, list(weights.values()), create_graph=True)
    flow = torch.stack([(g.detach() * g).sum() for g in grads]).sum()
    products = torch.autograd.grad(flow, list(weights.values()))
    return {name: (w * p).detach() for (name, w), p in zip(weights.items(), products, strict=True)}


def synaptic_flow(model: nn.Module, shape: tuple[int, ...]) -> Scores:
    """|w · dR/dw| with R the sum of outputs of the network of |w| for an input of ones.

    Tanaka et al. (NeurIPS 2020), equation 5. In float64 and evaluation mode: in a deep network R exceeds
    float32, and norms that see a batch would undo the flow. Biases, scales and shifts count by their
    magnitude, too, as in the authors' code.

    Args:
        model: The network; it is not changed.
        shape: Shape of one input, without the batch.
    """
    weights, network = _copy(model, torch.float64)
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    device = next(iter(weights.values())).device
    flow = network(torch.ones(1, *shape, dtype=torch.float64, device=device)).sum()
    grads = torch.autograd.grad(flow, list(weights.values()))
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), grads, strict=True)}


def inverted(scores: Mapping[str, Tensor]) -> Scores:
    """Scores by which the least important weights stay: a sanity control of the scores.

    Frankle et al., "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?" (ICLR 2021),
    section 5: a method that says which weights matter should do worse inverted than at random.
    """
    return {name: -score for name, score in scores.items()}


def synflow(
    model: nn.Module,
    shape: tuple[int, ...],
    keep: int,
    rounds: int = SYNFLOW_ROUNDS,
    *,
    invert: bool = False,
) -> Mask:
    """SynFlow's mask: prune to density^(r / rounds) of the weights in round r, by fresh scores each time.

    Tanaka et al. (NeurIPS 2020), algorithm 1. There a mask is what exceeds a threshold, and a pruned weight,
    of score 0, never comes back. Here every round keeps its exact count, and what is pruned stays so even
    where survivors, which lie on no path any more, have the score 0, too.

    Args:
        model: The network as initialized; it is not changed.
        shape: Shape of one input, without the batch.
        keep: Weights to keep in all.
        rounds: Rounds of pruning, at least one; with one the method collapses layers.
        invert: Keep the weights of least score in every round, see `inverted`.

    Returns:
        Name → bool mask of the masked parameters with `keep` weights in all.

    Raises:
        ValueError: `keep` or `rounds` is out of range.
    """
    if not is_count(rounds, 1):
        raise ValueError(f"rounds must be a whole number from 1 on, not {rounds!r}")
    network = plain_copy(model)
    weights = {info.name: info.tensor for info in masked(network)}
    total = sum(weight.numel() for weight in weights.values())
    if not is_count(keep, 1) or keep > total:
        raise ValueError(
            f"keep must be a number of weights from 1 to the {total} that there are, not {keep!r}"
        )
    mask: Mask = {}
    for round in range(1, rounds + 1):
        survivors = max(keep, keep_count(total, (keep / total) ** (round / rounds)))
        scores = synaptic_flow(network, shape)
        if invert:
            scores = inverted(scores)
        mask = best(scores, keep if round == rounds else survivors, mask or None)
        with torch.no_grad():
            for name, kept in mask.items():
                weights[name].masked_fill_(~kept, 0.0)
    return mask


def _copy(model: nn.Module, dtype: torch.dtype | None = None) -> tuple[dict[str, Tensor], nn.Module]:
    """Masked weights by name, requiring gradients, and the copied network that they belong to."""
    network = plain_copy(model).to(dtype=dtype)
    weights: dict[str, Tensor] = {info.name: info.tensor for info in masked(network)}
    for weight in weights.values():
        weight.requires_grad_(True)
    return weights, network
