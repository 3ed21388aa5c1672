"""All constructions by name: what each prunes, and how fast its error should fall."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from supermask.theory.attention import Attention, prune_attention
from supermask.theory.network import Block, is_plain_linear, sequential
from supermask.theory.orseau import BASE, UNITS_FOR_A_DIGIT, prune_orseau
from supermask.theory.per_input import prune_malach, prune_pensia

PruneLayer = Callable[[Tensor, int, int, str], Block]
"""Weight (out, in), n, seed and name of the layer → two pruned random layers."""


@dataclass(frozen=True)
class Construction:
    """A way to prune a random network into a target.

    Attributes:
        name: As in options and results.
        paper: What it is called in figures and tables.
        target: `perceptron` or `attention`.
        prune_layer: What is done with each layer of a perceptron; None for attention.
        log_error: n → logarithm of the mean weight error that theory predicts, up to a constant.
        law: That prediction in words.
    """

    name: str
    paper: str
    target: str
    prune_layer: PruneLayer | None
    log_error: Callable[[float], float]
    law: str

    def prune(self, network: nn.Sequential, n: int, seed: int) -> nn.Module:
        """A random network from `seed` with n random numbers a weight, pruned to `network`.

        A perceptron is pruned whole. Of a network that begins with attention, the attention is pruned and
        what follows is shared.

        Raises:
            ValueError: n is not positive, or the network is not of the kind, or too large, or has a weight
                above 1 in magnitude where the construction cannot reach it.
        """
        if n < 1:
            raise ValueError(f"n={n} random numbers for each weight: take at least 1")
        if self.prune_layer is None:
            return nn.Sequential(prune_attention(_attention(network), n, seed), *list(network)[1:])
        weights = _perceptron_weights(network)
        return sequential(
            [self.prune_layer(weight, n, seed, f"layer{index}") for index, weight in enumerate(weights)]
        )


CONSTRUCTIONS = {
    construction.name: construction
    for construction in (
        Construction(
            "malach", "Malach et al. 2020", "perceptron", prune_malach,
            lambda n: -math.log(n),
            "ε ∝ 1/n: the nearest of about n/2 products",
        ),
        # The 2^k sums of k products spread over an interval that grows as √k, so the nearest is about √k 2^-k
        # away. On one side of a perceptron k ~ Bin(n, 1/2), and the mean of 2^-k is (3/4)^n: weights with few
        # products make it larger than the typical 2^(-n/2).
        Construction(
            "pensia", "Pensia et al. 2020", "perceptron", prune_pensia,
            lambda n: n * math.log(3 / 4) + math.log(n) / 2,
            "ε ∝ √n (3/4)ⁿ: subsets of Bin(n, ½) products",
        ),
        Construction(
            "orseau", "Orseau et al. 2020", "perceptron", prune_orseau,
            lambda n: -(n // UNITS_FOR_A_DIGIT) * math.log(BASE),
            f"ε ∝ (2/3)^(n/{UNITS_FOR_A_DIGIT}): digits in base 3/2",
        ),
        Construction(
            "attention", "Otsuka et al. 2025", "attention", None,
            lambda n: -n * math.log(2) + math.log(n) / 2,
            "ε ∝ √n 2⁻ⁿ: subsets of n products",
        ),
    )
}  # fmt: skip


def _perceptron_weights(network: nn.Sequential) -> list[Tensor]:
    """Weights of a bias-free ReLU network in order, each at most 1 in magnitude."""
    modules = [module for module in network if not isinstance(module, nn.Flatten)]
    linear = [module for module in modules[::2] if is_plain_linear(module)]
    relus = [module for module in modules[1::2] if isinstance(module, nn.ReLU)]
    if not linear or len(linear) != len(relus) + 1 or len(linear) + len(relus) != len(modules):
        raise ValueError(
            "the target must alternate linear layers without biases and ReLUs, beginning and ending with a "
            "linear layer"
        )
    weights = [module.weight.detach() for module in linear]
    for index, weight in enumerate(weights):
        if not (largest := float(weight.abs().max())) <= 1:
            raise ValueError(
                f"linear layer {index} has a weight of magnitude {largest:.3g}, and products of weights from "
                "U[−1, 1] stand for at most 1; divide the layer by its spectral norm, which only scales the "
                "output"
            )
    return weights


def _attention(network: nn.Sequential) -> Attention:
    first = next(iter(network), None)
    if not isinstance(first, Attention):
        raise ValueError(f"the target must begin with Attention, not with {type(first).__name__}")
    return first
