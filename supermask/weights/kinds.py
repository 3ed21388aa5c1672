"""Kinds of layers: which of their parameters are weights, and which axes of a weight are inputs.

Fan-in, what a search masks by default and the groups of N:M masks follow from it. Known are `nn.Linear`,
`nn.Bilinear`, convolutions (transposed too), recurrent layers, attention projections, einops' `EinMix` and
the transposed `Conv1D` of transformers' GPT-2. `register_layer` adds a kind:

```python
sm.register_layer(Experts, weights=["up", "down"], inputs=[1], outputs=[2])  # (expert, in, out)
```
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral

from einops.layers.torch import EinMix
from torch import nn


@dataclass(frozen=True)
class Fans:
    """How a layer uses one weight.

    Attributes:
        inputs: Axes over which the layer sums; N:M masks group the first of them.
        fan_in: Number of products summed into one output value.
        fan_out: Number of output values that one input value reaches.
    """

    inputs: tuple[int, ...]
    fan_in: int
    fan_out: int


Rule = Callable[[nn.Module, tuple[int, ...]], Fans | None]
"""A layer and the shape of a weight of it → how the layer uses that weight; None where it sums nothing."""


@dataclass(frozen=True)
class LayerKind:
    """What is known of a kind of layer.

    Attributes:
        weights: Shell-style patterns of the parameters that are weights.
        rule: How the layer uses one of them.
        biases: Patterns of the parameters that are biases, whatever their shape.
    """

    weights: tuple[str, ...]
    rule: Rule
    biases: tuple[str, ...] = ()


_KINDS: dict[type | str, LayerKind] = {}


def register_layer(
    kind: type[nn.Module] | str,
    *,
    weights: str | Iterable[str] = "weight",
    inputs: Sequence[int] = (),
    outputs: Sequence[int] | None = None,
    rule: Rule | None = None,
    biases: str | Iterable[str] = (),
) -> None:
    """Make searches mask the weights of a kind of layer, and draw them by the right fan-in.

    Args:
        kind: The class, or its full name (`package.module.Class`), so that nothing has to be imported.
            Subclasses are of the same kind unless they are registered themselves.
        weights: Names of the weights within the layer, or patterns of them: `weight`, `["w_*"]`.
        inputs: Axes of a weight over which the layer sums: `[1]` for (out, in), `[0]` for (in, out).
        outputs: Axes that are outputs; None for all that are not inputs. An axis that is neither, such as
            the expert of (expert, in, out), counts in no fan.
        rule: Instead of `inputs`, a function of the layer and a weight's shape that returns `Fans`, for
            layers whose fans depend on their options.
        biases: Names or patterns of parameters that are biases and stand at 0.

    Raises:
        ValueError: Neither `inputs` nor `rule` is given, or both are; an axis is no whole number, or a name
            not that of a class in a module.
    """
    if isinstance(kind, str) and "." not in kind:
        raise ValueError(
            f"{kind!r} is no full name of a class; write it with its module, package.module.Class"
        )
    inputs = tuple(inputs)
    axes: tuple[object, ...] = (*inputs, *(outputs or ()))
    for axis in axes:
        if not isinstance(axis, Integral):
            raise ValueError(f"inputs and outputs are lists of axes such as [1], whole numbers, not {axis!r}")
    if bool(inputs) == (rule is not None):
        raise ValueError("give either inputs=, the axes that the layer sums over, or rule=, not both")
    _KINDS[kind] = LayerKind(_names(weights), rule or _by_axes(inputs, outputs), _names(biases))


def kind_of(module: nn.Module) -> LayerKind | None:
    """What is known of a layer: of its class, or of the nearest base class that is registered."""
    for cls in type(module).__mro__:
        found = _KINDS.get(cls) or _KINDS.get(f"{cls.__module__}.{cls.__qualname__}")
        if found is not None:
            return found
    return None


def matches(local: str, patterns: Iterable[str]) -> bool:
    """Whether a name is among shell-style patterns."""
    return any(fnmatchcase(local, pattern) for pattern in patterns)


def usual_fans(shape: tuple[int, ...]) -> Fans:
    """Those of a weight (out, in, *kernel), which nothing more is known of."""
    inputs = tuple(range(1, len(shape)))
    return Fans(inputs, math.prod(shape[1:]), shape[0] * math.prod(shape[2:]))


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _by_axes(inputs: tuple[int, ...], outputs: Sequence[int] | None) -> Rule:
    def rule(module: nn.Module, shape: tuple[int, ...]) -> Fans:
        if any(not -len(shape) <= axis < len(shape) for axis in (*inputs, *(outputs or ()))):
            raise ValueError(
                f"{type(module).__name__} is registered with inputs {list(inputs)} and a weight of shape "
                f"{shape}, which has no such axis; register the axes of its weights"
            )
        summed = tuple(axis % len(shape) for axis in inputs)
        reached = [a for a in range(len(shape)) if a not in summed] if outputs is None else outputs
        return Fans(summed, math.prod(shape[a] for a in summed), math.prod(shape[a] for a in reached))

    return rule


def _convolution(module: nn.Module, shape: tuple[int, ...]) -> Fans:
    """(out, in / groups, *kernel)."""
    assert isinstance(module, nn.modules.conv._ConvNd)
    usual = usual_fans(shape)
    return Fans(usual.inputs, usual.fan_in, usual.fan_out // module.groups)


def _transposed_convolution(module: nn.Module, shape: tuple[int, ...]) -> Fans:
    """(in, out / groups, *kernel): an output value sees kernel / stride positions of each input channel."""
    assert isinstance(module, nn.modules.conv._ConvTransposeNd)
    receptive = math.prod(shape[2:])
    per_output = max(receptive // math.prod(module.stride), 1)
    inputs = (0, *range(2, len(shape)))
    return Fans(inputs, shape[0] // module.groups * per_output, shape[1] * receptive)


def _einmix(module: nn.Module, shape: tuple[int, ...]) -> Fans | None:
    """An axis of the weight is summed over where the output lacks it, and new where the input lacks it."""
    assert isinstance(module, EinMix)
    left, right = (
        set(side.replace("(", " ").replace(")", " ").split()) for side in module.pattern.split("->")
    )
    axes = module.weight_shape.split()
    inputs = tuple(index for index, axis in enumerate(axes) if axis not in right)
    if not inputs:
        return None  # a scale of each element
    new = [shape[index] for index, axis in enumerate(axes) if axis not in left]
    return Fans(inputs, math.prod(shape[index] for index in inputs), math.prod(new))


register_layer(nn.Linear, inputs=[1])
register_layer(nn.Bilinear, inputs=[1, 2])
register_layer(nn.modules.conv._ConvNd, rule=_convolution)
register_layer(nn.modules.conv._ConvTransposeNd, rule=_transposed_convolution)
register_layer(nn.RNNBase, weights="weight_*", inputs=[1])
register_layer(nn.RNNCellBase, weights="weight_*", inputs=[1])
register_layer(nn.MultiheadAttention, weights="*proj_weight", inputs=[1])
register_layer(EinMix, rule=_einmix, biases="bias")
register_layer("transformers.pytorch_utils.Conv1D", inputs=[0])
