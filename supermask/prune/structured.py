"""Structured tickets: whole filters (and neurons) pruned by their L1 norm, and the smaller network.

Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), sections 3.1 to 3.3: the score of filter j is
s_j = Σ|F_j| over its kernels; the filters of lowest score go, with the kernels of the next layer that read
them. Scores are the paper's "independent" ranking: kernels that an earlier pruned filter fed still count.
Neurons of a linear layer are filters of 1×1. The last layer is never pruned, nor is one whose output enters a
residual sum, so that of a residual block only the first convolution loses filters (the paper's ResNet-56 and
-110).

A structured mask is a mask like any other: `hold` trains it, a ticket holds it. It keeps whole filters of a
layer and, of the next one, the kernels that read them. With those kernels at zero nothing reads a pruned
filter any more, whatever its bias or norm make of it, so the mask alone says which function is left, and
`shrink` computes that function without the filters.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from supermask import extras
from supermask.masks import Mask, check_density, keep_count, select
from supermask.prune.magnitude import everything
from supermask.weights.names import plain_copy, unwrap
from supermask.weights.roles import masked

_PER_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Norms of which a channel can go without a change to the others."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class FilterLayer:
    """A layer that can lose filters.

    Attributes:
        name: Name of its weight, of shape (filters, …).
        filters: How many it has.
        readers: Name of a weight that reads its output → (inputs of that weight, the filter behind each),
            two int64 tensors of one length; behind a flattening there are several inputs to a filter.
    """

    name: str
    filters: int
    readers: Mapping[str, tuple[Tensor, Tensor]]

    def inputs(self, reader: str, gone: Tensor) -> Tensor:
        """The inputs of a reader that come from the filters where `gone` (bool, per filter) is True."""
        inputs, filters = self.readers[reader]
        return inputs[gone[filters]]


def filter_layers(model: nn.Module, example: Tensor) -> dict[str, FilterLayer]:
    """The layers of a network that can lose filters, found by torch-pruning's dependency graph.

    A layer counts if its output reaches nothing but per-channel operations and the inputs of linear layers
    and ungrouped convolutions, so that cutting those inputs cuts the filter off; that is tried out, too.

    Args:
        model: The network; it is not changed.
        example: A batch of floating-point inputs; only its shape matters.

    Returns:
        Name of the weight → layer, in the order of the parameters.

    Raises:
        ValueError: There is none.
    """
    network, inputs = probe(model, example)
    layers = {}
    for module_name, module, channels in _groups(network, inputs):
        layer = _filter_layer(network, module_name, module, channels)
        if layer is not None and _is_cut_off(network, layer, inputs):
            layers[layer.name] = layer
    if not layers:
        raise ValueError(
            f"{type(unwrap(model)).__name__} has no layer whose filters can go: each ends in a residual sum, "
            "a norm over channels, a grouped convolution or the output; prune single weights instead"
        )
    return layers


def filter_scores(weight: Tensor) -> Tensor:
    """s_j = Σ|F_j|, in float64: the L1 norm of each filter of a weight of shape (filters, …)."""
    return weight.detach().double().abs().flatten(1).sum(1)


def filter_mask(
    weights: Mapping[str, Tensor], layers: Mapping[str, FilterLayer], keep: Mapping[str, int] | float
) -> Mask:
    """The mask that keeps the filters of largest L1 norm and what the next layers read of them.

    Args:
        weights: Name → the weights of all masked parameters.
        layers: What `filter_layers` found.
        keep: Filters to keep, per layer (a layer that is not named keeps all), or the fraction of them in
            every layer. That is a density of filters; the density of weights is lower, about its square
            where both sides of a layer are pruned. `filter_counts` goes from one to the other.

    Returns:
        Name → bool mask for all of `weights`; ties go to the lower index.

    Raises:
        ValueError: A layer would be empty or is no layer of `layers`, or a weight is not finite.
    """
    mask = everything(weights)
    for name, count in _checked(layers, keep).items():
        chosen = select({name: filter_scores(weights[name])}, {name: count})[name]
        _cut(mask, layers[name], ~chosen)
    return mask


def filter_counts(
    layers: Mapping[str, FilterLayer], shapes: Mapping[str, tuple[int, ...]], density: float
) -> dict[str, int]:
    """Filters to keep, the same fraction in each layer, for a density of weights.

    Args:
        layers: What `filter_layers` found.
        shapes: Name → shape of all masked parameters.
        density: Fraction of the masked weights to keep.

    Returns:
        Name → filters of each layer. The density of weights comes as near to `density` as counts on the way
        from one fraction to the next allow, changing one layer at a time.

    Raises:
        ValueError: Even one filter in each layer keeps more weights than that.
    """
    check_density(density)
    total = sum(map(math.prod, shapes.values()))
    least = weights_left(layers, shapes, dict.fromkeys(layers, 1))
    if density < least:
        raise ValueError(
            f"density {density:g} would empty a layer: with one filter in each layer that can be pruned, "
            f"{least:.4g} of the weights are left; ask for at least that, or prune single weights"
        )
    target = density * total
    low, high = 2.0**-40, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _weights_left(layers, shapes, _checked(layers, middle)) <= target:
            low = middle
        else:
            high = middle
    counts, above = (_checked(layers, fraction) for fraction in (low, high))
    candidates = [counts]
    for name in layers:
        counts = {**counts, name: above[name]}
        candidates.append(counts)
    return min(candidates, key=lambda counts: abs(_weights_left(layers, shapes, counts) - target))


def filter_fractions(layers: Mapping[str, FilterLayer], fractions: Mapping[str, float]) -> dict[str, int]:
    """Filters to keep by layers of the network's own: the fraction of the first pattern that names a layer.

    The paper chooses them so, by the sensitivity of each layer (section 3.2).

    Args:
        layers: What `filter_layers` found.
        fractions: Pattern of a module's name (`conv1`, `stages.0.*.conv1`) → fraction of its filters to keep.
            A layer that none names keeps all.

    Returns:
        Name of the weight → filters.

    Raises:
        ValueError: A fraction out of range, or a pattern that names no layer that can lose filters.
    """
    counts = {name: layer.filters for name, layer in layers.items()}
    for pattern, fraction in reversed(list(fractions.items())):
        check_density(fraction, f"the fraction of filters of {pattern!r}")
        named = [name for name in layers if fnmatchcase(name.removesuffix(".weight"), pattern)]
        if not named:
            known = ", ".join(name.removesuffix(".weight") for name in layers)
            raise ValueError(f"{pattern!r} names no layer that can lose filters; those are {known}")
        counts |= {name: keep_count(layers[name].filters, fraction) for name in named}
    return counts


def weights_left(
    layers: Mapping[str, FilterLayer], shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]
) -> float:
    """The density of weights when each layer of `layers` keeps so many filters, whichever they are."""
    return _weights_left(layers, shapes, counts) / sum(map(math.prod, shapes.values()))


def probe(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy to look into, on the CPU in float64 and evaluation mode, and a batch for it."""
    network = plain_copy(model).cpu().double().eval().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(1, *example.shape[1:], dtype=torch.float64, generator=generator)


def dependencies(network: nn.Module, inputs: Tensor) -> Any:
    """torch-pruning's dependency graph: which channels of which layers belong together."""
    torch_pruning: Any = extras.load("torch_pruning", "structured")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        return torch_pruning.DependencyGraph().build_dependency(network, example_inputs=inputs)


def coupled(graph: Any, module: nn.Module, filters: list[int]) -> Any:
    """torch-pruning's group of all that goes with these outputs of a layer; the layer comes first."""
    return graph.get_pruning_group(
        module, graph.get_pruner_of_module(module).prune_out_channels, idxs=filters
    )


def _groups(network: nn.Module, inputs: Tensor) -> Iterator[tuple[str, nn.Module, Any]]:
    """Name, layer and torch-pruning's group of all its outputs, for every masked layer."""
    maskable = {info.name for info in masked(network)}
    graph = dependencies(network, inputs)
    for name, module in network.named_modules():
        if isinstance(module, _LAYERS) and f"{name}.weight" in maskable and module in graph.module2node:
            yield name, module, coupled(graph, module, list(range(module.weight.shape[0])))


def _filter_layer(network: nn.Module, name: str, module: nn.Module, group: Any) -> FilterLayer | None:
    """The layer with its readers, or None if something else depends on its filters."""
    names = {id(other): other_name for other_name, other in network.named_modules()}
    readers: dict[str, tuple[Tensor, Tensor]] = {}
    if getattr(module, "groups", 1) != 1:
        return None
    for item in list(group)[1:]:
        other = item.dep.target.module
        if isinstance(other, _PER_CHANNEL) or id(other) not in names:  # the rest are operations of the graph
            continue
        reads = item.dep.handler.__name__ == "prune_in_channels"
        reader = f"{names[id(other)]}.weight"
        if not reads or not isinstance(other, _LAYERS) or getattr(other, "groups", 1) != 1:
            return None
        if reader in readers or None in item.root_idxs:
            return None
        readers[reader] = (torch.tensor(item.idxs), torch.tensor(item.root_idxs))
    if not readers:
        return None
    return FilterLayer(f"{name}.weight", module.get_parameter("weight").shape[0], readers)


@torch.no_grad()
def _is_cut_off(network: nn.Module, layer: FilterLayer, inputs: Tensor) -> bool:
    """Whether every other filter has no effect once the kernels that read it are zero."""
    gone = torch.arange(layer.filters) % 2 == 0
    changed = [layer.name, *layer.readers]
    before = {name: network.get_parameter(name).clone() for name in changed}
    for reader in layer.readers:
        network.get_parameter(reader)[:, layer.inputs(reader, gone)] = 0
    expected = network(inputs)
    network.get_parameter(layer.name)[gone] += 1
    found = network(inputs)
    for name, value in before.items():
        network.get_parameter(name).copy_(value)
    return isinstance(found, Tensor) and torch.equal(found, expected)


def _cut(mask: Mask, layer: FilterLayer, gone: Tensor) -> None:
    """Take the filters that are gone, and the kernels that read them, out of a mask."""
    mask[layer.name][gone] = False
    for reader in layer.readers:
        mask[reader][:, layer.inputs(reader, gone.cpu()).to(mask[reader].device)] = False


def _checked(layers: Mapping[str, FilterLayer], keep: Mapping[str, int] | float) -> dict[str, int]:
    """Filters to keep in each layer."""
    if not isinstance(keep, Mapping):
        return {name: keep_count(layer.filters, keep) for name, layer in layers.items()}
    for name, count in keep.items():
        if name not in layers:
            raise ValueError(f"{name} cannot lose filters; those that can are {', '.join(layers)}")
        if not 1 <= count <= layers[name].filters:
            raise ValueError(
                f"{name} has {layers[name].filters} filters and cannot keep {count}; at least one"
            )
    return dict(keep)


def _weights_left(
    layers: Mapping[str, FilterLayer], shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]
) -> int:
    """Masked weights that are left when each layer keeps so many filters, whichever they are."""
    outputs = {name: shape[0] for name, shape in shapes.items()} | dict(counts)
    inputs = {name: shape[1] for name, shape in shapes.items()}
    for name, layer in layers.items():
        for reader, (read, _) in layer.readers.items():
            inputs[reader] -= len(read) // layer.filters * (layer.filters - counts[name])
    return sum(outputs[name] * inputs[name] * math.prod(shape[2:]) for name, shape in shapes.items())
