"""What each parameter of a model is to a mask search: masked, drawn whole, constant, or kept as it is.

Masked by default are the weights of the layers that `weights.kinds` knows (linear, convolution, recurrent and
attention projection layers, einops' EinMix), the first and the last layer included, as in Ramanujan et al.,
"What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020). Embeddings and tokens are drawn and never
masked; norms, biases and layer scales stand at their neutral value. What the architecture fixes is kept:
parameters that require no gradient, and those that are no floating-point numbers.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from supermask.weights.kinds import Fans, kind_of, matches, usual_fans
from supermask.weights.names import owned_parameters, unwrap
from supermask.weights.patterns import Patterns

Role = Literal["masked", "drawn", "constant", "kept"]


@dataclass(frozen=True)
class ParameterInfo:
    """The decision for one parameter.

    Attributes:
        name: Qualified name in the model (the first one, for a tied parameter), without what wrappers add.
        tensor: The parameter itself.
        role: `masked` (drawn, and the search learns its mask), `drawn` (drawn and kept whole), `constant`
            (every entry stands at `value`) or `kept` (left as it is).
        reason: Why, in a few words.
        fan_in: Number of products summed into one output value.
        fan_out: Number of output values that one input value reaches.
        value: Entry of a constant parameter.
        std: Standard deviation of a drawn parameter that follows no weight initialization.
        inputs: Axes that the layer sums over; the first of them is the one that N:M masks group.
        zero_row: Row that is zero whatever is drawn: the padding of an embedding.
        known: Whether a rule says what the parameter is. A matrix of which none does is drawn like a token.
    """

    name: str
    tensor: nn.Parameter
    role: Role
    reason: str
    fan_in: int = 0
    fan_out: int = 0
    value: float = 0.0
    std: float = 0.0
    inputs: tuple[int, ...] = (1,)
    zero_row: int | None = None
    known: bool = True


TOKEN_STD = 0.02
"""Standard deviation of class tokens, position embeddings and the like: the usual one of ViTs."""

_LAYER_SCALES = ("gamma", "gamma_1", "gamma_2", "gamma1", "gamma2", "ls1", "ls2", "layer_scale")
_TOKENS = frozenset(
    "token tokens embed embeds embedding embeddings pos position positions positional rel table bias biases "
    "latent latents prompt prompts anchor anchors prototype prototypes cls".split()
)
"""Words in the names of parameters that are inputs of a network and no weights between its layers."""
STORABLE = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
) | {torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of the parameters that a ticket can hold."""


def classify(
    model: nn.Module,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    keep: Iterable[str] = (),
    *,
    redraw: bool = False,
) -> list[ParameterInfo]:
    """Decide for every parameter of `model` what a search does with it.

    Args:
        model: Any module; wrappers (DDP, `torch.compile`, `AveragedModel`, …) are looked through.
        include: Shell-style patterns of qualified names to mask although the default would not.
        exclude: Patterns of names to leave unmasked; they win over `include`. Such a weight is drawn
            like the others and kept whole.
        keep: Patterns of names to leave as they are. A pattern may match any name of a tied parameter.
        redraw: Decide anew on what an earlier `randomize_` was told to keep.

    Returns:
        One entry per distinct parameter, in `named_parameters()` order.

    Raises:
        TypeError: `model` is no module (its parameters, say).
        ValueError: A pattern matches no parameter, `include` asks for a mask on a vector, or a layer's
            weight is no plain parameter (`weight_norm`, pruning, other parametrizations).
    """
    patterns = Patterns(model, include, exclude, keep)
    fixed = fixed_names(model, redraw=redraw)
    return [
        _kept_or_decided(name, parameter, module, patterns, name in fixed)
        for name, parameter, module in owned_parameters(model)
    ]


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


def check_usable(infos: Sequence[ParameterInfo]) -> None:
    """Refuse, by name, a parameter that has no values here or that no ticket could hold.

    Raises:
        ValueError: It is on the meta device, sharded, or of a type such as complex64.
    """
    for info in infos:
        if info.tensor.is_meta:
            raise ValueError(
                f"{info.name} is on the meta device and has no values; give the model memory first, by "
                "model.to_empty(device=…)"
            )
        if any(cls.__name__ == "DTensor" for cls in type(info.tensor).__mro__) or "_flat_param" in info.name:
            raise ValueError(
                f"{info.name} is sharded over processes (fully_shard, FSDP, tensor parallelism), and a mask "
                "is of whole weights; draw the model and make the search on whole weights, and train it in "
                "DistributedDataParallel"
            )
        if info.tensor.dtype not in STORABLE:
            kind = str(info.tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{info.name} is of type {kind}, which a ticket cannot hold; store it as "
                f"{'torch.view_as_real of it' if info.tensor.is_complex() else 'another type'}"
            )


def share_unmoved(infos: Sequence[ParameterInfo]) -> float:
    """Fraction of all entries that no search can move: whatever is not masked."""
    total = sum(info.tensor.numel() for info in infos)
    return sum(info.tensor.numel() for info in infos if info.role != "masked") / max(total, 1)


def decision_table(infos: Sequence[ParameterInfo]) -> str:
    """The decisions as text, one parameter a line (role, shape, name, reason), and what no search moves."""
    lines = [
        f"{info.role:<9}{'×'.join(map(str, info.tensor.shape)) or 'scalar':<16}{info.name}  ({info.reason})"
        for info in infos
    ]
    return "\n".join([*lines, f"no search moves {share_unmoved(infos):.2%} of all weights"])


def fixed_names(model: nn.Module, *, redraw: bool = False) -> set[str]:
    """Names of parameters that are to stay as they are: those that `randomize_` kept, if it was called.

    Before it was, those that require no gradient because the architecture says so: no search stopped it.
    Where no parameter requires one, the whole model was frozen, which says nothing of its architecture.

    Args:
        model: Any module.
        redraw: Leave out what `randomize_` kept because it was told to.
    """
    inner = unwrap(model)
    record = getattr(inner, "supermask_init", None)
    if record is not None:
        return set(record.fixed if redraw else (*record.fixed, *record.kept))
    owned = list(owned_parameters(model))
    if not any(parameter.requires_grad for _, parameter, _ in owned):
        return set()
    stopped = getattr(inner, STOPPED, ())
    return {name for name, parameter, _ in owned if not parameter.requires_grad and name not in stopped}


STOPPED = "supermask_stopped"
"""Attribute of a model: the names of parameters whose gradient a search stopped."""


def _kept_or_decided(
    name: str, parameter: nn.Parameter, module: nn.Module, patterns: Patterns, fixed: bool
) -> ParameterInfo:
    """Look for what keeps a parameter from being drawn or masked; decide by its layer otherwise."""
    included = patterns.match(parameter, patterns.include)
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(f"{name} has no shape yet; run one batch through the model first")
    reason = None
    if patterns.match(parameter, patterns.keep):
        reason = "kept"
    elif not parameter.is_floating_point():
        reason = f"{parameter.dtype}".removeprefix("torch.")
    elif parameter.numel() == 0:
        reason = "empty"
    elif fixed and not included:
        reason = "requires no gradient"
    elif (way := _parametrization(name, module)) is not None:
        if not patterns.match(parameter, patterns.exclude):
            raise ValueError(_no_plain_weight(name, way))
        reason = way
    if reason is None:
        return _decide(name, parameter, module, patterns, included)
    if included and reason != "kept":
        raise ValueError(f"include matches {name}, which cannot be masked ({reason}); leave it out")
    return ParameterInfo(name, parameter, "kept", reason)


def _parametrization(name: str, module: nn.Module) -> str | None:
    """What computes a layer's weight from the parameter `name`, whose owner is `module`; None for nothing."""
    if isinstance(module, parametrize.ParametrizationList) or ".parametrizations." in f".{name}":
        return "parametrization"
    local = name.rpartition(".")[2]
    for hook in module._forward_pre_hooks.values():
        # torch.nn.utils.prune, and weight_norm and spectral_norm as they were before parametrizations.
        target = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        if isinstance(target, str) and local.startswith(f"{target}_"):
            return type(hook).__name__
    return None


def _no_plain_weight(name: str, way: str) -> str:
    if way == "parametrization":
        layer, _, rest = name.partition("parametrizations.")
        weight = rest.partition(".")[0]
        call = (
            f"torch.nn.utils.parametrize.remove_parametrizations({layer.rstrip('.') or 'model'}, {weight!r})"
        )
    else:
        call = "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm"
    return (
        f"{name} is one of the parts that a layer's weight is computed from ({way}), and a mask is for plain "
        f"weights. Make the weight plain by {call}, or leave the layer as it is with exclude=[{name!r}]"
    )


def _decide(
    name: str, parameter: nn.Parameter, module: nn.Module, patterns: Patterns, included: bool
) -> ParameterInfo:
    local = name.rpartition(".")[2]
    kind, shape = kind_of(module), tuple(parameter.shape)
    fans: Fans | None = None
    if kind is not None and parameter.dim() > 1 and matches(local, kind.weights):
        fans = kind.rule(module, shape)
    layer = type(module).__name__
    if patterns.match(parameter, patterns.exclude):
        if fans is None:
            return _decide_unmasked(name, local, parameter, module)
        return ParameterInfo(name, parameter, "drawn", "excluded", fans.fan_in, fans.fan_out)
    if included:
        if parameter.dim() < 2:
            raise ValueError(
                f"include matches {name}, a vector; only weights of two dimensions or more are masked"
            )
        fans = fans or usual_fans(shape)
        layer = "included"
    if fans is None:
        return _decide_unmasked(name, local, parameter, module)
    return ParameterInfo(
        name,
        parameter,
        "masked",
        layer,
        fans.fan_in,
        fans.fan_out,
        inputs=fans.inputs,
        zero_row=_padding(module),
    )


def _padding(module: nn.Module) -> int | None:
    return module.padding_idx if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _decide_unmasked(name: str, local: str, parameter: nn.Parameter, module: nn.Module) -> ParameterInfo:
    kind = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return ParameterInfo(name, parameter, "drawn", kind, std=1.0, zero_row=_padding(module))
    if _is_norm(module) and local in ("weight", "bias") and parameter.squeeze().dim() <= 1:
        return ParameterInfo(name, parameter, "constant", kind, value=float(local == "weight"))
    if kind.startswith("LayerScale") or local in _LAYER_SCALES:
        return ParameterInfo(name, parameter, "constant", "layer scale", value=1.0)
    if local.startswith("bias") or local.endswith("bias"):
        if parameter.squeeze().dim() <= 1:
            return ParameterInfo(name, parameter, "constant", "bias", value=0.0)
    registered = kind_of(module)
    if registered is not None and matches(local, registered.biases):
        return ParameterInfo(name, parameter, "constant", "bias", value=0.0)
    if registered is not None and matches(local, registered.weights):
        return ParameterInfo(name, parameter, "constant", "scale of each element", value=1.0)
    constant = _constant_value(parameter)
    if constant is not None:
        return ParameterInfo(name, parameter, "constant", f"constant in {kind}", value=constant)
    words = set(re.split("[^a-z]+", re.sub("([A-Z])", r" \1", local).lower()))
    known = parameter.squeeze().dim() < 2 or not words.isdisjoint(_TOKENS)
    return ParameterInfo(name, parameter, "drawn", f"{local} of {kind}", std=TOKEN_STD, known=known)


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__
    # A global response norm is the identity at 0, so it is left to the rule for constants.
    return "Norm" in name and "ResponseNorm" not in name


def _constant_value(parameter: Tensor) -> float | None:
    if parameter.is_meta or parameter.numel() == 0:
        return None
    first = parameter.detach().flatten()[0]
    return float(first) if bool((parameter == first).all()) and math.isfinite(float(first)) else None
