"""Operators as PyTorch's dispatcher knows them: one schema each, references, compiled kernels, fakes.

Everything the library computes on whole tensors of weights, scores or mask bits goes through
`torch.ops.supermask.*`. The references of `supermask.ops.references` are registered for every backend; the
compiled libraries, `_native.so` and `_native_cuda.so`, override them for the CPU and for CUDA through the
dispatcher, so that no caller ever asks which device it runs on. `supermask.ops` has the functions that the
rest of the library calls.
"""

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supermask.ops import layouts, references

_SGD = (
    "(Tensor(a!)[] out, Tensor(b!)[] masks, Tensor(c!)[] scores, Tensor(d!)[] velocities, Tensor[] grads, "
    "Tensor[] weights, int[] keep, Tensor(e!) cuts, float lr, float momentum, float dampening, "
    "float weight_decay, bool nesterov, Tensor? rate=None, Tensor? units=None) -> ()"
)
_SCHEMAS = (
    "fill_philox(Tensor(a!) out, int key, int start) -> ()",
    "fill_random(Tensor(a!) out, int key, int start, str scheme, float scale) -> ()",
    "select(Tensor[] scores, int[] keep) -> Tensor[]",
    "select_into(Tensor(a!)[] masks, Tensor[] scores, int[] keep, Tensor(b!) cuts) -> ()",
    "select_global(Tensor[] scores, int keep) -> Tensor[]",
    "rank_into(Tensor(a!)[] masks, Tensor[] scores, int[] keep, Tensor(b!) cuts, bool raw, "
    "bool floor=False) -> ()",
    "select_n_of_m(Tensor[] scores, int n, int m, bool raw) -> Tensor[]",
    "select_n_of_m_into(Tensor(a!)[] masks, Tensor[] scores, int n, int m, bool raw, Tensor(b!) cuts) -> ()",
    "straight_through(Tensor[] grads, Tensor[] weights, Tensor[] scores) -> Tensor[]",
    "write_masked(Tensor(a!)[] out, Tensor[] weights, Tensor[] masks) -> ()",
    "clear_where(Tensor(a!) values, Tensor where) -> ()",
    "units_of_layers(Tensor[] grads, Tensor(a!)[] sizes, float decay) -> Tensor",
    f"edge_popup_sgd{_SGD}",
    f"signed_supermask_sgd{_SGD}",
    "linear_from_triples(Tensor x, Tensor codes, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "linear_from_lists(Tensor x, Tensor starts, Tensor entries, SymInt outputs, float scale, Tensor? bias) "
    "-> Tensor",
    "linear_from_pairs(Tensor x, Tensor starts, Tensor entries, Tensor order, SymInt outputs, float scale, "
    "Tensor? bias) -> Tensor",
    "linear_from_values(Tensor x, Tensor masks, Tensor starts, Tensor values, SymInt outputs, float scale, "
    "Tensor? bias) -> Tensor",
    "linear_from_places(Tensor x, Tensor starts, Tensor places, Tensor values, SymInt outputs, float scale, "
    "Tensor? bias) -> Tensor",
    "linear_from_planes(Tensor x, Tensor planes, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "linear_int8(Tensor x, Tensor fields, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "conv_from_lists(Tensor x, Tensor starts, Tensor entries, SymInt outputs, SymInt[] kernel, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, float scale, Tensor? bias) "
    "-> Tensor",
    "conv_from_values(Tensor x, Tensor starts, Tensor entries, Tensor values, SymInt outputs, "
    "SymInt[] kernel, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, Tensor? bias) "
    "-> Tensor",
    "linear_from_codes(Tensor x, Tensor codes, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "linear_from_codes_wgmma(Tensor x, Tensor codes, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "lists_of_weights_into(Tensor(a!) starts, Tensor(b!) entries, Tensor weights, float scale, "
    "Tensor(c!)? turned_starts, Tensor(d!)? turned_entries) -> ()",
    "weight_gradient(Tensor grad, Tensor x) -> Tensor",
    "sparse_linear(Tensor x, Tensor weights, bool transposed, Tensor? bias) -> Tensor",
    "sparse_conv(Tensor x, Tensor weights, SymInt[] stride, SymInt[] padding) -> Tensor",
    "sparse_conv_input_gradient(Tensor grad, Tensor weights, SymInt[] size, SymInt[] stride, "
    "SymInt[] padding) -> Tensor",
    "conv_weight_gradient(Tensor grad, Tensor x, SymInt[] kernel, SymInt[] stride, "
    "SymInt[] padding) -> Tensor",
    "decode_codes(Tensor codes, SymInt outputs, SymInt inputs, float scale, ScalarType dtype) -> Tensor",
    "pack_mask(Tensor mask) -> Tensor",
    "unpack_mask(Tensor packed, SymInt numel) -> Tensor",
    "encode_mask(Tensor mask) -> Tensor",
    "decode_mask(Tensor coded, SymInt numel) -> Tensor",
)

_library = torch.library.Library("supermask", "DEF")
for _schema in _SCHEMAS:
    _library.define(_schema)


# --- backends ----------------------------------------------------------------------------------------


def _load_native(file_name: str) -> Path | None:
    """Load a compiled library from wherever the package was installed; None where there is none.

    Raises:
        OSError: The library is there but does not load. That is a broken installation, and falling back
            would hide it.
    """
    if os.environ.get("SUPERMASK_REFERENCE"):
        return None
    for directory in sys.modules["supermask"].__path__:
        path = Path(directory, file_name)
        if path.exists():
            torch.ops.load_library(path)
            return path
    return None


_native = _load_native("_native.so")
# A torch without CUDA lacks what the CUDA library calls; with it, the library loads without a GPU as well.
_native_cuda = _load_native("_native_cuda.so") if torch.version.cuda else None
if _native is None and not os.environ.get("SUPERMASK_REFERENCE"):
    logging.getLogger(__name__).warning(
        "supermask has no compiled kernels here (it was built without a C++ compiler); slower references "
        "written in torch serve. Remedy: install a wheel, or a compiler and then supermask again"
    )
for _name, _kernel in references.KERNELS.items():
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
if _native is None:
    for _name, _kernel in references.CPU_KERNELS.items():
        _library.impl(_name, _kernel, "CPU")


def reference(name: str) -> Callable[..., Any]:
    """The torch reference of an operator, for tests of the kernels that override it."""
    return references.KERNELS[name]


@functools.cache
def _has_kernel(name: str, device_type: str) -> bool:
    library = {"cpu": _native, "cuda": _native_cuda}.get(device_type)
    key = device_type.upper()
    return library is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"supermask::{name}", key)


def is_native(name: str, device: torch.device) -> bool:
    """Whether a compiled kernel serves operator `name` on `device`."""
    return _has_kernel(name, device.type)


# torch.compile cannot look into the dispatcher. torch.compiler.assume_constant_result says the same but takes
# seconds to import the compiler for it.
is_native._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def instruction_set() -> str | None:
    """`avx512`, `avx2` or `baseline`: what the compiled CPU kernels use here; None without a library."""
    if _native is None:
        return None
    library = ctypes.CDLL(str(_native))
    library.supermask_instruction_set.restype = ctypes.c_char_p
    return library.supermask_instruction_set().decode()


def backends(device: str = "cpu") -> dict[str, str]:
    """Operator name → which implementation serves tensors on `device` (`cpu` or `cuda`), and why."""
    native, missing = _cpu_backend() if device == "cpu" else _cuda_backend()
    return {
        name: f"native ({native})"
        if is_native(name, torch.device(device))
        else f"reference ({missing or 'has no compiled kernel'})"
        for name in references.KERNELS
    }


def _cpu_backend() -> tuple[str | None, str | None]:
    """What the compiled kernels use, and why there are none."""
    if os.environ.get("SUPERMASK_REFERENCE"):
        return None, "SUPERMASK_REFERENCE is set"
    return instruction_set(), None if _native else "no compiled library was installed"


def _cuda_backend() -> tuple[str | None, str | None]:
    if not torch.version.cuda:
        return None, "this torch has no CUDA"
    if os.environ.get("SUPERMASK_REFERENCE"):
        return None, "SUPERMASK_REFERENCE is set"
    if _native_cuda is None:
        return None, "wheels have no CUDA kernels; with nvcc: pip install --no-binary supermask supermask"
    if not torch.cuda.is_available():
        return "no GPU to run it on", None
    return "compute capability {}.{}".format(*torch.cuda.get_device_capability()), None


# --- shapes without data -----------------------------------------------------------------------------

_WRITERS = (
    "fill_philox",
    "fill_random",
    "select_into",
    "rank_into",
    "select_n_of_m_into",
    "write_masked",
    "clear_where",
    "edge_popup_sgd",
    "signed_supermask_sgd",
    "lists_of_weights_into",
)
"""Operators that only write into their arguments."""
for _name in _WRITERS:
    torch.library.register_fake(f"supermask::{_name}", lambda *_, **__: None, lib=_library)


def empty_masks(scores: Sequence[Tensor]) -> list[Tensor]:
    """One bool tensor per score tensor, of its shape and on its device, contiguous."""
    return [torch.empty(score.shape, dtype=torch.bool, device=score.device) for score in scores]


@torch.library.register_fake("supermask::select", lib=_library)
@torch.library.register_fake("supermask::select_global", lib=_library)
def _(scores: Sequence[Tensor], keep: Sequence[int] | int) -> list[Tensor]:
    return empty_masks(scores)


@torch.library.register_fake("supermask::select_n_of_m", lib=_library)
def _(scores: Sequence[Tensor], n: int, m: int, raw: bool) -> list[Tensor]:
    return empty_masks(scores)


@torch.library.register_fake("supermask::straight_through", lib=_library)
def _(grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty(score.shape, dtype=score.dtype, device=score.device) for score in scores]


@torch.library.register_fake("supermask::conv_from_lists", lib=_library)
def _(x: Tensor, starts: Tensor, entries: Tensor, *geometry_and_rest: Any) -> Tensor:
    return _empty_images(x, *geometry_and_rest[:5])


@torch.library.register_fake("supermask::conv_from_values", lib=_library)
def _(x: Tensor, starts: Tensor, entries: Tensor, values: Tensor, *geometry_and_rest: Any) -> Tensor:
    return _empty_images(x, *geometry_and_rest[:5])


def _empty_images(
    x: Tensor,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    padded = x.shape[2] + padding[0] + padding[1], x.shape[3] + padding[2] + padding[3]
    sizes = [(padded[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    return x.new_empty(x.shape[0], outputs, *sizes)


@torch.library.register_fake("supermask::weight_gradient", lib=_library)
def _(grad: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1])


@torch.library.register_fake("supermask::sparse_linear", lib=_library)
def _(x: Tensor, weights: Tensor, transposed: bool, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weights.shape[transposed])


@torch.library.register_fake("supermask::sparse_conv", lib=_library)
def _(x: Tensor, weights: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    sizes = [(x.shape[2 + i] + 2 * padding[i] - weights.shape[2 + i]) // stride[i] + 1 for i in range(2)]
    return _new_images(x, len(x), len(weights), sizes)


@torch.library.register_fake("supermask::sparse_conv_input_gradient", lib=_library)
def _(
    grad: Tensor, weights: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    return _new_images(grad, len(grad), weights.shape[1], size)


@torch.library.register_fake("supermask::conv_weight_gradient", lib=_library)
def _(
    grad: Tensor, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    return _new_images(x, grad.shape[1], x.shape[1], kernel)


def _new_images(like: Tensor, images: int, channels: int, sizes: Sequence[int]) -> Tensor:
    shape = images, channels, *sizes
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


@torch.library.register_fake("supermask::decode_codes", lib=_library)
def _(codes: Tensor, outputs: int, inputs: int, scale: float, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(outputs, inputs, dtype=dtype)


@torch.library.register_fake("supermask::pack_mask", lib=_library)
def _(mask: Tensor) -> Tensor:
    return torch.empty((mask.numel() + 7) // 8, dtype=torch.uint8, device=mask.device)


@torch.library.register_fake("supermask::encode_mask", lib=_library)
def _(mask: Tensor) -> Tensor:
    length = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(length, dtype=torch.uint8, device=mask.device)


@torch.library.register_fake("supermask::unpack_mask", lib=_library)
@torch.library.register_fake("supermask::decode_mask", lib=_library)
def _(stored: Tensor, numel: int) -> Tensor:
    return torch.empty(numel, dtype=torch.bool, device=stored.device)


# --- packed layers: shapes, and gradients to the input and the bias -----------------------------------


def _register_packed_linear(name: str, weights_of: Callable[..., Tensor]) -> None:
    def fake(x: Tensor, *layout_and_rest: Any) -> Tensor:
        return x.new_empty(*x.shape[:-1], layout_and_rest[-3])

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *layout, ctx.outputs, ctx.scale, bias = inputs
        ctx.features, ctx.bias_dtype = x.shape[-1], None if bias is None else bias.dtype
        ctx.save_for_backward(*layout)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights = weights_of(*ctx.saved_tensors, ctx.outputs, ctx.features).to(grad.dtype)
        for_bias = None
        if ctx.bias_dtype is not None:
            for_bias = grad.reshape(-1, ctx.outputs).sum(0).to(ctx.bias_dtype)
        return grad @ weights * ctx.scale, *[None] * (len(ctx.saved_tensors) + 2), for_bias

    torch.library.register_fake(f"supermask::{name}", fake, lib=_library)
    torch.library.register_autograd(f"supermask::{name}", backward, setup_context=save, lib=_library)


def _codes_fake(x: Tensor, codes: Tensor, outputs: int, scale: float, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], outputs)


def _save_codes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, codes, ctx.outputs, ctx.scale, bias = inputs
    ctx.features, ctx.biased = inputs[0].shape[1], bias is not None
    ctx.save_for_backward(codes)


def _codes_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (codes,) = ctx.saved_tensors
    weight = torch.ops.supermask.decode_codes(codes, ctx.outputs, ctx.features, ctx.scale, grad.dtype)
    return grad @ weight, None, None, None, grad.sum(0) if ctx.biased else None


for _name, _weights_of in layouts.LINEAR_LAYOUTS.items():
    _register_packed_linear(_name, _weights_of)
for _name in ("linear_from_codes", "linear_from_codes_wgmma"):
    torch.library.register_fake(f"supermask::{_name}", _codes_fake, lib=_library)
    torch.library.register_autograd(
        f"supermask::{_name}", _codes_backward, setup_context=_save_codes, lib=_library
    )
