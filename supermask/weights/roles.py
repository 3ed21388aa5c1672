"""What each parameter of a model is to a mask search: masked, drawn and kept, or at a neutral value.

Masked by default are the weights of linear, convolution (transposed too), recurrent and attention
projection layers, the first and the last layer included, as in Ramanujan et al., "What's Hidden in a
Randomly Weighted Neural Network?" (CVPR 2020). Embeddings and tokens are drawn and never masked; norms,
biases and layer scales stand at their neutral value.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

Role = Literal["masked", "drawn", "constant"]


@dataclass(frozen=True)
class ParameterInfo:
    """The decision for one parameter.

    Attributes:
        name: Qualified name in the model (the first one, for a tied parameter).
        tensor: The parameter itself.
        role: `masked` (drawn, and the search learns its mask), `drawn` (drawn and kept whole) or
            `constant` (every entry stands at `value`).
        reason: Why, in a few words.
        fan_in: Number of products summed into one output value.
        fan_out: Number of output values that one input value reaches.
        value: Entry of a constant parameter.
        spread: Standard deviation of a drawn parameter that follows no weight initialization.
    """

    name: str
    tensor: nn.Parameter
    role: Role
    reason: str
    fan_in: int = 0
    fan_out: int = 0
    value: float = 0.0
    spread: float = 0.0


TOKEN_SPREAD = 0.02
"""Standard deviation of class tokens, position embeddings and the like: the usual one of ViTs."""

_LAYER_SCALES = ("gamma", "gamma_1", "gamma_2", "gamma1", "gamma2", "ls1", "ls2", "layer_scale")


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside `DistributedDataParallel` and `torch.compile` wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def classify(
    model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> list[ParameterInfo]:
    """Decide for every parameter of `model` what a search does with it.

    Args:
        model: Any module; wrappers of DDP and `torch.compile` are looked through.
        include: Shell-style patterns of qualified names to mask although the default would not.
        exclude: Patterns of names to leave unmasked; they win over `include`. Such a weight is drawn
            like the others and kept whole.

    Returns:
        One entry per distinct parameter, in `named_parameters()` order.

    Raises:
        TypeError: `model` is no module (its parameters, say).
        ValueError: A pattern matches no parameter, or `include` asks for a mask on a vector.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"give the model itself, an nn.Module, not a {type(model).__name__}")
    include, exclude = _patterns(include, "include"), _patterns(exclude, "exclude")
    infos = [
        _decide(name, parameter, module, include, exclude)
        for name, parameter, module in _parameters(unwrap(model))
    ]
    names = [info.name for info in infos]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"pattern {pattern!r} matches no parameter; names look like {', '.join(names[:3])}, …"
            )
    return infos


def masked(model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> list[ParameterInfo]:
    """The masked parameters of `model`.

    Raises:
        ValueError: There is none.
    """
    infos = [info for info in classify(model, include, exclude) if info.role == "masked"]
    if not infos:
        raise ValueError(
            f"{type(unwrap(model)).__name__} has no maskable weight (linear, convolution, recurrent or "
            "attention projection); name some with include=['pattern', …]"
        )
    return infos


def decision_table(infos: Sequence[ParameterInfo]) -> str:
    """The decisions as text, one parameter a line: role, shape, name, reason."""
    return "\n".join(
        f"{info.role:<9}{'×'.join(map(str, info.tensor.shape)) or 'scalar':<16}{info.name}  ({info.reason})"
        for info in infos
    )


def _patterns(patterns: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise ValueError(
            f"{argument} takes a list of patterns, not the string {patterns!r}; write [{patterns!r}]"
        )
    return tuple(patterns)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Distinct parameters with the module that owns them, in `named_parameters()` order."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield (f"{prefix}.{local}" if prefix else local), parameter, module


def _decide(
    name: str,
    parameter: nn.Parameter,
    module: nn.Module,
    include: Sequence[str],
    exclude: Sequence[str],
) -> ParameterInfo:
    local = name.rpartition(".")[2]
    fan_in, fan_out = _fans(parameter, module)
    by_default = _is_layer_weight(local, parameter, module)
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        if by_default:
            return ParameterInfo(name, parameter, "drawn", "excluded", fan_in, fan_out)
    elif any(fnmatchcase(name, pattern) for pattern in include):
        if parameter.dim() < 2:
            raise ValueError(
                f"include matches {name}, a vector; only weights of two dimensions or more are masked"
            )
        return ParameterInfo(name, parameter, "masked", "included", fan_in, fan_out)
    elif by_default:
        return ParameterInfo(name, parameter, "masked", type(module).__name__, fan_in, fan_out)
    return _decide_unmasked(name, local, parameter, module)


def _decide_unmasked(name: str, local: str, parameter: nn.Parameter, module: nn.Module) -> ParameterInfo:
    kind = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return ParameterInfo(name, parameter, "drawn", kind, spread=1.0)
    if _is_norm(module) and local in ("weight", "bias") and parameter.squeeze().dim() <= 1:
        return ParameterInfo(name, parameter, "constant", kind, value=float(local == "weight"))
    if kind.startswith("LayerScale") or local in _LAYER_SCALES:
        return ParameterInfo(name, parameter, "constant", "layer scale", value=1.0)
    if local.startswith("bias") or local.endswith("bias"):
        if parameter.squeeze().dim() <= 1:
            return ParameterInfo(name, parameter, "constant", "bias", value=0.0)
    constant = _constant_value(parameter)
    if constant is not None:
        return ParameterInfo(name, parameter, "constant", f"constant in {kind}", value=constant)
    return ParameterInfo(name, parameter, "drawn", f"{local} of {kind}", spread=TOKEN_SPREAD)


def _is_layer_weight(local: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    if isinstance(module, nn.Linear | nn.Bilinear | nn.modules.conv._ConvNd):
        return local == "weight"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return local.startswith("weight_")
    if isinstance(module, nn.MultiheadAttention):
        return local.endswith("proj_weight")
    return False


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__
    # A global response norm is the identity at 0, so it is left to the rule for constants.
    return "Norm" in name and "ResponseNorm" not in name


def _constant_value(parameter: Tensor) -> float | None:
    if parameter.is_meta or parameter.numel() == 0:
        return None
    first = parameter.detach().flatten()[0]
    return float(first) if bool((parameter == first).all()) and math.isfinite(float(first)) else None


def _fans(parameter: Tensor, module: nn.Module) -> tuple[int, int]:
    """Fan-in and fan-out of a weight: (out, in / groups, *kernel) unless the module says otherwise."""
    if parameter.dim() < 2:
        return 0, 0
    receptive = math.prod(parameter.shape[2:])
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        # (in, out / groups, *kernel): an output value sees kernel / stride positions of each input channel.
        per_output = max(receptive // math.prod(module.stride), 1)
        return parameter.shape[0] // module.groups * per_output, parameter.shape[1] * receptive
    if isinstance(module, nn.Bilinear):
        return math.prod(parameter.shape[1:]), parameter.shape[0]
    groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
    return parameter.shape[1] * receptive, parameter.shape[0] * receptive // groups
