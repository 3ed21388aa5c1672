"""Convolutions that compute straight from packed masks.

Every output adds up the inputs under its weights +σ, subtracts those under -σ and never meets the others: at
density 0.3 three tenths of a dense convolution's additions, and no multiplication. Other weights stand beside
the lists of the inputs that they multiply. The lists are of the matrix of outputs by (channel of the group,
row, column).

Where the lists are not faster (see `tune`), where a gradient is asked for, for float64, and without the
compiled library, torch's own convolution serves, with weights that are unpacked on first use and kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supermask import ops
from supermask.ops import layouts
from supermask.packed.cuda import may_keep_in_layer, ordinary_tensors
from supermask.packed.linear import VALUE_TYPES
from supermask.packed.placement import Placed, check_weights
from supermask.packed.tuning import Choice
from supermask.weights.init import Draw

OPERATORS = {True: "conv_from_lists", False: "conv_from_values"}
"""Whether all weights are ±σ or 0 → the operator that computes from lists of them."""

# Where the lists serve, without an example to measure. They gather inputs for all outputs of a group, and add
# 16 positions of the output at once. Limits in the order of LIST_TYPES: with AVX-512 come instructions that
# compute bfloat16 at twice the speed of float32, and where baseline serves us oneDNN may still use more.
LIST_TYPES = (torch.float32, torch.bfloat16, torch.float16)
LISTS_UP_TO_DENSITY = {"avx512": (0.5, 0.3, 0.3), "avx2": (0.5, 0.5, 0.5), "baseline": (0.1, 0.1, 0.1)}
OUTPUTS_THAT_SHARE = 16
FEWEST_POSITIONS = 8


class _PackedConv(Placed):
    """What `PackedConv1d` and `PackedConv2d` share; their arguments are in `PackedConv2d`."""

    dimensions: int
    bias: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        scale: float | None = None,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        count = self.dimensions
        check_weights(weights, count + 2, signs=scale is not None)
        if groups < 1 or len(weights) % groups:
            raise ValueError(f"groups must divide the {len(weights)} outputs, but is {groups}")
        self.out_channels, self.in_channels = len(weights), weights.shape[1] * groups
        self.kernel_size, self.groups, self.padding_mode = tuple(weights.shape[2:]), groups, padding_mode
        self.stride, self.dilation = _each(stride, count), _each(dilation, count)
        self.margins = _margins(padding, self.kernel_size, self.dilation)
        self.scale, self.signed = scale, scale is not None
        self.operator = OPERATORS[scale is not None]
        self.density = int(weights.count_nonzero()) / max(weights.numel(), 1)
        self.kernels = {
            dtype: "lists" if self.density <= limit else "dense" for dtype, limit in _limits().items()
        }
        self.lay_out(weights.detach())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def packed_for_cpu(self, weights: Tensor) -> dict[str, Tensor]:
        pack = layouts.lists_of_weights if self.scale is None else layouts.lists_of_signs
        return dict(zip(("starts", "entries", "values"), pack(weights.flatten(1)), strict=False))

    def packed_for_gpu(self, weights: Tensor) -> dict[str, Tensor]:
        return {"dense": weights.clone() if self.scale is None else weights * self.scale}

    def unpacked(self) -> Tensor:
        if self.on_gpu:
            dense = self.get_buffer("dense")
            return dense if self.scale is None else dense.sign().to(torch.int8)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        unpack: Callable[..., Tensor] = (
            layouts.weights_of_lists if self.scale is None else layouts.signs_of_lists
        )
        return unpack(*self._lists(), shape[0], torch.Size(shape[1:]).numel()).view(shape)

    def forget(self) -> None:
        self._dense: Tensor | None = None

    def _lists(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self.layout]

    @classmethod
    def of(cls, layer: Any, draw: Draw, activations: str | None = None) -> "_PackedConv | None":
        """The packed form of `layer`, whose masked weights are those of `draw`; None where there is none.

        It takes its inputs as they come, whatever `activations` linear layers are asked to round to.
        """
        if layer.out_channels // layer.groups < OUTPUTS_THAT_SHARE:
            return None
        weight = layer.weight.detach()
        signs = draw.magnitude is not None
        if not signs and int(weight.count_nonzero()) > max(_limits().values()) * weight.numel():
            return None
        return cls(
            weight.sign().to(torch.int8) if signs else weight,
            float(weight.abs().max()) if signs else None,  # σ as the weight's type rounds it
            layer.bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.padding_mode,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x, batched or not, of any float type; sums are in float32."""
        batched = x.dim() == self.dimensions + 2
        if (
            not (batched or x.dim() == self.dimensions + 1)
            or x.shape[-self.dimensions - 1] != self.in_channels
        ):
            raise ValueError(
                f"x must have {self.in_channels} channels before its last {self.dimensions} dimensions, but "
                f"has shape {tuple(x.shape)}"
            )
        margins = self.margins
        if self.padding_mode != "zeros":
            x, margins = F.pad(x, _for_pad(margins), self.padding_mode), (0,) * len(margins)
        if self.kernel(x) == "lists":
            y = self._from_lists(x if batched else x.unsqueeze(0), margins)
            return y if batched else y.squeeze(0)
        if margins[::2] == margins[1::2]:
            padding = margins[::2]
        else:
            x, padding = F.pad(x, _for_pad(margins)), (0,) * self.dimensions
        bias = self.bias
        if bias is not None and bias.dtype != x.dtype:
            bias = bias.to(x.dtype)
        convolve = F.conv1d if self.dimensions == 1 else F.conv2d
        return convolve(x, self.weight(x), bias, self.stride, padding, self.dilation, self.groups)

    def _from_lists(self, x: Tensor, margins: tuple[int, ...]) -> Tensor:
        flat = self.dimensions == 1  # a signal is an image of height 1
        images = (x.unsqueeze(2) if flat else x).contiguous()
        geometry = (
            self.out_channels,
            (1, *self.kernel_size) if flat else self.kernel_size,
            (1, *self.stride) if flat else self.stride,
            (0, 0, *margins) if flat else margins,
            (1, *self.dilation) if flat else self.dilation,
            self.groups,
        )
        bias = None if self.bias is None else self.bias.float()
        if self.scale is None:
            y = torch.ops.supermask.conv_from_values(images, *self._lists(), *geometry, bias)
        else:
            y = torch.ops.supermask.conv_from_lists(images, *self._lists(), *geometry, self.scale, bias)
        if flat:
            return y.squeeze(2)
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y

    def kernel(self, x: Tensor) -> str:
        """What serves x: `lists` or `dense`."""
        if self.kernels.get(x.dtype) != "lists":  # first, for calls take as long as a small layer
            return "dense"
        trains = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if (trains and torch.is_grad_enabled()) or not self._has_lists(x):
            return "dense"
        if not torch.compiler.is_exporting() and self._positions(x) < FEWEST_POSITIONS:
            return "dense"  # not asked of an exported network, which would be held to the answer
        return "lists"

    def _has_lists(self, x: Tensor) -> bool:
        """Whether a compiled kernel computes from the lists on the device of x."""
        if self.on_gpu or not ops.is_native(self.operator, x.device):
            return False
        return self.scale is not None or self.get_buffer("values").dtype in VALUE_TYPES

    def _positions(self, x: Tensor) -> int:
        """Output positions of all images together."""
        count = x.shape[0] if x.dim() == self.dimensions + 2 else 1
        for size, stride in zip(x.shape[-self.dimensions :], self.stride, strict=True):
            count *= -(-size // stride)
        return count

    def tune(self, x: Tensor) -> Choice | None:
        """Measure both kernels on x and use the faster for inputs of its type from now on."""
        if x.dtype not in self.kernels or not self._has_lists(x):
            return None
        with torch.no_grad():  # forward itself, past the hook that asks for this
            return Choice.measured(self.kernels, x.dtype, ["lists", "dense"], lambda: self.forward(x))

    def drop_unused(self) -> None:
        """Free the dense weights where the lists serve inputs of their type."""
        if self._dense is not None and self.kernels.get(self._dense.dtype) == "lists":
            self._dense = None

    def weight(self, like: Tensor) -> Tensor:
        """The weights as a dense tensor, of the type and on the device of `like`; kept once asked for."""
        held = self.get_buffer("dense") if self.on_gpu else self._dense
        if held is None or held.dtype != like.dtype or held.device != like.device:
            held = self._dense
        if held is None or held.dtype != like.dtype or held.device != like.device:
            with ordinary_tensors():
                held = self.unpacked().to(like.device, like.dtype).contiguous()
                held = held if self.scale is None else held * self.scale
            if may_keep_in_layer():
                self._dense = held
        return held

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.margins}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, {self.held()}"
        )


class PackedConv1d(_PackedConv):
    """`nn.Conv1d` from packed weights; arguments as in `PackedConv2d`, with one dimension less."""

    dimensions = 1


class PackedConv2d(_PackedConv):
    """`nn.Conv2d` that computes from packed weights.

    Args:
        weights: Outputs, inputs of a group, rows, columns: -1, 0 and +1 (int8) if there is a `scale`, else
            floats, whose zeros count as pruned.
        scale: σ, the factor on all weights.
        bias: One value per output, or None.
        stride: As in `nn.Conv2d`, like all that follow.
        padding: Number, one number per dimension, `same` or `valid`.
        dilation: Number or one number per dimension.
        groups: Number of groups.
        padding_mode: `zeros`, `reflect`, `replicate` or `circular`.

    Raises:
        ValueError: `weights` are none of that, or `groups` do not divide the outputs.
    """

    dimensions = 2


def _limits() -> dict[torch.dtype, float]:
    """Type of the inputs → up to which density the lists serve it."""
    return dict(zip(LIST_TYPES, LISTS_UP_TO_DENSITY[ops.instruction_set() or "baseline"], strict=True))


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _margins(
    padding: int | Sequence[int] | str, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """Padding before and after each dimension, in the order of the dimensions."""
    if padding == "same":  # torch puts the odd one at the end
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in reach]
    else:
        pairs = [(size, size) for size in _each(0 if isinstance(padding, str) else padding, len(kernel))]
    return tuple(size for pair in pairs for size in pair)


def _for_pad(margins: tuple[int, ...]) -> tuple[int, ...]:
    """The order of `F.pad`: the last dimension first."""
    return tuple(size for i in range(len(margins) - 2, -1, -2) for size in margins[i : i + 2])
