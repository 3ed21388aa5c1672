"""Random masks from a seed, the controls of every comparison."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from supermask import ops
from supermask.masks.distribution import group_of, kept_in_groups
from supermask.masks.selection import Mask, check_counts, select_n_of_m
from supermask.weights.init import check_seed, derive_key


def random_mask(
    shapes: Mapping[str, Sequence[int]],
    keep: Mapping[str, int],
    seed: int,
    distribution: str = "uniform",
    inputs: Mapping[str, int] | None = None,
) -> Mask:
    """A mask that keeps `keep[name]` weights of each layer, chosen uniformly by the generator.

    Under an N:M `distribution` the choice is uniform within every group; `keep` is then that of `allocate`,
    and `inputs` as there.

    Raises:
        ValueError: A count is not in [0, size], not that of the distribution, or a layer has none.
    """
    group = group_of(distribution)
    check_counts(shapes, keep)
    mask: Mask = {}
    for name, shape in shapes.items():
        if not 0 <= keep[name] <= math.prod(shape):
            raise ValueError(f"{name} has {math.prod(shape)} weights and cannot keep {keep[name]} of them")
        order = permutation(math.prod(shape), seed, f"random-mask/{name}")
        if group:
            if keep[name] != kept_in_groups(shape, *group, (inputs or {}).get(name, 1)):
                raise ValueError(
                    f"{distribution} does not keep {keep[name]} weights of {name}, {tuple(shape)}"
                )
            mask |= select_n_of_m({name: order.double().view(tuple(shape))}, *group, inputs=inputs)
            continue
        flat = torch.zeros(math.prod(shape), dtype=torch.bool)
        flat[order[: keep[name]]] = True
        mask[name] = flat.view(tuple(shape))
    return mask


def permutation(count: int, seed: int, purpose: str) -> Tensor:
    """A random permutation of `count` indices (int64), a function of (seed, purpose, count) alone.

    Indices are sorted by 64-bit random words, two of the generator's 32-bit words each.
    """
    key = derive_key(f"permutation/{purpose}", check_seed(seed), str(count))
    words = ops.philox(key, 0, 2 * count).view(count, 2)
    return torch.argsort(words[:, 0] * (1 << 32) + words[:, 1], stable=True)
