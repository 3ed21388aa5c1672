"""Operators: one schema each, and the place where compiled kernels plug in.

Everything the library computes on whole tensors of weights, scores or mask bits goes through
`torch.ops.supermask.*`. The references of `supermask.references` are registered for every backend; the
compiled library, `_native.so`, overrides them for the CPU through PyTorch's dispatcher, so that no caller
ever asks which device it runs on. The wrappers at the end are what the rest of the library calls; they check
their arguments, so that both backends refuse the same ones with the same words.
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

from supermask import references

SCHEMES = ("sign", "uniform", "normal")
"""Unit distributions: +1 or -1 with equal odds; uniform on (-1, 1); standard normal."""

_SCHEMAS = (
    "philox(int key, int start, int count, Device device) -> Tensor",
    "fill_random(Tensor(a!) out, int key, int start, str scheme, float scale) -> ()",
    "select(Tensor[] scores, int[] keep) -> Tensor[]",
    "select_into(Tensor(a!)[] masks, Tensor[] scores, int[] keep, Tensor(b!) cuts) -> ()",
    "select_global(Tensor[] scores, int keep) -> Tensor[]",
    "straight_through(Tensor[] grads, Tensor[] weights, Tensor[] scores) -> Tensor[]",
    "write_masked(Tensor(a!)[] out, Tensor[] weights, Tensor[] masks) -> ()",
    "edge_popup_sgd(Tensor(a!)[] out, Tensor(b!)[] masks, Tensor(c!)[] scores, Tensor(d!)[] velocities, "
    "Tensor[] grads, Tensor[] weights, int[] keep, Tensor(e!) cuts, float lr, float momentum, "
    "float dampening, float weight_decay, bool nesterov) -> ()",
    "linear_from_bits(Tensor x, Tensor planes, SymInt outputs, float scale, Tensor? bias) -> Tensor",
    "linear_from_lists(Tensor x, Tensor starts, Tensor entries, SymInt outputs, float scale, Tensor? bias) "
    "-> Tensor",
    "pack_mask(Tensor mask) -> Tensor",
    "unpack_mask(Tensor packed, SymInt numel) -> Tensor",
)

_library = torch.library.Library("supermask", "DEF")
for _schema in _SCHEMAS:
    _library.define(_schema)


# --- backends ----------------------------------------------------------------------------------------


def _load_native() -> Path | None:
    """Load the compiled library from wherever the package was installed; None where there is none.

    Raises:
        OSError: The library is there but does not load. That is a broken installation, and falling back
            would hide it.
    """
    if os.environ.get("SUPERMASK_REFERENCE"):
        return None
    for directory in sys.modules["supermask"].__path__:
        path = Path(directory, "_native.so")
        if path.exists():
            torch.ops.load_library(path)
            return path
    logging.getLogger(__name__).warning(
        "supermask has no compiled kernels here (it was installed without a C++ compiler); slower references "
        "written in torch serve. Remedy: install a compiler, then supermask again"
    )
    return None


_native = _load_native()
for _name, _kernel in references.KERNELS.items():
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
if _native is None:
    for _name, _kernel in references.CPU_KERNELS.items():
        _library.impl(_name, _kernel, "CPU")


def reference(name: str) -> Callable[..., Any]:
    """The torch reference of an operator, for tests of the kernels that override it."""
    return references.KERNELS[name]


@functools.cache
def is_native(name: str, device: torch.device) -> bool:
    """Whether a compiled kernel serves operator `name` on `device`."""
    key = device.type.upper()
    return _native is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"supermask::{name}", key)


@functools.cache
def instruction_set() -> str | None:
    """`avx512`, `avx2` or `baseline`: what the compiled CPU kernels use here; None without a library."""
    if _native is None:
        return None
    library = ctypes.CDLL(str(_native))
    library.supermask_instruction_set.restype = ctypes.c_char_p
    return library.supermask_instruction_set().decode()


def backends() -> dict[str, str]:
    """Operator name → which implementation serves CPU tensors, and why."""
    if _native is None:
        asked = bool(os.environ.get("SUPERMASK_REFERENCE"))
        why = "SUPERMASK_REFERENCE is set" if asked else "no compiled library was installed"
        return dict.fromkeys(references.KERNELS, f"reference ({why})")
    return {
        name: f"native ({instruction_set()})"
        if is_native(name, torch.device("cpu"))
        else "reference (has no compiled kernel)"
        for name in references.KERNELS
    }


# --- shapes without data -----------------------------------------------------------------------------


@torch.library.register_fake("supermask::philox", lib=_library)
def _(key: int, start: int, count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device=device)


@torch.library.register_fake("supermask::fill_random", lib=_library)
def _(out: Tensor, key: int, start: int, scheme: str, scale: float) -> None:
    return None


def _new_masks(scores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty(score.shape, dtype=torch.bool, device=score.device) for score in scores]


@torch.library.register_fake("supermask::select", lib=_library)
def _(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
    return _new_masks(scores)


@torch.library.register_fake("supermask::select_into", lib=_library)
def _(masks: Sequence[Tensor], scores: Sequence[Tensor], keep: Sequence[int], cuts: Tensor) -> None:
    return None


@torch.library.register_fake("supermask::select_global", lib=_library)
def _(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    return _new_masks(scores)


@torch.library.register_fake("supermask::straight_through", lib=_library)
def _(grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty(score.shape, dtype=score.dtype, device=score.device) for score in scores]


@torch.library.register_fake("supermask::write_masked", lib=_library)
def _(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    return None


@torch.library.register_fake("supermask::edge_popup_sgd", lib=_library)
def _(out: Sequence[Tensor], *_: object) -> None:
    return None


@torch.library.register_fake("supermask::linear_from_bits", lib=_library)
def _(x: Tensor, planes: Tensor, outputs: int, scale: float, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], outputs)


@torch.library.register_fake("supermask::linear_from_lists", lib=_library)
def _(x: Tensor, starts: Tensor, entries: Tensor, outputs: int, scale: float, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], outputs)


@torch.library.register_fake("supermask::pack_mask", lib=_library)
def _(mask: Tensor) -> Tensor:
    return torch.empty((mask.numel() + 7) // 8, dtype=torch.uint8, device=mask.device)


@torch.library.register_fake("supermask::unpack_mask", lib=_library)
def _(packed: Tensor, numel: int) -> Tensor:
    return torch.empty(numel, dtype=torch.bool, device=packed.device)


# --- gradients of packed layers, to the input and the bias --------------------------------------------


def _save_bits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, planes, ctx.outputs, ctx.scale, bias = inputs
    ctx.features, ctx.biased = x.shape[1], bias is not None
    ctx.save_for_backward(planes)


def _bits_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    signs = references.signs_of_bits(ctx.saved_tensors[0], ctx.outputs, ctx.features)
    return _input_gradient(ctx, grad, signs), None, None, None, _bias_gradient(ctx, grad)


def _save_lists(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, starts, entries, ctx.outputs, ctx.scale, bias = inputs
    ctx.features, ctx.biased = x.shape[1], bias is not None
    ctx.save_for_backward(starts, entries)


def _lists_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    starts, entries = ctx.saved_tensors
    signs = references.signs_of_lists(starts, entries, ctx.outputs, ctx.features)
    return _input_gradient(ctx, grad, signs), None, None, None, None, _bias_gradient(ctx, grad)


def _input_gradient(ctx: Any, grad: Tensor, signs: Tensor) -> Tensor:
    return grad @ signs.to(grad.dtype) * ctx.scale


def _bias_gradient(ctx: Any, grad: Tensor) -> Tensor | None:
    return grad.sum(0) if ctx.biased else None


torch.library.register_autograd(
    "supermask::linear_from_bits", _bits_backward, setup_context=_save_bits, lib=_library
)
torch.library.register_autograd(
    "supermask::linear_from_lists", _lists_backward, setup_context=_save_lists, lib=_library
)


# --- what the library calls --------------------------------------------------------------------------


def _signed(key: int) -> int:
    """A 64-bit key as the int64 that an operator schema can carry."""
    return key - (1 << 64) if key >= 1 << 63 else key


def philox(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words `start` to `start + count` of the generator's stream under `key`.

    Returns:
        int64 tensor of shape (count,), each value in [0, 2^32).
    """
    return torch.ops.supermask.philox(_signed(key), start, count, torch.device(device))


def fill_random(out: Tensor, key: int, scheme: str, scale: float = 1.0, start: int = 0) -> Tensor:
    """Fill contiguous `out` with elements `start`, `start + 1`, … of the stream under `key`.

    The value is the unit draw of `scheme` (see `SCHEMES`), in float32, times float32(`scale`), then cast
    to the dtype of `out`.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    if not out.is_floating_point():
        raise TypeError(f"out must be a tensor of floats, not {out.dtype}")
    if not out.is_contiguous():
        raise ValueError("out must be contiguous: elements are drawn in row-major order")
    torch.ops.supermask.fill_random(out, _signed(key), start, scheme, scale)
    return out


def select(scores: Sequence[Tensor], keep: Sequence[int], cuts: Tensor | None = None) -> list[Tensor]:
    """Masks (bool) that keep exactly `keep[i]` entries of `scores[i]`: the largest by |score|.

    Ties go to the lower row-major index. Raises ValueError when a score is not finite.

    Args:
        scores: Tensors of floats, of any shapes.
        keep: How many entries of each to keep.
        cuts: What the previous call learnt about where the cut lies, from `new_cuts`; updated in place. It
            makes the call faster and changes no result.
    """
    _check_counts(scores, keep)
    try:
        if cuts is None:
            return torch.ops.supermask.select(scores, keep)
        masks = _new_masks(scores)
        torch.ops.supermask.select_into(masks, scores, keep, cuts)
        return masks
    except RuntimeError as error:
        raise _as_value_error(error) from None


def select_global(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Like `select`, with one count for all tensors ranked together; ties go to the earlier tensor."""
    _check_count(sum(score.numel() for score in scores), keep)
    try:
        return torch.ops.supermask.select_global(scores, keep)
    except RuntimeError as error:
        raise _as_value_error(error) from None


def new_cuts(scores: Sequence[Tensor]) -> Tensor:
    """An empty memory of cuts for `select` and `edge_popup_sgd`, on the scores' device.

    Its content is the backends' own business, and any content gives the same masks.
    """
    return torch.zeros(len(scores), 2, dtype=torch.int64, device=scores[0].device)


def straight_through(
    grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]
) -> list[Tensor]:
    """dL/ds = sign(s) · W · dL/dW_eff, the straight-through rule of edge-popup, in the scores' dtype.

    Scores and weights are float32 or float64, contiguous or not; gradients of any float type.
    """
    return torch.ops.supermask.straight_through(grads, weights, scores)


def write_masked(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Write W ⊙ M into `out`, cast to its dtype and laid out in its memory format."""
    torch.ops.supermask.write_masked(out, weights, masks)
    # Autograd must see that the tensors changed, whoever wrote them.
    torch.autograd.graph.increment_version(out)


def edge_popup_sgd(
    out: Sequence[Tensor],
    scores: Sequence[Tensor],
    velocities: Sequence[Tensor],
    grads: Sequence[Tensor],
    weights: Sequence[Tensor],
    keep: Sequence[int],
    cuts: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> list[Tensor]:
    """A whole step of edge-popup with `torch.optim.SGD` in one pass, bit for bit what the parts leave.

    Straight-through gradients move `scores` and, with momentum, `velocities` (SGD's momentum buffers);
    the `keep[i]` largest |scores[i]| are selected and W ⊙ M is written into `out`.

    Returns:
        The masks.

    Raises:
        ValueError: A score is no longer finite. `scores` have moved then, and `out` holds anything.
    """
    _check_counts(scores, keep)
    masks = _new_masks(scores)
    options = (lr, momentum, dampening, weight_decay, nesterov)
    try:
        torch.ops.supermask.edge_popup_sgd(
            out, masks, scores, velocities, grads, weights, keep, cuts, *options
        )
    except RuntimeError as error:
        raise _as_value_error(error) from None
    finally:
        torch.autograd.graph.increment_version(out)
    return masks


def pack_mask(mask: Tensor) -> Tensor:
    """A bool mask of any shape as ceil(n / 8) uint8: row-major, least significant bit first."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, not {mask.dtype}")
    return torch.ops.supermask.pack_mask(mask)


def unpack_mask(packed: Tensor, numel: int) -> Tensor:
    """The first `numel` bits of `packed` as a flat bool tensor."""
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != -(-numel // 8):
        raise ValueError(
            f"{numel} mask bits take {-(-numel // 8)} bytes in one dimension, "
            f"not {packed.dtype} of shape {tuple(packed.shape)}"
        )
    return torch.ops.supermask.unpack_mask(packed, numel)


def _check_counts(scores: Sequence[Tensor], keep: Sequence[int]) -> None:
    if len(scores) != len(keep):
        raise ValueError(f"{len(scores)} score tensors but {len(keep)} counts to keep")
    for score, count in zip(scores, keep, strict=True):
        _check_count(score.numel(), count)


def _check_count(numel: int, count: int) -> None:
    if not 0 <= count <= numel:
        raise ValueError(f"keep must lie in [0, {numel}], the size of the scores, not {count}")


def _as_value_error(error: RuntimeError) -> Exception:
    """The exception of the reference for a compiled kernel's complaint about values."""
    return ValueError("scores are not finite") if "scores are not finite" in str(error) else error
