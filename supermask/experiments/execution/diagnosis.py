"""What a run records of itself beside its accuracy, so that `supermask advise` can say what to try next.

It is cheap and decides nothing: how much of a search's mask changed between two entries of the learning
curve, and at the end, for each layer, how many weights it keeps and how many of its units are dead on data.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from supermask.analysis.units import count_multiply_adds, kept_of, layer_uses
from supermask.masks import Mask

LOOKED_AT = 500
"""Training images that a finished network is shown to find its dead units."""


class MaskWatch:
    """How much of a search's mask changed since it was last looked at.

    Attributes:
        memory: The mask of that time, by `prefix` and name. It travels with checkpoints, so that an
            interrupted run records the same numbers.
    """

    def __init__(self, memory: dict[str, Any] | None = None, prefix: str = "") -> None:
        self.memory = {} if memory is None else memory
        self._prefix = prefix

    def look(self, mask: Mapping[str, Tensor]) -> dict[str, float]:
        """`mask_changed`: the share of the kept weights that were not kept before; nothing the first time."""
        before = {name: self.memory.get(self._prefix + name) for name in mask}
        self.memory.update({self._prefix + name: kept.clone() for name, kept in mask.items()})
        new = [
            kept & ~old.to(kept.device)
            for kept, old in zip(mask.values(), before.values(), strict=True)
            if old is not None
        ]
        if len(new) < len(mask):
            return {}
        return {"mask_changed": _count(new) / max(_count(mask.values()), 1)}


def _count(masks: Iterable[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def network_facts(model: nn.Module, mask: Mask, batches: Iterable[Tensor]) -> dict[str, Any]:
    """The facts of a finished network.

    Args:
        model: The network, with its effective weights.
        mask: Name → bool mask of the weights that count; empty where all do.
        batches: Training images, as the network takes them.

    Returns:
        `multiply_adds` per example, None where a masked layer is of a kind unknown here; and `layers`: for
        each weight of two axes or more its name (`layer`), `weights`, `kept`, `units`, of these `empty` (no
        weight kept) and `dead` (on data; None where unknown).
    """
    uses, kept = layer_uses(model, batches), kept_of(model, mask)
    layers = []
    for name, use in uses.items():
        own = mask.get(name)
        empty = 0 if own is None else int((~own.flatten(1).any(dim=1)).sum())
        layers.append(
            {
                "layer": name,
                "weights": kept[name] if own is None else own.numel(),
                "kept": kept[name],
                "units": use.units,
                "empty": empty,
                "dead": use.dead,
            }
        )
    return {"multiply_adds": count_multiply_adds(uses, kept, mask), "layers": layers}
