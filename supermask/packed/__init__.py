"""Networks that compute straight from packed masks.

`pack` gives a copy of a network whose layers hold bits of masks and signs instead of floats, and which
computes the same function up to the order of float32 sums. Layers that no packed form serves stay as they
are.
"""

import copy

from torch import nn

from supermask.packed.linear import PackedLinear
from supermask.parameters import unwrap
from supermask.ticket import Ticket

__all__ = ["PACKERS", "PackedLinear", "pack"]

PACKERS = {nn.Linear: PackedLinear.of}
"""Type of a layer (exactly, no subclass) → what packs one, given the draw of its masked weights."""


def pack(model: nn.Module, ticket: Ticket) -> nn.Module:
    """A copy of `model` with the weights of `ticket`, its layers packed where a packed form serves them.

    Meant for inference: packed weights do not train, though gradients reach the layers' inputs.

    Raises:
        TicketError: The ticket is of another network.
    """
    packed = ticket.apply(copy.deepcopy(unwrap(model)))
    draws = {entry.name: entry.draw for entry in ticket.entries if entry.masked}
    owners: dict[int, int] = {}
    for module in packed.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in list(packed.named_modules()):
        draw = draws.get(f"{name}.weight" if name else "weight")
        packer = PACKERS.get(type(module))
        if packer is None or draw is None or owners[id(module.weight)] > 1:
            continue
        layer = packer(module, draw)
        if layer is None:
            continue
        layer.train(module.training)
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(packed.get_submodule(parent), child, layer)
    return packed
