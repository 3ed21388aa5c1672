"""What the layers of a network do on data: which units are dead, and how often each weight is used.

A unit is an output of a linear layer or a channel of a convolution. It is *dead on data* if no example gives
it a gradient: the network's outputs do not depend on it anywhere near the examples. That is a ReLU that never
fires (Lu et al., "Dying ReLU and Initialization", 2019, section 2) wherever the ReLU stands, behind a norm or
inside a function, and also a unit that nothing behind it reads.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from supermask.weights.names import parameters_of, unwrap

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LayerUse:
    """What became of a layer on data.

    Attributes:
        units: Its outputs, or channels.
        positions: Places per example at which each of its weights is used.
        summed: Weights of a connection whose sum is what it multiplies with; they lie in parts of the axis of
            the inputs.
        alive: Bool tensor of `units`, False where dead; None where gradients do not tell it.
    """

    units: int
    positions: float = 0.0
    summed: int = 1
    alive: Tensor | None = None

    @property
    def dead(self) -> int | None:
        """Number of dead units; None where that is unknown."""
        return None if self.alive is None else int((~self.alive).sum())


@dataclass
class _Watch:
    """Hooks on the layers of a network, and what they saw.

    Attributes:
        names: Identity of a weight → its name.
    """

    names: Mapping[int, str]
    found: dict[str, LayerUse] = field(default_factory=dict)

    def layer(self, module: nn.Module, _: Any, output: Tensor) -> None:
        axis = -1 if isinstance(module, nn.Linear) else output.dim() - len(module.kernel_size) - 1  # type: ignore[arg-type]
        weight = self._weight_of(module)
        if weight is None:
            return
        use = self._use(weight, output.shape[axis])
        use.positions += output.numel() / output.shape[axis]
        use.summed = max(weight.numel() // max(module.weight.numel(), 1), 1)  # type: ignore[operator]
        if use.alive is None:
            use.alive = torch.zeros(use.units, dtype=torch.bool, device=output.device)
        if output.requires_grad:
            output.register_hook(lambda gradient: _mark(use, gradient.movedim(axis, -1)))

    def attention(self, module: nn.MultiheadAttention, _: Any, output: tuple[Tensor, ...]) -> None:
        # Its projections are no modules that are called; each weight serves every token once.
        for weight in (module.in_proj_weight, module.out_proj.weight):
            self._use(weight, weight.shape[0]).positions += output[0].numel() / module.embed_dim

    def _weight_of(self, module: nn.Module) -> Tensor | None:
        """The layer's weight, or the largest parameter that it is computed from."""
        weight = module.weight
        if id(weight) in self.names:
            return weight  # type: ignore[return-value]
        sources = [source for source in module.parameters() if source.dim() > 1 and id(source) in self.names]
        return max(sources, key=Tensor.numel, default=None)

    def _use(self, weight: Tensor, units: int) -> LayerUse:
        return self.found.setdefault(self.names[id(weight)], LayerUse(units))


def _mark(use: LayerUse, gradient: Tensor) -> None:
    assert use.alive is not None
    use.alive |= (gradient != 0).reshape(-1, use.units).any(dim=0)


def layer_uses(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, LayerUse]:
    """Name of a weight → what its layer does on `batches`, in evaluation mode.

    Args:
        model: The network, with its effective weights; it is not changed.
        batches: Inputs, on its device.

    Returns:
        An entry for each weight of a linear layer, a convolution or torch's attention that was used; `alive`
        is None in attention, whose projections hand out no gradient.
    """
    return _watched(copy.deepcopy(unwrap(model)), batches, _backward)


def _watched(
    network: nn.Module, batches: Iterable[Tensor], run: Callable[[nn.Module, Tensor], Any]
) -> dict[str, LayerUse]:
    """What the layers of a network do while `run` shows it batches; the network is changed."""
    network.eval().requires_grad_(True)
    watch = _Watch({id(tensor): name for name, tensor in parameters_of(network).items()})
    examples = 0
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, LAYERS):
                hooks.enter_context(module.register_forward_hook(watch.layer))
            elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                hooks.enter_context(module.register_forward_hook(watch.attention))
        for inputs in batches:
            examples += len(inputs)
            run(network, inputs)
    for use in watch.found.values():
        use.positions /= examples
    return watch.found


def multiply_adds(model: nn.Module, mask: Mapping[str, Tensor], shape: tuple[int, ...]) -> int | None:
    """Multiplications that the kept weights take for one example, each with its addition.

    A weight counts as often as it is used: in a convolution once for each position of the output. Layers
    outside the mask count whole; biases, norms, and products of activations with each other do not count.

    Args:
        model: The network; it is not changed.
        mask: Parameter name → bool mask.
        shape: Shape of one input, without the batch.

    Returns:
        The number; None where a masked weight is of a layer that is neither linear, a convolution nor
        torch's attention.
    """
    try:
        uses = _forward(copy.deepcopy(unwrap(model)).to("meta"), shape)  # shapes are all that matters
    except (NotImplementedError, RuntimeError):
        uses = _forward(copy.deepcopy(unwrap(model)), shape)
    return count_multiply_adds(uses, kept_of(model, mask), mask)


@torch.no_grad()
def _forward(network: nn.Module, shape: tuple[int, ...]) -> dict[str, LayerUse]:
    example = torch.zeros(1, *shape, device=next(network.parameters()).device)
    return _watched(network, [example], lambda network, inputs: network(inputs))


def kept_of(model: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, int]:
    """Name → weights that count, of every parameter of two axes or more: the kept ones, or all."""
    return {
        name: int(mask[name].sum()) if name in mask else tensor.numel()
        for name, tensor in parameters_of(model).items()
        if tensor.dim() > 1
    }


def count_multiply_adds(
    uses: Mapping[str, LayerUse], kept: Mapping[str, int], mask: Mapping[str, Tensor]
) -> int | None:
    """Σ kept weights × positions, summed ones as one; None where a masked one has no known use."""
    if any(name not in uses for name in mask if name in kept):
        return None
    return round(
        sum(
            _connections(count, mask.get(name), uses[name].summed) * uses[name].positions
            for name, count in kept.items()
            if name in uses
        )
    )


def _connections(kept: int, mask: Tensor | None, summed: int) -> int:
    if summed == 1:
        return kept
    return kept // summed if mask is None else int(mask.unflatten(1, (summed, -1)).any(dim=1).sum())


def _backward(network: nn.Module, inputs: Tensor) -> None:
    """Gradients of a random direction of the outputs: no output stands still, as a loss would let it."""
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        outputs = network(inputs)
        if not outputs.requires_grad:
            return
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(outputs.shape, generator=generator).to(outputs)
        torch.autograd.grad((outputs * direction).sum(), inputs, allow_unused=True)
