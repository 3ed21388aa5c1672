"""Controls: what a ticket is compared with to learn whether its mask or its weights matter.

Reinit: the ticket's mask on a fresh draw (`randomize_` with another seed), as in Frankle and Carbin (ICLR
2019), section 2. Random mask: the density without the choice (`masks.random_mask`). Shuffled mask: each
layer's density without the choice, as in Frankle et al., "Pruning Neural Networks at Initialization: Why Are
We Missing the Mark?" (ICLR 2021), section 5.
"""

from collections.abc import Mapping

from torch import Tensor

from supermask.masks import Mask, permutation


def shuffle(mask: Mapping[str, Tensor], seed: int) -> Mask:
    """Permute the entries of each layer's mask: the same count in every layer, at other places."""
    return {
        name: kept.flatten()[permutation(kept.numel(), seed, f"shuffle/{name}").to(kept.device)].view(
            kept.shape
        )
        for name, kept in mask.items()
    }


def reinit_seed(seed: int) -> int:
    """The seed of the reinit control that goes with `seed`: far from seeds that people choose."""
    return (seed + (1 << 63)) % (1 << 64)
