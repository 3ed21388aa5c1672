"""The smaller network that a structured mask leaves; see structured.py for the masks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from supermask.prune.structured import FilterLayer, coupled, dependencies, filter_layers, probe
from supermask.weights.names import parameters_of, unwrap
from supermask.weights.roles import masked


def shrink(model: nn.Module, mask: Mapping[str, Tensor], example: Tensor) -> nn.Module:
    """A smaller network that computes what `model` computes under a structured mask, in evaluation mode.

    Filters that the mask removes whole, and that nothing reads any more, are taken out, with their biases,
    norm channels and the kernels that read them. Single weights that it prunes elsewhere are zero. The new
    network is an ordinary one without a factory name, as none builds its shapes.

    Args:
        model: The network; it is not changed.
        mask: Name → bool mask of the masked parameters.
        example: A batch of floating-point inputs; only its shape matters.

    Returns:
        The smaller network, in the mode, dtype and on the device of `model`. Outputs agree up to the order
        of floating-point sums, which is checked in float64.

    Raises:
        ValueError: The mask removes no whole filter or does not fit, or the smaller network computes
            something else.
    """
    layers = filter_layers(model, example)
    network, inputs = probe(model, example)
    _apply(network, mask)
    gone = {name: removed for name, layer in layers.items() if (removed := _removed(layer, mask)).any()}
    if not gone:
        raise ValueError(
            "the mask removes no whole filter together with the kernels that read it, so there is nothing "
            "to shrink; filter_mask makes masks that do"
        )
    with torch.no_grad():
        expected = network(inputs)
    _remove(network, inputs, gone)
    if not _computes(network, inputs, expected):
        raise ValueError(
            f"the smaller {type(network).__name__} computes something else; the way its layers are connected "
            "is not understood. Keep the masked network"
        )
    return _like(network, model)


@torch.no_grad()
def _computes(network: nn.Module, inputs: Tensor, expected: Tensor) -> bool:
    try:
        found = network(inputs)
    except RuntimeError:  # shapes that do not go together
        return False
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def _removed(layer: FilterLayer, mask: Mapping[str, Tensor]) -> Tensor:
    """Which filters the mask removes whole and leaves unread (bool, on the CPU)."""
    gone = ~mask[layer.name].flatten(1).any(1).cpu()
    for reader, (inputs, filters) in layer.readers.items():
        read = mask[reader].transpose(0, 1).flatten(1).any(1).cpu()[inputs]
        gone[filters[read]] = False
    if gone.all():
        gone[0] = False  # a layer of no filters does not run; a masked one gives a constant
    return gone


@torch.no_grad()
def _apply(network: nn.Module, mask: Mapping[str, Tensor]) -> None:
    parameters = {info.name: info.tensor for info in masked(network)}
    if mask.keys() != parameters.keys() or any(mask[n].shape != p.shape for n, p in parameters.items()):
        raise ValueError(
            "the mask is not one of this network; it must name every masked weight, in its shape"
        )
    for name, parameter in parameters.items():
        parameter.masked_fill_(~mask[name].to(parameter.device), 0.0)


def _remove(network: nn.Module, inputs: Tensor, gone: Mapping[str, Tensor]) -> None:
    graph = dependencies(network, inputs)
    for name, removed in gone.items():
        module = network.get_submodule(name.removesuffix(".weight"))
        coupled(graph, module, removed.nonzero().flatten().tolist()).prune()


def _like(network: nn.Module, model: nn.Module) -> nn.Module:
    """The network in the mode, dtype and on the device of another."""
    model = unwrap(model)
    first = next(model.parameters())
    if hasattr(network, "supermask_factory"):
        del network.supermask_factory
    for name, parameter in parameters_of(model).items():
        network.get_parameter(name).requires_grad_(parameter.requires_grad)
        network.get_parameter(name).grad = None
    return network.to(device=first.device, dtype=first.dtype).train(model.training)
