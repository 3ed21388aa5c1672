"""Networks that compute straight from packed masks.

`pack` gives a copy of a network whose layers hold bits of masks and signs instead of floats, and which
computes the same function up to the order of float32 sums. Layers that no packed form serves stay as they
are.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from supermask.packed.conv import PackedConv1d, PackedConv2d
from supermask.packed.linear import PackedLinear, check_activations
from supermask.packed.tuning import tune
from supermask.tickets.ticket import Ticket
from supermask.weights.names import plain_copy

__all__ = ["PACKERS", "PackedConv1d", "PackedConv2d", "PackedLinear", "pack", "tune"]

PACKERS: dict[type, Callable[..., Any]] = {
    nn.Linear: PackedLinear.of,
    nn.Conv1d: PackedConv1d.of,
    nn.Conv2d: PackedConv2d.of,
}
"""Type of a layer (exactly, no subclass) → what packs one, given the draw of its masked weights."""


def pack(
    model: nn.Module,
    ticket: Ticket,
    example: Tensor | tuple[Any, ...] | None = None,
    activations: str | None = None,
) -> nn.Module:
    """A copy of `model` with the weights of `ticket`, its layers packed where a packed form serves them.

    Wrappers of the model and of its parts, such as `torch.compile`, are not copied.

    Meant for inference: packed weights do not train, though gradients reach the layers' inputs. A packed
    network moves between devices like any other, and on each it holds only what is computed from there.

    Args:
        model: The network.
        ticket: Its ticket.
        example: An input of the network, or a tuple of them, of the size and type that it will be used with.
            Convolutions then measure whether packed or dense weights serve them faster; without it,
            measurements of another machine decide. Two choices differ in the order of float32 sums.
        activations: With `int8`, packed linear layers of signed constants round each row of their inputs to
            integers from -127 to 127 times a scale, and add up integers exactly: faster, at an error of at
            most 1/254 of the row's largest magnitude in each input. Convolutions and layers with other
            weights take their inputs as they come.

    Raises:
        TypeError: `ticket` is none, such as the path of one, or `model` is no module.
        TicketError: The ticket is of another network.
        ValueError: `activations` is neither None nor `int8`.
    """
    check_activations(activations)
    if not isinstance(ticket, Ticket):
        raise TypeError(f"ticket is a Ticket, as Ticket.load(path) reads it, not a {type(ticket).__name__}")
    packed = ticket.apply(plain_copy(model))
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
        layer = packer(module, draw, activations)
        if layer is None:
            continue
        layer.train(module.training)
        if not name:
            packed = layer
            break
        parent, _, child = name.rpartition(".")
        setattr(packed.get_submodule(parent), child, layer)
    if example is not None:
        tune(packed, example)
    return packed
