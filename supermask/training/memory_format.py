"""Which convolutions a CPU must not train in channels_last, and a guard that keeps them from it.

oneDNN computes torch's convolutions on CPUs. In the weight gradient of a 1x1 convolution with a stride above
1, it writes past its workspace where the input is in channels_last and has fewer channels than a vector has
lanes (uxlfoundation/oneDNN issue 6035; seen in torch 2.11 to 2.14). With AVX2 the heap is corrupted; wrong
gradients are reported elsewhere. Forward passes, input gradients, grouped convolutions and the contiguous
format are sound.

The rule here asks for 16 channels, the lanes of AVX-512, on every CPU, so that a training does the same on
all of them.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

LANES = 16
"""Input channels from which the kernel is sound: float32 values in a vector of AVX-512."""
REMEDY = (
    "train in the contiguous format: model.to(memory_format=torch.contiguous_format), with inputs in the same"
)


class MemoryFormatError(ValueError):
    """A layer would be trained in a memory format for which the CPU's kernel is broken."""


def unsafe_in_channels_last(model: nn.Module) -> list[str]:
    """Names of the layers whose weight gradient a CPU cannot be trusted with in channels_last.

    Only layers whose weights require gradients count.
    """
    return list(_unsafe(model))


def check_channels_last(model: nn.Module, device_type: str) -> None:
    """Refuse to train `model` in channels_last on a device that cannot.

    Raises:
        MemoryFormatError: The device is a CPU, and a layer is one of `unsafe_in_channels_last`.
    """
    if device_type == "cpu" and (names := unsafe_in_channels_last(model)):
        raise MemoryFormatError(_reason(names))


@contextmanager
def guarded(model: nn.Module) -> Iterator[None]:
    """Inside this context no such layer is trained in channels_last on a CPU.

    A layer that meets an input or a weight in channels_last raises before it computes. `torch.compile`, which
    lays out convolutions in channels_last of its own accord, is told not to for what it compiles in here.

    Raises:
        MemoryFormatError: From a forward pass of such a layer, by its name.
    """
    layers = {name: layer for name, layer in _unsafe(model).items() if layer.weight.device.type == "cpu"}
    if not layers:
        yield
        return
    with ExitStack() as stack:
        if any(hasattr(module, "_orig_mod") for module in model.modules()):
            config = sys.modules["torch._inductor"].config
            stack.enter_context(config.patch(layout_optimization=False))
            for name, layer in layers.items():
                _check_layer(name, layer, ())
        else:
            for name, layer in layers.items():
                handle = layer.register_forward_pre_hook(partial(_check_layer, name))
                stack.callback(handle.remove)
        yield


def _unsafe(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d)
        and module.groups == 1
        and module.in_channels < LANES
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
        and module.weight.requires_grad
    }


def _check_layer(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    tensors = [value for value in (*inputs, layer.weight) if isinstance(value, Tensor)]
    if any(is_channels_last(tensor) for tensor in tensors):
        raise MemoryFormatError(_reason([name]))


def is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes a tensor's strides for channels_last, that of a 1x1 weight included."""
    channels = tensor.shape[1] if tensor.dim() in (4, 5) else 1
    return channels > 1 and tensor.stride(1) == 1 and tensor.stride(-1) >= channels


def _reason(names: list[str]) -> str:
    which = ", ".join(names)
    return (
        f"channels_last, and {which}: on CPUs the weight gradient of a 1x1 convolution with a stride above 1 "
        f"and fewer than {LANES} input channels corrupts memory in that format (oneDNN issue 6035); {REMEDY}"
    )
