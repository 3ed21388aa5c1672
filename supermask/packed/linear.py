"""Linear layers that compute straight from packed masks.

A masked signed-constant weight is +σ, -σ or 0, so that products of three of them with their inputs are one of
27 sums, and a code of five bits looks it up. Where few weights are kept and many inputs come, lists of the
inputs and pairs of inputs to add and to subtract are faster. Other weights are kept as bits of the mask and
the values it leaves, and where those are few with the places of their inputs instead.

On request a layer of signed constants rounds its inputs to int8, with a scale for each row: products and sums
are then of integers, exact and faster. Rounding costs up to 1/254 of a row's largest magnitude in each of its
inputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.ops import layouts
from supermask.packed.cuda import CodedLinear, DenseLinear, may_keep_in_layer, ordinary_tensors
from supermask.packed.placement import Placed, check_weights
from supermask.packed.prepacked import PrepackedLinear
from supermask.packed.prepacked import serves as serves_prepacked
from supermask.packed.tuning import Choice
from supermask.weights.init import Draw

LAYOUTS = {
    "linear_from_triples": ("codes",),
    "linear_from_planes": ("planes",),
    "linear_from_pairs": ("starts", "entries", "order"),
    "linear_from_values": ("masks", "firsts", "values"),
    "linear_from_places": ("firsts", "places", "values"),
    "linear_int8": ("fields",),
}
"""Operator → the buffers that hold its layout."""

# Up to how many inputs each operator is faster than `nn.Linear`, by instruction set and bytes of the inputs'
# type, as benchmarks/masked_linear.py times them. Above, and where nothing is said, dense weights serve.
UNLIMITED = 1 << 62
UP_TO_INPUTS = {
    ("linear_from_triples", "avx512"): {4: UNLIMITED, 2: UNLIMITED},
    ("linear_from_triples", "avx2"): {4: UNLIMITED, 2: UNLIMITED},
    ("linear_from_planes", "avx2"): {4: 32, 2: 4},
    ("linear_from_pairs", "avx512"): {4: UNLIMITED, 2: UNLIMITED},
    ("linear_from_pairs", "avx2"): {4: UNLIMITED},
    ("linear_from_values", "avx512"): {4: 4, 2: 1},
    ("linear_from_values", "avx2"): {4: 4, 2: 1},
    ("linear_from_places", "avx512"): {4: UNLIMITED, 2: 8},
    ("linear_from_places", "avx2"): {4: UNLIMITED, 2: UNLIMITED},
}
FEW_INPUTS = {"avx2": "linear_from_planes"}  # of signed constants; on other instruction sets, triples
MANY_FROM_INPUTS = {"avx512": 32, "avx2": 12}  # for which lists serve, or else triples
LEAST_OF_MANY = 5  # of which lists and triples for many inputs are measured
LISTS_UP_TO_DENSITY = {"avx512": 0.38, "avx2": 0.34}
LISTS_FROM_FEATURES = 128  # inputs and outputs, one block; nothing smaller was measured
VALUES_UP_TO_DENSITY = 0.5
PLACES_UP_TO_DENSITY = {"avx512": 0.15, "avx2": 0.15}
VALUE_TYPES = (torch.float32, torch.bfloat16)
# Layers with fewer weights stay dense: calls cost what they save, and values only save time to memory. Small
# ones are packed for inputs of 16 bits, whose dense calls cost more, and serve at least so many of float32.
SMALLEST_SIGNS = 1 << 14
SMALLEST_SIGNS_ALONE = 1 << 16
SMALL_FROM_INPUTS = 8
SMALLEST_VALUES = 1 << 22

ACTIVATIONS = (None, "int8")
"""How a layer takes its inputs: as they come, or each row rounded to int8 with a scale."""

PACK = {
    "linear_from_triples": lambda signs: (layouts.triples_of_signs(signs),),
    "linear_from_planes": lambda signs: (layouts.planes_of_signs(signs),),
    "linear_from_pairs": layouts.pairs_of_signs,
    "linear_from_values": layouts.values_of_weights,
    "linear_from_places": layouts.places_of_weights,
    "linear_int8": lambda signs: (layouts.fields_of_signs(signs),),
}
"""Operator → what packs a matrix for it."""


class PackedLinear(Placed):
    """`nn.Linear` that computes from packed weights.

    On a GPU it holds signs as codes of two bits and other weights as a dense matrix, and nothing for the CPU.

    Args:
        weights: Matrix of outputs by inputs: -1, 0 and +1 (int8) if there is a `scale`, else floats, whose
            zeros count as pruned.
        scale: σ, the factor on all weights.
        bias: One value per output, or None.
        activations: None, or `int8`: each row of inputs is rounded to integers from -127 to 127 times a scale
            of its own, its largest magnitude / 127. Gradients are those of the layer that does not round.

    Raises:
        ValueError: `weights` are none of that, or have no `scale` where inputs are to be rounded.
    """

    bias: Tensor | None
    of_any_length = ("entries",)  # of pairs: masks make more or fewer of them

    def __init__(
        self,
        weights: Tensor,
        scale: float | None = None,
        bias: Tensor | None = None,
        activations: str | None = None,
    ) -> None:
        super().__init__()
        check_weights(weights, 2, signs=scale is not None)
        if check_activations(activations) is not None and scale is None:
            raise ValueError(f"activations={activations!r} needs weights -1, 0 and +1, and their scale")
        self.activations = activations
        self.out_features, self.in_features = weights.shape
        self.scale = 1.0 if scale is None else scale
        self.density = int(weights.count_nonzero()) / max(weights.numel(), 1)
        self.tuned: dict[tuple[torch.dtype, int], str] = {}  # (type, number of inputs) → what `tune` found
        self.signed = scale is not None
        self.small = self.signed and SMALLEST_SIGNS <= weights.numel() < SMALLEST_SIGNS_ALONE
        self.operators = self._operators(min(weights.shape))
        self.lay_out(weights.detach())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def _operators(self, features: int) -> tuple[str, ...]:
        """Those whose layouts the layer holds: the first for few inputs, the last for many."""
        if self.activations == "int8":
            return ("linear_int8",)
        instructions = ops.instruction_set() or ""
        if not self.signed:
            few = self.density <= PLACES_UP_TO_DENSITY.get(instructions, 0)
            places = few and self.in_features <= layouts.MOST_PLACES
            return ("linear_from_places",) if places else ("linear_from_values",)
        one = FEW_INPUTS.get(instructions, "linear_from_triples")
        lists = self.density <= LISTS_UP_TO_DENSITY.get(instructions, 0) and features >= LISTS_FROM_FEATURES
        many = "linear_from_pairs" if lists else "linear_from_triples"
        return (one, many) if many != one else (one,)

    def packed_for_cpu(self, weights: Tensor) -> dict[str, Tensor]:
        return {
            name: buffer
            for operator in self.operators
            for name, buffer in zip(LAYOUTS[operator], PACK[operator](weights), strict=True)
        }

    def packed_for_gpu(self, weights: Tensor) -> dict[str, Tensor]:
        return {"fragments": layouts.codes_of_signs(weights)} if self.signed else {"matrix": weights.clone()}

    def unpacked(self) -> Tensor:
        if self.on_gpu and not self.signed:
            return self.get_buffer("matrix")
        held = [self.get_buffer(name) for name in self.layout]
        if self.on_gpu:
            return layouts.signs_of_codes(held[0], self.out_features, self.in_features)
        operator = self.operators[0]  # the first one suffices
        held = held[: len(LAYOUTS[operator])]
        return layouts.LINEAR_LAYOUTS[operator](*held, self.out_features, self.in_features)

    def forget(self) -> None:
        self._dense: Tensor | None = None
        self._prepacked = PrepackedLinear()
        self._on_gpu: DenseLinear | None = None

    @classmethod
    def of(cls, layer: nn.Linear, draw: Draw, activations: str | None = None) -> "PackedLinear | None":
        """The packed form of `layer`, whose masked weights are those of `draw`; None if dense is better.

        Where they all have the same magnitude their signs are those in the layer, and `activations` count.
        """
        weights = layer.weight.detach()
        if draw.magnitude is not None:
            if weights.numel() < (SMALLEST_SIGNS if activations is None else SMALLEST_SIGNS_ALONE):
                return None
            return cls(weights.sign().to(torch.int8), draw.magnitude, layer.bias, activations)
        kept = int(weights.count_nonzero())
        if weights.numel() < SMALLEST_VALUES or kept > VALUES_UP_TO_DENSITY * weights.numel():
            return None
        return cls(weights, None, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x · Wᵀ + b for x of any leading dimensions and float type; sums are in float32.

        Those of signed constants are sums of inputs, in each operator's own order, and σ multiplies them
        at the end: a part of one beyond 3.4e38 makes an output infinite or NaN, even where the dense
        layer's is finite. An input that is infinite or NaN reaches the outputs that keep it, and by some
        operators, as in the dense layer, those that prune it too: never where pairs or places serve.
        """
        buffers = self._buffers
        # Asking the module costs a tenth of a small layer's time; only an assigned Parameter needs it.
        bias = buffers["bias"] if "bias" in buffers else self.bias
        if self.on_gpu:
            return self.gpu_linear()(x if self.activations is None else ops.as_int8(x), bias)
        kernel = self.kernel(x)
        if kernel not in LAYOUTS:
            if bias is not None and bias.dtype != x.dtype:
                bias = bias.to(x.dtype)
            if kernel == "prepacked":
                return self._prepacked(x, bias, self.weight)
            return nn.functional.linear(x, self.weight(x), bias)
        if x.shape[-1] != self.in_features:  # a layout alone tells it only up to its padding
            raise ValueError(
                f"x must have {self.in_features} features in its last dimension, not {x.shape[-1]}"
            )
        layout = [buffers[name] for name in LAYOUTS[kernel]]
        return ops.packed_linear(kernel, x, layout, self.out_features, self.scale, bias)  # type: ignore[arg-type]

    def kernel(self, x: Tensor) -> str:
        """What serves `x`: an operator, `dense` weights, or `prepacked` ones, in oneDNN's layout.

        An exported program keeps the one for a single input, however many it is later given.
        """
        if self.activations is not None:
            return self.operators[0]  # whatever serves, it rounds alike
        if torch.compiler.is_compiling():
            return self._kernel_by_rule(x)
        tuned = self.tuned.get((x.dtype, x.numel() // (self.in_features or 1)))
        if tuned is None or (tuned == "prepacked" and not self._may_be_prepacked(x)):
            return self._kernel_by_rule(x)
        return tuned

    def _kernel_by_rule(self, x: Tensor) -> str:
        exports = torch.compiler.is_exporting()
        inputs = 1 if exports else x.numel() // (self.in_features or 1)
        if self.small and inputs < SMALL_FROM_INPUTS and x.dtype == torch.float32 and not exports:
            return "dense"
        from_inputs, most = _limits_of(self.operators, x.device, x.dtype)
        which = -1 if inputs >= from_inputs else 0
        return self.operators[which] if inputs <= most[which] and self._has_values_of_a_type() else "dense"

    def _has_values_of_a_type(self) -> bool:
        """Whether the operators compute with the type of the weights' values, where there are any."""
        return self.signed or self._buffers["values"].dtype in VALUE_TYPES  # type: ignore[union-attr]

    def _may_be_prepacked(self, x: Tensor) -> bool:
        trains = self.bias is not None and self.bias.requires_grad and torch.is_grad_enabled()
        return serves_prepacked(x) and not trains

    def tune(self, x: Tensor) -> Choice | None:
        """Measure what can serve x, and use the fastest for as many inputs of its type from now on."""
        if self.activations is not None or self.on_gpu or x.device.type != "cpu":
            return None
        key = (x.dtype, x.numel() // (self.in_features or 1))
        # The second one is for many: among few it would be chosen by chance alone.
        held = self.operators if key[1] >= LEAST_OF_MANY else self.operators[:1]
        names = [name for name in held if ops.is_native(name, x.device) and self._has_values_of_a_type()]
        with torch.no_grad():  # forward itself, past the hook that asks for this
            names += ["dense", "prepacked"] if self._may_be_prepacked(x) else ["dense"]
            return Choice.measured(self.tuned, key, names, lambda: self.forward(x))

    def drop_unused(self) -> None:
        """Free those dense weights that serve no inputs measured so far."""
        if "prepacked" not in self.tuned.values():
            self._prepacked = PrepackedLinear()
        if "dense" not in self.tuned.values():
            self._dense = None

    def gpu_linear(self) -> DenseLinear:
        """What computes on a GPU, from this layer's buffer; made on first use."""
        if self._on_gpu is None:
            with ordinary_tensors():
                weights = self.unpacked()
                self._on_gpu = (
                    CodedLinear(weights, self.scale, self.get_buffer("fragments"))
                    if self.signed
                    else DenseLinear(weights)
                )
        return self._on_gpu

    def weight(self, like: Tensor) -> Tensor:
        """The weights as a matrix, of the type and on the device of `like`; kept once asked for."""
        dense = self._dense
        if dense is None or dense.dtype != like.dtype or dense.device != like.device:
            with ordinary_tensors():
                dense = self.unpacked().to(like.device, like.dtype) * self.scale
            if may_keep_in_layer():
                self._dense = dense
        return dense

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if not self.on_gpu:
            self._adopt_layout(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _adopt_layout(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Lay out anew what `state_dict` holds in the layout that serves on another CPU."""
        names = dict.fromkeys(name for buffers in LAYOUTS.values() for name in buffers)
        held = {name: given for name in names if isinstance(given := state_dict.get(prefix + name), Tensor)}
        known = [operator for operator, buffers in LAYOUTS.items() if held.keys() >= set(buffers)]
        if held.keys() == set(self.layout) or not known:
            return
        buffers = [held[name] for name in LAYOUTS[known[0]]]
        try:
            weights = layouts.LINEAR_LAYOUTS[known[0]](*buffers, self.out_features, self.in_features)
        except (IndexError, RuntimeError):  # of another size: refused with all that does not fit
            return
        if self.signed != (weights.dtype == torch.int8):
            return
        for name in held:
            del state_dict[prefix + name]
        state_dict.update({prefix + name: buffer for name, buffer in self.packed_for_cpu(weights).items()})

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.held()}"


def check_activations(activations: str | None) -> str | None:
    """`activations` itself, or ValueError unless it is one of `ACTIVATIONS`."""
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations must be None or 'int8', not {activations!r}")
    return activations


_limits: dict[tuple[Any, ...], tuple[int, tuple[int, ...]]] = {}


def _limits_of(
    operators: tuple[str, ...], device: torch.device, dtype: torch.dtype
) -> tuple[int, tuple[int, ...]]:
    """From how many inputs of that type the last of the operators serves, and up to how many each does.

    That is -1 for one that is not compiled.
    """
    instructions = ops.instruction_set() or ""
    key = (instructions, operators, device, dtype)
    if key not in _limits:  # no functools.cache, which torch.compile looks through with a warning
        most = tuple(
            UP_TO_INPUTS.get((name, instructions), {}).get(dtype.itemsize, -1)
            if ops.is_native(name, device)
            else -1
            for name in operators
        )
        _limits[key] = MANY_FROM_INPUTS.get(instructions, 0), most
    return _limits[key]


# What torch.compiler.assume_constant_result does, which takes seconds to import the compiler for it.
_limits_of._dynamo_marked_constant = True  # type: ignore[attr-defined]
