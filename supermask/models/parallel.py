"""Several weights for each connection, of which a search keeps some: their sum is the connection's weight.

A mask over one random weight can only keep it or not. Over K of them it can give a connection any of 2^K
sums, and the network stays as wide and as deep as it was. That such sums come near any weight, with K growing
by the logarithm of the precision, is the theorem on subset sums of Lueker (1998) from which Pensia et al.,
"Optimal Lottery Tickets via SubsetSum" (NeurIPS 2020, arXiv:2006.07990), prove the strong lottery ticket
hypothesis. There, random weights lie in a layer that is put between; here they lie beside each other.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from supermask.models.registry import FACTORY_ATTRIBUTE
from supermask.models.structure import changes, remember_option
from supermask.weights.kinds import Fans, register_layer, usual_fans

OPTION = "parallel_weights"
"""The option of `create_model`, for every network, that asks for them."""
MOST = 64


class _Parallel(nn.Module):
    """A layer whose weight is the sum of `parallel` slices of the parameter `weights`, beside each other.

    `weights` has the axes of the layer's weight, with `parallel` times as many inputs: first those of the
    first weight of each connection, then those of the second, and so on.
    """

    parallel: int
    weights: nn.Parameter

    @property  # of layers whose `weight` can be assigned to: this one is computed
    def weight(self) -> Tensor:
        """The sum, in the shape of the layer's weight: what `forward` and whoever asks computes with.

        It is computed anew each time; what is written into it is lost.
        """
        return self.weights.unflatten(1, (self.parallel, -1)).sum(dim=1)

    def reset_parameters(self) -> None:
        """Draw as torch does: the sums have the variance of the layer's usual weights."""
        nn.init.kaiming_uniform_(self.weights, a=math.sqrt(5))
        bias = getattr(self, "bias", None)
        if bias is not None:
            bound = math.sqrt(self.parallel / self.weights[0].numel())
            nn.init.uniform_(bias, -bound, bound)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, parallel={self.parallel}"


class ParallelLinear(_Parallel, nn.Linear):  # type: ignore[override]
    """`nn.Linear` with several weights for each connection."""


class ParallelConv1d(_Parallel, nn.Conv1d):  # type: ignore[override]
    """`nn.Conv1d` with several weights for each connection."""


class ParallelConv2d(_Parallel, nn.Conv2d):  # type: ignore[override]
    """`nn.Conv2d` with several weights for each connection."""


class ParallelConv3d(_Parallel, nn.Conv3d):  # type: ignore[override]
    """`nn.Conv3d` with several weights for each connection."""


_TWINS: dict[type[nn.Module], type[_Parallel]] = {
    nn.Linear: ParallelLinear,
    nn.Conv1d: ParallelConv1d,
    nn.Conv2d: ParallelConv2d,
    nn.Conv3d: ParallelConv3d,
}
"""Type of a layer (exactly, no subclass) → its type with parallel weights."""


def _fans(module: nn.Module, shape: tuple[int, ...]) -> Fans:
    """Of `weights`: every input is met `parallel` times, and each time is a summand."""
    usual = usual_fans(shape)
    return Fans(usual.inputs, usual.fan_in, usual.fan_out // getattr(module, "groups", 1))


register_layer(_Parallel, weights="weights", rule=_fans)


def with_parallel_weights(model: nn.Module, count: int) -> nn.Module:
    """Give every connection of the linear layers and convolutions of `model` `count` weights.

    Their values are copies of the weight divided by `count`, so that the network computes what it did; a
    search draws them anew (`randomize_`). A network of `create_model` remembers it, and so does its ticket.
    A layer that shares its weight with another stays as it is, and so do layers of other classes.

    Args:
        model: A network that is not yet drawn, and no such layer itself.
        count: K, the weights of a connection, from 2 to 64.

    Returns:
        The model, changed in place. `merged` makes an ordinary network of it again.

    Raises:
        ValueError: `count` is something else, or the model has no such layer.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST:
        raise ValueError(f"a connection takes 2 to {MOST} weights, not {count!r:.80}")
    altered = changes(model)
    shared = _shared(model)
    found = _replace(
        model,
        lambda layer: type(layer) in _TWINS and _own_weight(layer, shared),
        lambda layer: _twin(layer, count),
    )
    if not found:
        parallel = any(isinstance(module, _Parallel) for module in model.modules())
        raise ValueError(
            f"{type(model).__name__} has parallel weights already; build it anew for another number of them"
            if parallel
            else f"{type(model).__name__} holds no linear layer or convolution with a weight of its own; put "
            "a layer alone into an nn.Sequential"
        )
    remember_option(model, OPTION, count, altered)
    return model


def merged(model: nn.Module) -> nn.Module:
    """A copy of `model` whose connections have one weight each again, the sum of those they had.

    It computes the same, at the cost of an ordinary network: for use, export and packing by others.
    """
    plain = copy.deepcopy(model)
    _replace(plain, lambda layer: isinstance(layer, _Parallel), _single)
    if isinstance(plain, _Parallel):
        plain = _single(plain)
    vars(plain).pop(FACTORY_ATTRIBUTE, None)
    return plain


def bytes_beyond_one(model: nn.Module) -> int:
    """Bytes of the weights beyond one for each connection: those that `merged(model)` does without."""
    layers = [module for module in model.modules() if isinstance(module, _Parallel)]
    every = {id(layer.weights): layer for layer in layers}
    return sum(
        layer.weights.numel() // layer.parallel * (layer.parallel - 1) * layer.weights.element_size()
        for layer in every.values()
    )


def _replace(model: nn.Module, wanted: Callable[[nn.Module], bool], make: Callable[[Any], nn.Module]) -> bool:
    """Put another layer in the place of every wanted one, wherever it stands; whether there was any."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and wanted(child):
                if child not in made:
                    made[child] = make(child)
                setattr(parent, name, made[child])
    return bool(made)


def _twin(layer: nn.Module, count: int) -> nn.Module:
    """`layer` with `count` weights for each connection."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    repeats = (1, count, *(1,) * (weight.dim() - 2))
    weights = nn.Parameter((weight.detach() / count).repeat(repeats), weight.requires_grad)
    twin = _exchanged(layer, _TWINS[type(layer)], "weight", "weights", weights)
    assert isinstance(twin, _Parallel)
    twin.parallel = count
    return twin


def _single(layer: _Parallel) -> nn.Module:
    kind = next(kind for kind, twin in _TWINS.items() if twin is type(layer))
    weight = nn.Parameter(layer.weight.detach().contiguous(), layer.weights.requires_grad)
    plain = _exchanged(layer, kind, "weights", "weight", weight)
    del plain.parallel
    return plain


def _exchanged(
    layer: nn.Module, kind: type[nn.Module], old: str, new: str, parameter: nn.Parameter
) -> nn.Module:
    """A shallow copy of `layer`, of another type, with `parameter` in the place of an old one."""
    other = copy.copy(layer)
    other._parameters = {
        new if name == old else name: parameter if name == old else value
        for name, value in layer._parameters.items()
    }
    other.__class__ = kind
    return other


def _own_weight(layer: nn.Module, shared: set[int]) -> bool:
    """Whether the weight is a parameter that no other layer holds, and not computed (`weight_norm`)."""
    weight = layer._parameters.get("weight")
    return weight is not None and id(weight) not in shared


def _shared(model: nn.Module) -> set[int]:
    """The identities of parameters that several layers hold."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
