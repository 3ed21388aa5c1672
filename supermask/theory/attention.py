"""Strong tickets of multi-head attention: query and key, value and output as subset sums of products.

Otsuka et al., "The strong lottery ticket hypothesis for multi-head attention mechanisms"
(arXiv:2511.04217). From the paper's abstract and summary: a random attention with H heads, input dimension
d and hidden dimension O(d log(H d^(3/2))) for key and value holds a subnetwork near any attention of that
input dimension; the target's projections are merged, and the source computed in another order, so that the
argument of two layers for one applies. The construction below is our derivation of that idea; the details
may differ from theirs.

A head sees its query and key matrices only in the product A = W_Qᵀ·W_K / √d_K (d, d), as scores x_s·A·x_t,
and its value and output matrices only in B = W_O·W_V (d, d). So it is these that the source has to meet.
The n·d hidden dimensions of a source head are parted among the d inputs, n each. Those of input a are
pruned to see only input a in the query, which leaves the numbers q_ak; the mask of the key then chooses for
every b the subset of the n products q_ak·k_bk whose sum is nearest to A_ab. No ReLU stands between the two,
so no sides are to be told apart and all n products count. Value (pruned to one input) and output (chosen)
are the same.

The source divides its scores by the root of its own hidden dimension, n·d. Drawing query and key from U[−c,
c] with c = (n·d)^¼ makes up for it (ours). Trained entries of A and B are not bounded by 1, and sums of few
products seldom reach ±1: where the largest entry is above 1 / `HEADROOM`, c grows by the root of `HEADROOM`
times that entry (ours).
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from supermask.theory.draws import uniform
from supermask.theory.network import MaskedLinear, check_size, is_plain_linear
from supermask.theory.per_input import first_mask
from supermask.theory.subset_sum import best_subset

HEADROOM = 4.0
"""How far the range of one product reaches beyond the largest target. It costs two products' worth of
precision; without it the positive products of n = 20 fall short of the largest entry in one case of
thirty."""


class Attention(nn.Module):
    """Multi-head self-attention from its four projections, any modules: (N, T, d) → (N, T, d), no biases.

    Args:
        heads: H.
        query: d → H·d_K.
        key: d → H·d_K.
        value: d → H·d_V.
        output: H·d_V → d.
    """

    def __init__(
        self, heads: int, query: nn.Module, key: nn.Module, value: nn.Module, output: nn.Module
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = query, key, value, output
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            rearrange(module(x), "n places (head d) -> n head places d", head=self.heads)
            for module in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        seen = scores.softmax(dim=-1) @ value
        return self.output(rearrange(seen, "n head places d -> n places (head d)"))


def merged(attention: Attention) -> tuple[Tensor, Tensor]:
    """A and B of every head, each (H, d, d) in float64: scores are x_s·A·x_t, outputs B·Σ softmax·x_t."""
    query, key, value, output = (
        _matrix(module) for module in (attention.query, attention.key, attention.value, attention.output)
    )
    heads = attention.heads
    query, key, value = (
        rearrange(matrix, "(head d) inputs -> head d inputs", head=heads) for matrix in (query, key, value)
    )
    scores = query.transpose(1, 2) @ key / math.sqrt(query.shape[1])
    return scores, rearrange(output, "outputs (head d) -> head outputs d", head=heads) @ value


def _matrix(module: nn.Module) -> Tensor:
    if isinstance(module, MaskedLinear):
        return module.effective.double()
    if not is_plain_linear(module):
        raise ValueError(f"projections of the target are linear layers without biases, not {module}")
    return module.weight.detach().double()


def prune_attention(target: Attention, n: int, seed: int) -> Attention:
    """Prune a random attention, n·d hidden dimensions for each head, to `target`.

    Raises:
        ValueError: The random projections would be too large.
    """
    scores, outputs = merged(target)
    heads, width = scores.shape[:2]
    hidden = n * width
    check_size("query", heads * hidden, width)
    shape = (heads * hidden, width)
    root = _root_of_range(scores) * hidden**0.25
    query, key = (uniform(shape, seed, name, root) for name in ("query", "key"))
    root = _root_of_range(outputs)
    value, output = uniform(shape, seed, "value", root), uniform(shape[::-1], seed, "output", root)
    seeing, chosen = _masks(query, key, scores * math.sqrt(hidden))
    projections = [MaskedLinear(query, seeing), MaskedLinear(key, chosen)]
    seeing, chosen = _masks(value, output.T, outputs.transpose(1, 2))
    projections += [MaskedLinear(value, seeing), MaskedLinear(output, chosen.T.contiguous())]
    return Attention(heads, *projections)


def _root_of_range(matrices: Tensor) -> float:
    return math.sqrt(max(1.0, HEADROOM * float(matrices.abs().max())))


def _masks(seeing: Tensor, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of two matrices (H·n·d, d) such that over the dimensions of head h and input a their products add
    up to `targets` (H, d, d) [h, a, b]."""
    heads, width = targets.shape[:2]
    n = len(seeing) // (heads * width)
    every = torch.arange(width)
    own = seeing.view(heads, width, n, width)[:, every, :, every].transpose(0, 1)  # (H, d, n)
    other = chosen.view(heads, width, n, width).transpose(2, 3)  # (H, d, d, n)
    numbers = (own[:, :, None].double() * other.double()).reshape(-1, n)
    mask = best_subset(numbers, targets.reshape(-1, 1)).view(heads, width, width, n).transpose(2, 3)
    used = mask.any(dim=3)  # (H, d, n)
    return (
        torch.cat([first_mask(head) for head in used]),
        mask.reshape(chosen.shape).contiguous(),
    )
